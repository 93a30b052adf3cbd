"""Keeps the states of earlier prompts and answers, and finds the longest common prefix.

Compares content: token ids, and for visual tokens the hash of their picture, because pictures of
equal size have equal token ids. So a second, an edited and a regenerated turn all reuse what is
still equal. Where layers are recurrent, that is what comes before a snapshot. A prefix serves only
the scope that left it. The server's own system prompt serves all scopes from the start. So the
number of tokens found tells a scope nothing about others. Bounded in bytes. Knows nothing of models
or requests.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qwen_vl.engine.local.snapshots import MOST_SNAPSHOTS, thinned
from qwen_vl.engine.local.states import (
    Columns,
    Snapshot,
    States,
    columns_bytes,
    first,
    snapshot_bytes,
)
from qwen_vl.engine.local.store import FairStore
from qwen_vl.engine.model.prompt import Prompt

NONE: Mapping[int, Snapshot] = {}

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prefix:
    """The states of `keys`' tokens, in every layer.

    `snapshots` are the states of recurrent layers, by number of tokens; they share the columns.
    Without any, all layers can be cut anywhere.
    """

    keys: np.ndarray  # [tokens] int64, see `token_keys`
    columns: Sequence[Columns]
    snapshots: Mapping[int, Snapshot] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return columns_bytes(self.columns) + sum(map(snapshot_bytes, self.snapshots.values()))

    def usable(self, tokens: int) -> int:
        """How many of its first `tokens` tokens a prompt can begin with."""
        if not self.snapshots:
            return tokens
        return max((at for at in self.snapshots if at <= tokens), default=0)

    def first(self, tokens: int) -> States:
        """The states of the first tokens, of which `usable` gave the number, as views."""
        return States(first(self.columns, tokens), self.snapshots.get(tokens, []))


def token_keys(prompt: Prompt, image_token_id: int | None) -> np.ndarray:
    """What identifies each token, [tokens] int64: its id, or a negative hash for visual tokens."""
    keys = np.array(prompt.token_ids, dtype=np.int64)
    if not prompt.pictures:
        return keys
    visual = [_visual_keys(picture.content_key, picture.tokens) for picture in prompt.pictures]
    keys[keys == image_token_id] = np.concatenate(visual)
    return keys


def _visual_keys(content: str, tokens: int) -> np.ndarray:
    """Pictures that differ differ from their first token on: none is ever cut in the middle."""
    digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
    start = int.from_bytes(digest, "little") >> 2
    return -1 - (start + np.arange(tokens, dtype=np.int64))


class PrefixStore:
    """Prefixes by scope, at most `limit_bytes` of them (see `FairStore`). Any thread may look."""

    def __init__(self, limit_bytes: int, now: Callable[[], float] = time.monotonic) -> None:
        self._kept: FairStore[Prefix] = FairStore(limit_bytes, now)
        self._shared: list[Prefix] = []
        self._lock = threading.Lock()
        self._next_id = 0
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        return self._kept.size_bytes + sum(prefix.size_bytes for prefix in self._shared)

    def bound(self, limit_bytes: int) -> None:
        """Lowers the limit, while nothing is kept yet."""
        self._kept.limit_bytes = min(self._kept.limit_bytes, limit_bytes)

    @property
    def keeps(self) -> bool:
        """Whether anything is ever kept."""
        return self._kept.limit_bytes > 0

    def longest(self, keys: np.ndarray, scope: str = "") -> States:
        """Views on the states of the longest prefix of `keys` that this scope may see.

        Without the last token: it always runs, because its logits are needed. States of no token if
        none fits. Counts as a use.
        """
        with self._lock:
            prefix, length = self._best(keys, scope)
            self.hits += bool(length)
            self.misses += not length
            return prefix.first(length) if prefix else States()

    def peek(self, keys: np.ndarray, scope: str = "") -> States:
        """What `longest` would give now, without counting a hit or a miss."""
        with self._lock:
            prefix, length = self._best(keys, scope)
            return prefix.first(length) if prefix else States()

    def found(self, keys: np.ndarray, scope: str = "") -> int:
        """How many tokens `longest` would give now."""
        with self._lock:
            return self._best(keys, scope)[1]

    def _best(self, keys: np.ndarray, scope: str) -> tuple[Prefix | None, int]:
        """The prefix that shares the most tokens, which counts as a use, and how many."""
        own, length = None, 0
        for key, prefix in self._kept.entries(scope):
            if (usable := _usable(prefix, keys)) > length:
                own, length = key, usable
        everybodys = ((_usable(prefix, keys), prefix) for prefix in self._shared)
        longest, best = max(everybodys, key=lambda pair: pair[0], default=(0, None))
        if longest > length:
            return best, longest
        return (self._kept.get(scope, own), length) if length else (None, 0)

    def share(
        self,
        keys: np.ndarray,
        columns: Sequence[Columns],
        snapshots: Mapping[int, Snapshot] = NONE,
    ) -> None:
        """Keeps for everybody what the server itself sets, for as long as it runs. See `put`."""
        prefix = Prefix(keys, _copies(columns), snapshots)
        if prefix.size_bytes <= self._kept.limit_bytes:
            with self._lock:
                self._shared.append(prefix)
                self._kept.limit_bytes -= prefix.size_bytes

    def put(
        self,
        keys: np.ndarray,
        columns: Sequence[Columns],
        scope: str = "",
        snapshots: Mapping[int, Snapshot] = NONE,
    ) -> None:
        """Stores copies of the columns, in place of the scope's prefixes that they begin with.

        `snapshots` are taken over as they are; nothing after the last of them is of use. What is
        larger than the scope's share of the store is not kept.
        """
        if snapshots:
            keys, columns = keys[: max(snapshots)], first(columns, max(snapshots))
        with self._lock:
            own = self._kept.entries(scope)
            for key, longer in own:
                if _shared(longer.keys, keys) == len(keys):
                    self._add(scope, key, longer, snapshots)
                    return
            begun = [(key, old) for key, old in own if _shared(old.keys, keys) == len(old.keys)]
            new = Prefix(keys, columns, _joined([old for _, old in begun], snapshots))
            size_bytes = new.size_bytes
            # Room first: with the copies made before, memory would peak above the limit.
            if not self._kept.make_room(scope, size_bytes, [key for key, _ in begun]):
                return
        try:
            new = replace(new, columns=_copies(columns))
        except (MemoryError, RuntimeError) as error:  # only a lack of memory makes a copy fail
            log.warning("no memory to keep a prefix, all are dropped: %s", error)
            with self._lock:
                self._kept.clear()
            return
        with self._lock:
            self._kept.put(scope, self._next_id, new, size_bytes)
            self._next_id += 1

    def _add(
        self, scope: str, key: Hashable, prefix: Prefix, snapshots: Mapping[int, Snapshot]
    ) -> None:
        """Adds snapshots to a prefix that holds all columns already."""
        if snapshots.keys() - prefix.snapshots.keys():
            more = replace(prefix, snapshots=_joined([prefix], snapshots))
            self._kept.put(scope, key, more, more.size_bytes)


def _joined(earlier: Sequence[Prefix], snapshots: Mapping[int, Snapshot]) -> Mapping[int, Snapshot]:
    """The snapshots of a sequence and of its beginnings, as many as are kept of one sequence."""
    known: dict[int, Snapshot] = {}
    for prefix in earlier:
        known |= prefix.snapshots
    known |= snapshots
    return {at: known[at] for at in thinned(known, MOST_SNAPSHOTS, spared=[max(known, default=0)])}


def _usable(prefix: Prefix, keys: np.ndarray) -> int:
    return prefix.usable(_shared(prefix.keys, keys[:-1]))


def _copies(columns: Sequence[Columns]) -> list[Columns]:
    return [tuple(tensor.clone() for tensor in layer) for layer in columns]


def _shared(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common prefix."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length
