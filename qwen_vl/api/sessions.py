"""Conversations that the server remembers for clients that do not: `/stream_chat`.

Bounded in number and in the bytes of their pictures. When there are too many, the owner with the
most sessions loses the oldest one: nobody can push out what belongs to others. Knows messages.
Knows nothing of HTTP or engines.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from qwen_vl.errors import Conflict
from qwen_vl.schema import Message, picture_bytes

MAX_SESSIONS = 1000
MAX_BYTES = 512 * 2**20
KEPT_S = 3600.0


@dataclass
class Session:
    """One conversation so far."""

    messages: list[Message] = field(default_factory=list)
    used_s: float = 0.0
    busy: bool = False


class Sessions:
    """Sessions by (owner, id)."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, owner: str, session_id: str) -> Iterator[Session]:
        """One request at a time. Raises Conflict while another one of the session is answered."""
        key, now_s = (owner, session_id), time.monotonic()
        with self._lock:
            self._forget(now_s)
            session = self._sessions.setdefault(key, Session())
            if session.busy:
                raise Conflict("This session is still answering: wait for that, or use another.")
            session.busy, session.used_s = True, now_s
            self._sessions.move_to_end(key)
        try:
            yield session
        finally:
            with self._lock:
                session.busy, session.used_s = False, time.monotonic()
                self._forget(session.used_s)

    def __len__(self) -> int:
        return len(self._sessions)

    def _forget(self, now_s: float) -> None:
        for key, session in list(self._sessions.items()):
            if not session.busy and now_s - session.used_s > KEPT_S:
                del self._sessions[key]
        self._share_out(dict.fromkeys(self._sessions, 1), MAX_SESSIONS)
        sizes = {key: picture_bytes(one.messages) for key, one in self._sessions.items()}
        self._share_out(sizes, MAX_BYTES)

    def _share_out(self, sizes: dict[tuple[str, str], int], most: int) -> None:
        """Forgets idle sessions of the owner with the most, oldest first, until `most` are left."""
        total = sum(sizes.values())
        of: Counter[str] = Counter()
        for (owner, _), size in sizes.items():
            of[owner] += size
        while total > most:
            idle = [key for key in self._sessions if not self._sessions[key].busy and sizes[key]]
            if not idle:
                return
            key = max(idle, key=lambda key: of[key[0]])  # the first of these: the oldest
            total -= sizes[key]
            of[key[0]] -= sizes[key]
            del self._sessions[key]
