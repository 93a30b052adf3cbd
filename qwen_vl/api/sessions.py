"""Conversations that the server remembers for clients that do not: `/stream_chat`.

Bounded in number and in the bytes of their pictures; what was used longest ago is forgotten first.
Knows messages. Knows nothing of HTTP or engines.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
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
        used = sum(picture_bytes(session.messages) for session in self._sessions.values())
        idle: Sequence[tuple[tuple[str, str], Session]] = [
            item for item in self._sessions.items() if not item[1].busy
        ]
        for key, session in idle:
            too_many = len(self._sessions) > MAX_SESSIONS or used > MAX_BYTES
            if too_many or now_s - session.used_s > KEPT_S:
                used -= picture_bytes(session.messages)
                del self._sessions[key]
