"""Servers behind the gate: the API alone, or the whole app; and clients that speak raw TCP."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
from fastapi import FastAPI

from qwen_vl import api
from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.gate import Gate
from qwen_vl.gate.server import Server, listen
from qwen_vl.jobs import Jobs
from qwen_vl.metrics import Measured, Metrics

PATIENCE_S = 20  # what a test waits for happens soon; this only ends a test that fails


@contextlib.contextmanager
def gated(
    engine: Engine, settings: Settings | None = None, is_ending: Callable[[], bool] = lambda: False
) -> Iterator[httpx.Client]:
    """The API behind the gate on a free port, as the app has it, without the page."""
    settings, metrics = settings or Settings(), Metrics()
    measured = Measured(engine, metrics)
    jobs = Jobs(measured, file=":memory:", keep_s=3600, most=settings.max_jobs)
    routes = api.build_router(measured, settings, jobs, metrics, is_ending).routes
    inner = FastAPI(routes=routes, openapi_url=None, docs_url=None, redoc_url=None)
    sockets = listen("127.0.0.1", 0)
    server = Server(Gate(inner, settings), sockets)
    server.run_in_thread()
    port = sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            yield client
    finally:
        jobs.close()
        engine.close()
        server.close()


@contextlib.contextmanager
def whole_app(
    engine: Engine, settings: Settings, stop: threading.Event | None = None
) -> Iterator[httpx.Client]:
    """Page and API as `app.py` starts them, in this process, until `stop` is set or it is left."""
    import app

    sockets, stop = listen(settings.host, 0), stop or threading.Event()
    thread = threading.Thread(target=app.serve, args=(settings, engine, stop, sockets), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            assert client.get("/health").status_code == 200  # waits until the server takes it
            yield client
    finally:
        stop.set()
        thread.join(2 * PATIENCE_S)
        assert not thread.is_alive()


def wire(client: httpx.Client) -> socket.socket:
    """A TCP connection to the server of `client`."""
    address = (client.base_url.host, client.base_url.port)
    return socket.create_connection(address, timeout=PATIENCE_S)


def head(path: str, *lines: str, method: str = "POST", host: str = "127.0.0.1") -> bytes:
    """The head of a request."""
    first = (f"{method} {path} HTTP/1.1", f"Host: {host}")
    return "\r\n".join([*first, *lines, "", ""]).encode("latin-1")


def answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes, or b"" if it cuts the connection."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            got += piece
    return got


def soon(is_so: Callable[[], bool]) -> bool:
    """Whether it becomes so."""
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True
