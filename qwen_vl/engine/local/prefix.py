"""Keeps the KV caches of earlier prompts and answers, and finds the longest common prefix.

Compares content: token ids, and for visual tokens the hash of their picture, because pictures of
equal size have equal token ids. So a second, an edited and a regenerated turn all reuse what is
still equal. A prefix serves only the scope that left it. The server's own system prompt serves all
scopes from the start. So the number of tokens found tells a scope nothing about others.
Bounded in bytes. Knows nothing of models or requests.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qwen_vl.engine.local.store import FairStore
from qwen_vl.engine.model.prompt import Prompt

log = logging.getLogger(__name__)

LayerStates = tuple[torch.Tensor, torch.Tensor]  # keys and values, [1, heads, tokens, head_dim]


@dataclass(frozen=True, eq=False)
class Prefix:
    """The states of `keys`' tokens, in every layer."""

    keys: np.ndarray  # [tokens] int64, see `token_keys`
    layers: list[LayerStates]

    @property
    def size_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for layer in self.layers for t in layer)

    def first(self, tokens: int) -> list[LayerStates]:
        """Views on the states of the first tokens."""
        return [(keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in self.layers]


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

    def longest(self, keys: np.ndarray, scope: str = "") -> list[LayerStates]:
        """Views on the states of the longest prefix of `keys` that this scope may see.

        Without the last token: it always runs, because its logits are needed. An empty list if none
        fits. Counts as a use.
        """
        with self._lock:
            prefix, length = self._best(keys, scope)
            self.hits += bool(length)
            self.misses += not length
            return prefix.first(length) if prefix else []

    def peek(self, keys: np.ndarray, scope: str = "") -> list[LayerStates]:
        """What `longest` would give now, without counting a hit or a miss."""
        with self._lock:
            prefix, length = self._best(keys, scope)
            return prefix.first(length) if prefix else []

    def found(self, keys: np.ndarray, scope: str = "") -> int:
        """How many tokens `longest` would give now."""
        with self._lock:
            return self._best(keys, scope)[1]

    def _best(self, keys: np.ndarray, scope: str) -> tuple[Prefix | None, int]:
        """The prefix that shares the most tokens, which counts as a use, and how many."""
        own, length = None, 0
        for key, prefix in self._kept.entries(scope):
            if (shared := _shared(prefix.keys, keys[:-1])) > length:
                own, length = key, shared
        everybodys = ((_shared(prefix.keys, keys[:-1]), prefix) for prefix in self._shared)
        longest, best = max(everybodys, key=lambda pair: pair[0], default=(0, None))
        if longest > length:
            return best, longest
        return (self._kept.get(scope, own), length) if length else (None, 0)

    def share(self, keys: np.ndarray, layers: Sequence[LayerStates]) -> None:
        """Keeps for everybody what the server itself sets, for as long as it runs."""
        prefix = Prefix(keys, _copies(layers))
        if prefix.size_bytes <= self._kept.limit_bytes:
            with self._lock:
                self._shared.append(prefix)
                self._kept.limit_bytes -= prefix.size_bytes

    def put(self, keys: np.ndarray, layers: Sequence[LayerStates], scope: str = "") -> None:
        """Stores copies of the states, in place of the scope's prefixes that they begin with.

        What is larger than the scope's share of the store is not kept.
        """
        size_bytes = Prefix(keys, list(layers)).size_bytes
        with self._lock:
            own = self._kept.entries(scope)
            if any(_shared(prefix.keys, keys) == len(keys) for _, prefix in own):
                return
            begun = [key for key, old in own if _shared(old.keys, keys) == len(old.keys)]
            # Room first: with the copies made before, memory would peak above the limit.
            if not self._kept.make_room(scope, size_bytes, begun):
                return
        try:
            new = Prefix(keys, _copies(layers))
        except (MemoryError, RuntimeError) as error:  # only a lack of memory makes a copy fail
            log.warning("no memory to keep a prefix, all are dropped: %s", error)
            with self._lock:
                self._kept.clear()
            return
        with self._lock:
            self._kept.put(scope, self._next_id, new, size_bytes)
            self._next_id += 1


def _copies(layers: Sequence[LayerStates]) -> list[LayerStates]:
    return [(keys.clone(), values.clone()) for keys, values in layers]


def _shared(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common prefix."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length
