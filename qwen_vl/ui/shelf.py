"""What the server keeps for a browser tab between its requests, within a bound in bytes.

The least recently used value of all sessions goes first. Values that nobody has used for a while go
too, because a browser may leave without a word. Knows nothing of pictures, frames or pages.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Shelf(Generic[Value]):
    """Values by (session, name). `on_drop` is told of each value that leaves, in any thread."""

    def __init__(
        self, most_bytes: int, keep_s: float, on_drop: Callable[[Value], object] | None = None
    ) -> None:
        self.most_bytes = most_bytes
        self.keep_s = keep_s
        self._on_drop = on_drop
        self._lock = threading.Lock()
        self._items: OrderedDict[tuple[str, Hashable], tuple[Value, int, float]] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        return self._bytes

    def put(self, session: str, name: Hashable, value: Value, size_bytes: int) -> None:
        """Keeps `value` in place of an older one. Drops what no longer fits."""
        with self._lock:
            dropped = [self._take(key) for key in [(session, name)] if key in self._items]
            self._items[session, name] = value, size_bytes, time.monotonic()
            self._bytes += size_bytes
            dropped += self._over_the_bound()
        self._drop(dropped)

    def get(self, session: str, name: Hashable) -> Value | None:
        """The value under that name, if it is still kept."""
        with self._lock:
            found = self._items.get((session, name))
            if found is not None:
                self._items[session, name] = found[0], found[1], time.monotonic()
                self._items.move_to_end((session, name))
            dropped = self._over_the_bound()
        self._drop(dropped)
        return None if found is None else found[0]

    def forget(self, session: str, name: Hashable = None) -> None:
        """Drops one value of a session, or all that it has."""
        with self._lock:
            keys = [key for key in self._items if key[0] == session and name in (None, key[1])]
            dropped = [self._take(key) for key in keys]
        self._drop(dropped)

    def _over_the_bound(self) -> list[Value]:
        dropped = []
        oldest = time.monotonic() - self.keep_s
        while self._items:
            key, (_, _, used) = next(iter(self._items.items()))
            if used >= oldest and (self._bytes <= self.most_bytes or len(self._items) == 1):
                break
            dropped.append(self._take(key))
        return dropped

    def _take(self, key: tuple[str, Hashable]) -> Value:
        value, size_bytes, _ = self._items.pop(key)
        self._bytes -= size_bytes
        return value

    def _drop(self, values: list[Value]) -> None:
        for value in values:
            if self._on_drop is not None:
                self._on_drop(value)
