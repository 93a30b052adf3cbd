"""TCP connections: idle ones do not stay, stuck ones are cut, and one more always finds room.

uvicorn waits for ever for a request's headers and for a slow reader. So this is a small subclass of
its HTTP protocol. Knows uvicorn. Knows nothing of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from qwen_vl.gate.rates import network_of

LOOK_S = 5.0  # between two looks at all connections
HEAD_S = 20.0  # for a request's head, and for silence before it
STUCK_S = 60.0  # without a byte taken by the client
MOST = 4000
MOST_FILES = 65_536


def raise_file_limit() -> int:
    """Lets this process open as many files and sockets as it may; how many that is."""
    try:
        import resource  # not on Windows, where sockets are not files
    except ImportError:
        return MOST_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


class Room:
    """All connections of one server: at most `most`, of which one address has three quarters.

    A newcomer takes the place of the connection that has been idle for longest.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[Connection] = set()
        self._idle: OrderedDict[Connection, float] = OrderedDict()  # since when, in s
        self._of: Counter[str] = Counter()
        self._look: asyncio.TimerHandle | None = None

    def enter(self, connection: Connection) -> bool:
        """Whether there is room for it."""
        address = connection.address
        if self._of[address] >= self._most * 3 // 4:
            idle = next((one for one in self._idle if one.address == address), None)
        elif len(self._open) >= self._most:
            idle = next(iter(self._idle), None)
        else:
            return self._let_in(connection)
        if idle is None:
            return False
        idle.cut()
        self.leave(idle)
        return self._let_in(connection)

    def _let_in(self, connection: Connection) -> bool:
        self._open.add(connection)
        self._of[connection.address] += 1
        self.is_idle(connection)
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_S, self._look_around)
        return True

    def leave(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        if connection in self._open:
            self._open.remove(connection)
            self._of[connection.address] -= 1
            self._of += Counter()  # drops what is 0

    def is_idle(self, connection: Connection) -> None:
        self._idle.setdefault(connection, time.monotonic())

    def is_busy(self, connection: Connection) -> None:
        self._idle.pop(connection, None)

    def _look_around(self) -> None:
        now_s = time.monotonic()
        for connection in list(self._open):
            since_s = self._idle.get(connection)
            connection.look(now_s, is_idle=since_s is not None and now_s - since_s > HEAD_S)
        self._look = None
        if self._open:
            self._look = asyncio.get_running_loop().call_later(LOOK_S, self._look_around)


class Connection(H11Protocol):
    """One connection. `room` knows all of them."""

    def __init__(self, *args: Any, room: Room, **more: Any) -> None:
        super().__init__(*args, **more)
        self._room = room
        self._unread_bytes, self._moved_s = 0, time.monotonic()
        self.address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = network_of(self.client[0]) if self.client else ""
        if not self._room.enter(self):
            self.cut()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._tell()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        if self.cycle is not None:  # a body that is no HTTP: nothing more can be said
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._room.leave(self)
        super().connection_lost(exc)

    def _tell(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self._room.is_idle(self)
        else:
            self._room.is_busy(self)

    def look(self, now_s: float, is_idle: bool) -> None:
        """Ends a connection that waits for nothing, or for a client that does not read."""
        unread_bytes = self.transport.get_write_buffer_size()
        if not unread_bytes or unread_bytes < self._unread_bytes:
            self._moved_s = now_s
        self._unread_bytes = unread_bytes
        if (is_idle and not unread_bytes) or now_s - self._moved_s > STUCK_S:
            self.cut()

    def cut(self) -> None:
        """Ends it at once."""
        self.transport.abort()

    def _should_upgrade(self) -> bool:
        return False  # no websockets here, and no lines in the log about who asks for them
