"""Conversations that the server remembers for clients: of `/stream_chat`, and stored responses.

Bounded in number and in bytes. When there are too many, the owner with the most loses the oldest
one: nobody can push out what belongs to others. Knows messages. Knows nothing of HTTP or engines.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from qwen_vl.errors import Conflict
from qwen_vl.schema import Message, TextPart, picture_bytes

MAX_SESSIONS = 1000
MAX_BYTES = 512 * 2**20
KEPT_S = 3600.0

Key = tuple[str, Literal["session", "response"], str]  # the owner, which kind, its name


@dataclass
class Session:
    """One conversation so far."""

    messages: Sequence[Message] = field(default_factory=list)
    told: bytes = b""  # of a stored response: its object
    items: frozenset[str] = frozenset()  # of a stored response: the ids in it
    used_s: float = 0.0
    busy: bool = False
    held_bytes: int = 0

    def measure(self) -> None:
        parts = [part for message in self.messages for part in message.parts]
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        texts += [message.thought for message in self.messages]
        texts += [call.arguments for message in self.messages for call in message.calls]
        self.held_bytes = picture_bytes(self.messages) + len(self.told)
        self.held_bytes += sum(sys.getsizeof(text) for text in texts if text)


class Sessions:
    """Sessions and stored responses, each by its owner and a name."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[Key, Session] = OrderedDict()  # the latest used last
        self._lock = threading.Lock()

    @contextmanager
    def use(self, owner: str, session_id: str) -> Iterator[Session]:
        """One request at a time. Raises Conflict while another one of the session is answered."""
        key: Key = (owner, "session", session_id)
        now_s = time.monotonic()
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
                session.measure()
                self._forget(session.used_s)

    def keep(self, owner: str, name: str, response: Session) -> None:
        """Stores a response, which nothing changes any more."""
        response.measure()
        with self._lock:
            response.used_s = time.monotonic()
            self._sessions[owner, "response", name] = response
            self._forget(response.used_s)

    def find(self, owner: str, name: str) -> Session | None:
        """A stored response, which counts as used."""
        key: Key = (owner, "response", name)
        with self._lock:
            self._forget(time.monotonic())
            found = self._sessions.get(key)
            if found is not None:
                found.used_s = time.monotonic()
                self._sessions.move_to_end(key)
            return found

    def find_item(self, owner: str, item_id: str) -> Session | None:
        """The stored response that an item belongs to."""
        with self._lock:
            self._forget(time.monotonic())
            for (of, _, _), one in self._sessions.items():
                if of == owner and item_id in one.items:
                    return one
            return None

    def drop(self, owner: str, name: str) -> bool:
        """Forgets a stored response; False where there is none."""
        with self._lock:
            return self._sessions.pop((owner, "response", name), None) is not None

    def __len__(self) -> int:
        return len(self._sessions)

    def _forget(self, now_s: float) -> None:
        for key, session in list(self._sessions.items()):
            if not session.busy and now_s - session.used_s > KEPT_S:
                del self._sessions[key]
        self._share_out(dict.fromkeys(self._sessions, 1), MAX_SESSIONS)
        sizes = {key: one.held_bytes for key, one in self._sessions.items()}
        self._share_out(sizes, MAX_BYTES)

    def _share_out(self, sizes: dict[Key, int], most: int) -> None:
        """Forgets what is idle of the owner with the most, oldest first, until `most` are left."""
        total = sum(sizes.values())
        of: Counter[str] = Counter()
        for (owner, _, _), size in sizes.items():
            of[owner] += size
        while total > most:
            idle = [key for key in self._sessions if not self._sessions[key].busy and sizes[key]]
            if not idle:
                return
            key = max(idle, key=lambda key: of[key[0]])  # the first of these: the oldest
            total -= sizes[key]
            of[key[0]] -= sizes[key]
            del self._sessions[key]
