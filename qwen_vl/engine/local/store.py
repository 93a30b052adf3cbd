"""Bounded memory that scopes share: each has a fair share that no other scope can take.

A scope is one API key or one page session. Knows what each entry weighs, and not what it is.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

SHARED = "\0shared"  # the scope of what the server itself sets: everybody sees it
IDLE_S = 300.0  # a scope that asked for nothing for so long makes room first

V = TypeVar("V")


@dataclass(eq=False)
class _Scope(Generic[V]):
    """What one scope holds: value and size by key, used longest ago first."""

    used_s: float
    entries: OrderedDict[Hashable, tuple[V, int]] = field(default_factory=OrderedDict)
    size_bytes: int = 0


class FairStore(Generic[V]):
    """At most `limit_bytes` of values. Not safe to share between threads: the owner locks.

    Room is made in the scope that was idle longest, if one was idle for IDLE_S, or else in the one
    that holds the most. There the entry that was used longest ago goes first.
    """

    def __init__(self, limit_bytes: int, now: Callable[[], float] = time.monotonic) -> None:
        self.limit_bytes = limit_bytes
        self._now = now
        self._scopes: dict[str, _Scope[V]] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return sum(len(held.entries) for held in self._scopes.values())

    def entries(self, scope: str) -> list[tuple[Hashable, V]]:
        """Everything of one scope, by key."""
        held = self._scopes.get(scope)
        return [(key, value) for key, (value, _) in held.entries.items()] if held else []

    def get(self, scope: str, key: Hashable) -> V | None:
        """What is kept under this key, which counts as a use; None if nothing is."""
        held = self._scopes.get(scope)
        if held is None or key not in held.entries:
            return None
        held.used_s = self._now()
        held.entries.move_to_end(key)
        return held.entries[key][0]

    def make_room(self, scope: str, size_bytes: int, replaced: Sequence[Hashable] = ()) -> bool:
        """Drops what must go for `size_bytes` more, the scope's own `replaced` ones first.

        Returns False, and drops nothing, if the scope's share is too small.
        """
        victims = self._victims(scope, size_bytes, replaced)
        if victims is None:
            return False
        for where, key in victims:
            self.drop(where, key)
        return True

    def put(self, scope: str, key: Hashable, value: V, size_bytes: int) -> bool:
        """Keeps a value; False if there is no room for it."""
        if not self.make_room(scope, size_bytes, [key]):
            return False
        held = self._scopes.setdefault(scope, _Scope(self._now()))
        held.used_s = self._now()
        held.entries[key] = (value, size_bytes)
        held.size_bytes += size_bytes
        self.size_bytes += size_bytes
        return True

    def drop(self, scope: str, key: Hashable) -> None:
        """Forgets one value, if it is there."""
        held = self._scopes.get(scope)
        if held is None or key not in held.entries:
            return
        _, size_bytes = held.entries.pop(key)
        held.size_bytes -= size_bytes
        self.size_bytes -= size_bytes
        if not held.entries:
            del self._scopes[scope]

    def clear(self) -> None:
        self._scopes.clear()
        self.size_bytes = 0

    def _victims(
        self, scope: str, size_bytes: int, replaced: Sequence[Hashable]
    ) -> list[tuple[str, Hashable]] | None:
        """(scope, key) of what has to go; None if that would break another scope's share."""
        own = self._scopes.get(scope)
        entries = own.entries if own else {}
        victims = [(scope, key) for key in replaced if key in entries]
        size_bytes -= sum(entries[key][1] for _, key in victims)
        excess = self.size_bytes + size_bytes - self.limit_bytes
        if excess <= 0:
            return victims
        now_s = self._now()
        weights = {name: held.size_bytes for name, held in self._scopes.items()}
        weights[scope] = weights.get(scope, 0) + size_bytes
        over_s = {
            name: max(0.0, now_s - held.used_s - IDLE_S) for name, held in self._scopes.items()
        }
        over_s[scope] = 0.0  # it is asking right now
        left = {
            name: [(key, held.entries[key][1]) for key in reversed(held.entries)]
            for name, held in self._scopes.items()
        }
        left[scope] = [pair for pair in left.get(scope, []) if pair[0] not in replaced]
        while excess > 0:
            heaviest = max(weights, key=lambda name: (over_s[name], weights[name]))
            if not left[heaviest]:  # what comes in outweighs all that another one keeps
                return None
            key, freed_bytes = left[heaviest].pop()
            victims.append((heaviest, key))
            weights[heaviest] -= freed_bytes
            excess -= freed_bytes
            if not left[heaviest] and heaviest != scope:
                del weights[heaviest]
        return victims
