"""`python app.py` in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240  # what a test waits for takes seconds, on a busy machine a minute


@contextlib.contextmanager
def started(
    *flags: str,
    command: Sequence[str] = (sys.executable, "app.py"),
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The app in a process of its own, once it answers."""
    port = free_port()
    process = subprocess.Popen(
        [*command, "--model", "bundled", "--port", str(port), *flags],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S)
    try:
        end_s = time.monotonic() + PATIENCE_S
        while not _is_ready(client):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < end_s, "the app does not get ready"
            time.sleep(0.05)
        yield process, client
    finally:
        client.close()
        process.kill()
        process.wait()
        process.stdout.close()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def drain(process: subprocess.Popen[str]) -> None:
    """Throws away what the app says from now on; a full pipe would hold it up."""

    def read() -> None:
        with contextlib.suppress(ValueError):  # closed
            for _ in process.stdout:
                pass

    threading.Thread(target=read, daemon=True).start()
