"""The program of a decoding process: one file after another, each in a fork of its own.

Knows its budget and how to keep to it. The process that waits for requests never sees a file: it
has only imported what decodes them. Each file goes to a fork, so nothing of one visitor's file can
be in the memory of the next one's decoder, written or not. Where there is no good fork (macOS,
Windows) a process reads one file and ends.

A fork bounds its memory and cannot open files or addresses once it reads. An alarm ends it if the
server is gone. `pictures`, `clips` and `documents` do the reading.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
import traceback
from io import FileIO
from pathlib import Path
from typing import Any

from qwen_vl.config import Settings
from qwen_vl.errors import UserError
from qwen_vl.media.decoders import CLOCK_FACTOR, SIGNAL_STATUS, out_of_memory, pictures, wire

_CAN_FORK = sys.platform == "linux"
_NICENESS = 5  # answers of the model go first
_PDEATHSIG = 1  # prctl: die with the process that forked this one


def main() -> None:
    """Serves until stdin ends. What libraries print goes nowhere."""
    pipe_in, pipe_out = FileIO(os.dup(0), "r"), FileIO(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    with contextlib.suppress(EOFError):
        while True:
            request, size = wire.receive(pipe_in)
            _reader_of(request)  # imported here, for all that are forked
            if not _CAN_FORK:
                return _serve(request, size, pipe_in, pipe_out)
            child = os.fork()
            if not child:
                _serve(request, size, pipe_in, pipe_out)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status:
                os._exit(SIGNAL_STATUS - min(status, 0))


def _serve(request: dict[str, Any], size: int, pipe_in: FileIO, pipe_out: FileIO) -> None:
    """Does one request and says how it ended; a bug is told with its traceback."""
    end = {"end": "go on" if _CAN_FORK else "last"}
    try:
        _end_in_time(request["limit_s"])
        settings = Settings(**request["settings"])
        reader = _reader_of(request)
        if request["do"] == "clip":
            with Path(request["path"]).open("rb") as file:
                _bound(request["memory_bytes"], request["limit_s"])
                for header, pixels in reader.read(file, request, settings):
                    wire.send(pipe_out, header, pixels)
        else:
            data = bytes(wire.read(pipe_in, size))
            _bound(request["memory_bytes"], request["limit_s"])
            for header, pixels in reader.read(data, request, settings):
                wire.send(pipe_out, header, pixels)
    except UserError as error:
        end |= {"error": type(error).__name__, "text": str(error)}
    except MemoryError:
        end |= {"error": "TooLarge", "text": out_of_memory(request["what"])}
    except Exception:  # noqa: BLE001 - raised again in the server
        end |= {"error": "bug", "text": traceback.format_exc()[-4000:]}
    wire.send(pipe_out, end)


def _reader_of(request: dict[str, Any]) -> Any:
    """What reads it. OpenCV, FFmpeg and PDFium load when the first file comes that needs them."""
    if request["do"] == "clip":
        from qwen_vl.media.decoders import clips

        return clips
    if request["do"] == "pages":
        from qwen_vl.media.decoders import documents

        return documents
    return pictures


def _end_in_time(limit_s: float) -> None:
    """The server kills earlier. This alarm is for the case that the server is gone."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, limit_s * CLOCK_FACTOR + 2)
    if _CAN_FORK:
        import ctypes

        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


def _bound(memory_bytes: int, cpu_s: float) -> None:
    """Limits memory and time from here on. Forbids further files, sockets and core files."""
    try:
        import resource
    except ImportError:  # Windows: the time limit is all there is
        return
    used_s = time.process_time()  # importing included, where nothing is forked
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, math.ceil(used_s + cpu_s)),
    ):
        resource.setrlimit(kind, (limit, limit))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


if __name__ == "__main__":
    main()
