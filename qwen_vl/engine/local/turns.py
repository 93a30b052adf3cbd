"""Whose turn it is to decode pictures, and how much of a waiting line one scope may fill.

Runs in the callers' threads. Knows nothing of pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from qwen_vl.errors import UserError

MOST_ACTIVE = (
    2  # requests that handle pixels; each holds one decoded picture and what it has scaled
)
OTHERS_SHARE = 4  # of every OTHERS_SHARE places in a line, one is left to other scopes


def is_full(waiting: Sequence[str], scope: str, most: int) -> bool:
    """Whether a line of requests of these scopes, at most `most`, takes no more of this scope."""
    return len(waiting) >= most or waiting.count(scope) >= share_of(most)


def share_of(most: int) -> int:
    """How many of `most` places one scope may take."""
    return most - most // OTHERS_SHARE


class Turns:
    """At most MOST_ACTIVE requests handle pixels at a time, those of the least busy scopes first.

    `most_waiting` may wait for that; `busy` makes the refusal of one more.
    """

    def __init__(self, most_waiting: int, busy: Callable[[], UserError]) -> None:
        self._most_waiting = most_waiting
        self._busy = busy
        self._changed = threading.Condition()
        self._active: list[str] = []  # the scope of each
        self._waiting: dict[object, str] = {}  # in the order in which they came

    @contextmanager
    def turn(self, scope: str) -> Iterator[None]:
        """Waits for a turn, and holds it. Raises what `busy` makes."""
        mine = object()
        with self._changed:
            line = list(self._waiting.values())
            if len(self._active) >= MOST_ACTIVE and is_full(line, scope, self._most_waiting):
                raise self._busy()
            self._waiting[mine] = scope
            self._changed.wait_for(lambda: len(self._active) < MOST_ACTIVE and self._next() is mine)
            del self._waiting[mine]
            self._active.append(scope)
            self._changed.notify_all()  # there may be room for one more
        try:
            yield
        finally:
            with self._changed:
                self._active.remove(scope)
                self._changed.notify_all()

    def _next(self) -> object:
        return min(self._waiting, key=lambda one: self._active.count(self._waiting[one]))
