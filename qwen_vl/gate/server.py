"""The HTTP server in a thread of its own, behind the gate, on sockets that are bound at once.

Knows uvicorn. Knows nothing of Gradio, whose own server this stands in for.
"""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from typing import Any

import uvicorn

from qwen_vl.gate.connections import MOST, Connection, Room, raise_file_limit

START_S = 60.0
END_S = 5.0  # for last words to clients; pages' event streams never end by themselves


class PortTaken(Exception):
    """What cannot be listened on, in one line."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on all addresses of `host`; port 0 is a free one. Raises PortTaken."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        places = {(family, address[0]): None for family, *_, address in found}
        for family, address in places:
            sockets.append(socket.create_server((str(address), port), family=family, backlog=2048))
            port = sockets[0].getsockname()[1]
    except OSError as error:
        for one in sockets:
            one.close()
        raise PortTaken(
            f"Cannot listen on {host} port {port} ({error.strerror}): choose another with --port "
            "(0 picks a free one) or --host."
        ) from error
    return sockets


class Server(uvicorn.Server):
    """`run_in_thread` and `close` are what Gradio calls."""

    def __init__(self, app: Any, sockets: list[socket.socket]) -> None:
        # Half of the files that may be open: the rest is for pictures, clips and their workers.
        room = Room(min(MOST, raise_file_limit() // 2))
        config = uvicorn.Config(
            app,
            port=sockets[0].getsockname()[1],  # `spaces` closes in its forks what is on it
            log_level="warning",
            http=partial(Connection, room=room),  # type: ignore[arg-type]
            ws="none",
            proxy_headers=False,  # the gate decides whom to believe
        )
        super().__init__(config)
        self.running_app = app
        self._sockets = sockets
        self._thread = threading.Thread(
            target=self.run, args=(sockets,), name="server", daemon=True
        )

    def run_in_thread(self) -> None:
        """Returns once requests are taken."""
        self._thread.start()
        end_s = time.monotonic() + START_S
        while not self.started:
            if not self._thread.is_alive() or time.monotonic() > end_s:
                raise RuntimeError("the HTTP server does not start; the log above says why")
            time.sleep(0.001)

    def close(self) -> None:
        """Takes no more requests, and lets the others end."""
        self.should_exit = True
        self._thread.join(END_S)
        for one in self._sockets:
            one.close()
