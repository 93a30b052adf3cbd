"""Servers in processes of their own, for the benchmark against a peer.

Starts them, one at a time, waits until they answer, reads their memory and ends them. Knows nothing
of what they are asked. Peak memory is read from /proc, so this is for Linux.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

READY_WITHIN_S = 900.0  # a first start rounds the weights
ANSWER_WITHIN_S = 1800.0
STOP_WITHIN_S = 30.0
LOG_LINES = 15  # of a server that failed


class PeerFailed(Exception):
    """This comparison cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Server:
    """A server with `/health` and the OpenAI API: its command takes `--port` at the end."""

    name: str
    command: Sequence[str]


@dataclass(frozen=True)
class Running:
    """A server that answers; `ready_s` after its process began."""

    name: str
    client: httpx.Client
    ready_s: float
    pid: int

    def peak_gib(self) -> float:
        """The most resident memory that the server and its children each had, in all.

        Children that have ended do not count.
        """
        family = psutil.Process(self.pid)
        return sum(map(_peak_kib, [family, *family.children(recursive=True)])) / 2**20


def _peak_kib(process: psutil.Process) -> int:
    try:
        told = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    return sum(int(line.split()[1]) for line in told if line.startswith("VmHWM"))


@contextmanager
def running(server: Server, log: Path) -> Iterator[Running]:
    """Starts a server, and ends it after the block. What it says goes to the file `log`.

    Raises PeerFailed when it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*server.command, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as said:
        start_s = time.perf_counter()
        try:
            process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        except OSError as error:
            raise PeerFailed(f"{server.name} cannot be started: {error}") from error
    options: dict[str, Any] = {
        "base_url": f"http://127.0.0.1:{port}",
        "timeout": ANSWER_WITHIN_S,
        "trust_env": False,
        # A connection for each request: one that is kept may be closed just as it is used again.
        "limits": httpx.Limits(max_keepalive_connections=0),
    }
    try:
        with httpx.Client(**options) as client:
            while not _answers(client):
                if process.poll() is not None:
                    raise PeerFailed(f"{server.name} ended while it started:\n{_tail(log)}")
                if time.perf_counter() - start_s > READY_WITHIN_S:
                    raise PeerFailed(f"{server.name} does not get ready:\n{_tail(log)}")
                time.sleep(0.05)
            yield Running(server.name, client, time.perf_counter() - start_s, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
