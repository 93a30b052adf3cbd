"""A few processes that decode untrusted files, each with a budget of time and memory.

A decoder in a thread could not be stopped. A process is killed when its time is up, when its memory
is used up, or when nobody waits any more. Knows processes, budgets and whose turn it is. Does not
know pictures, clips or documents: the caller and `worker` agree on those.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwen_vl import errors
from qwen_vl.media.decoders import wire

MAX_WORKERS = 2
MAX_WAITING = 16
MAX_WAIT_S = 60.0
CLOCK_FACTOR = 2  # where the machine is busy, a limit on CPU seconds lasts up to this much longer
LARGE_BYTES = 160 << 20  # what needs more than this is decoded one at a time
_SLOW = ("video", "document")
_POLL_S = 0.05
_ROOT = Path(__file__).resolve().parents[3]
SIGNAL_STATUS = 128  # a worker ends with this plus the signal that what it forked died of

OnMessage = Callable[[dict[str, Any], bytearray], None]


class Decoders:
    """Workers, and the line of those who wait for one. Safe under many threads.

    Nothing is started before the first call. At most one worker reads a clip or a document, so that
    pictures never wait for those; and at most one of the others needs much memory.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: list[tuple[str, object]] = []  # (lane, ticket), first come first
        self._busy: list[str] = []  # the lanes of what is being decoded
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []

    def run(
        self,
        request: dict[str, Any],
        payload: bytes = b"",
        *,
        what: str,
        limit_s: float,
        memory_bytes: int,
        on_message: OnMessage,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Has a worker do `request`; `on_message` gets all that it says, in this thread.

        `what` is "picture", "video" or "document". Raises TooLarge (`limit_s` CPU seconds,
        CLOCK_FACTOR times that by the clock, or `memory_bytes` are used up), BadRequest (the
        decoder died of the file), Busy (too many wait), Abandoned (`should_stop` said yes, which is
        asked every few hundredths of a second, from another thread too) and what the worker raised.
        """
        is_large = memory_bytes > LARGE_BYTES
        lane = "slow" if what in _SLOW else "large" if is_large else "small"
        budget = {"what": what, "memory_bytes": memory_bytes, "limit_s": limit_s}
        with (
            self._place(lane, should_stop),
            self._worker() as worker,
            _Watch(worker, limit_s, should_stop) as watch,
        ):
            try:
                worker.say(request | budget, payload)
                while not (message := worker.hear())[0].get("end"):
                    on_message(*message)
            except _WorkerDied:
                cause = watch.cause or "stop" * worker.was_closed or _cause_of(worker.end())
                raise _refusal(cause, what, limit_s) from None
        if "error" in message[0]:
            raise _error_in(message[0])

    def close(self) -> None:
        """Ends all workers; who waits for one gets Abandoned. A later call starts new ones."""
        with self._changed:
            workers, idle, self._idle = list(self._workers), self._idle, []
        for worker in workers:
            if worker not in idle:
                worker.was_closed = True
                worker.kill()
        for worker in idle:
            self._forget(worker)

    @contextmanager
    def _place(self, lane: str, should_stop: Callable[[], bool]) -> Iterator[None]:
        """Waits until it is this caller's turn, and holds a place among the workers."""
        entry, end_s = (lane, object()), time.monotonic() + MAX_WAIT_S
        with self._changed:
            if len(self._line) >= MAX_WAITING:
                raise errors.Busy(_BUSY)
            self._line.append(entry)
            try:
                while not self._is_next(entry):
                    if should_stop():
                        raise errors.Abandoned(_ABANDONED)
                    if time.monotonic() > end_s:
                        raise errors.Busy(_BUSY)
                    self._changed.wait(_POLL_S)
                self._busy.append(lane)
            finally:
                self._line.remove(entry)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._busy.remove(lane)
                self._changed.notify_all()

    def _is_next(self, entry: tuple[str, object]) -> bool:
        if len(self._busy) >= MAX_WORKERS:
            return False
        free = (one for one in self._line if one[0] == "small" or one[0] not in self._busy)
        return next(free, None) is entry

    @contextmanager
    def _worker(self) -> Iterator[_Worker]:
        """A worker that is kept afterwards, if it is fit for another file."""
        with self._changed:
            worker = self._idle.pop() if self._idle else None
        if worker is not None and not worker.is_alive:
            self._forget(worker)
            worker = None
        if worker is None:
            worker = _Worker()
            self._workers.add(worker)
        try:
            yield worker
        finally:
            if worker.is_free and worker.is_alive:
                with self._changed:
                    self._idle.append(worker)
            else:
                worker.kill()
                self._forget(worker)

    def _forget(self, worker: _Worker) -> None:
        worker.end()
        self._workers.discard(worker)


class _Worker:
    """One process of `worker`. It ends by itself when its stdin is closed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qwen_vl.media.decoders.worker"],
            cwd=_ROOT,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what libraries say of hostile files helps nobody
            start_new_session=True,  # Ctrl+C is for the server, which still has to finish
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.was_closed = False
        self.is_free = True  # whether it has finished what it was told to do

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def say(self, request: dict[str, Any], payload: bytes) -> None:
        self.is_free = False
        try:
            wire.send(self._stdin, request, payload)
        except OSError:
            raise _WorkerDied from None

    def hear(self) -> tuple[dict[str, Any], bytearray]:
        try:
            header, size = wire.receive(self._stdout)
            body = wire.read(self._stdout, size)
        except (OSError, EOFError, ValueError):  # dead, or it talks nonsense
            raise _WorkerDied from None
        self.is_free = header.get("end") == "go on"
        return header, body

    def kill(self) -> None:
        """Ends the process and what it forked, from any thread."""
        if self.is_alive:
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> int:
        """Waits for the process. Returns its status; negative is the signal that it died of."""
        for pipe in (self._stdin, self._stdout):
            pipe.close()
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()


class _WorkerDied(Exception):
    """A worker has ended, was killed, or sent nonsense."""


class _Watch:
    """A thread that kills a worker when its time is up or nobody waits for it."""

    def __init__(self, worker: _Worker, limit_s: float, should_stop: Callable[[], bool]) -> None:
        self._worker, self._should_stop = worker, should_stop
        self._end_s = time.monotonic() + limit_s * CLOCK_FACTOR
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decoder-watch", daemon=True)
        self.cause = ""  # why it was killed, if it was

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_POLL_S):
            self.cause = "time" if time.monotonic() > self._end_s else "stop" * self._should_stop()
            if self.cause:
                return self._worker.kill()


def _error_in(header: dict[str, Any]) -> Exception:
    kind, text = _TELLABLE.get(str(header["error"])), str(header.get("text"))
    return kind(text) if kind else RuntimeError(f"in a decoder: {text}")


def _cause_of(status: int) -> str:
    """Why a worker died: its own status is negative, that of its fork is shifted."""
    number = -status if status < 0 else status - SIGNAL_STATUS
    return _CAUSES.get(number, "")


def _refusal(cause: str, what: str, limit_s: float) -> errors.UserError:
    if cause == "stop":
        return errors.Abandoned(_ABANDONED)
    if cause == "memory":
        return errors.TooLarge(out_of_memory(what))
    if cause == "time":
        return errors.TooLarge(_out_of_time(what, limit_s))
    return errors.BadRequest(
        f"The {what} is damaged: reading it ended the decoder. Save it again with another program."
    )


def out_of_memory(what: str) -> str:
    return f"Decoding the {what} needs more memory than is given to one. Scale it down."


def _out_of_time(what: str, limit_s: float) -> str:
    advice = _FASTER.get(what, "smaller one")
    return f"Decoding the {what} takes longer than {limit_s:g} seconds: send a {advice}."


_FASTER = {
    "video": "shorter or smaller one, or its frames",
    "document": "smaller one, or pictures of its pages",
}
_CAUSES = {
    **{9: "memory", 6: "memory"},  # SIGKILL of a machine without memory; C++ and Rust abort
    **{14: "time", 24: "time"},  # SIGALRM, SIGXCPU
}
_TELLABLE = {
    kind.__name__: kind for kind in (errors.BadRequest, errors.TooLarge, errors.UnsupportedMedia)
}
_ABANDONED = "Nobody waits for this picture or video any more."
_BUSY = "Many pictures and videos are being read. Try again in a few seconds."

POOL = Decoders()
atexit.register(POOL.close)
