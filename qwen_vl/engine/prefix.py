"""Keeps the KV caches of earlier prompts and answers, and finds the longest common prefix.

Goes by content: token ids, and for visual tokens the hash of their picture, because pictures of
equal size have equal token ids. So a second turn, an edited or regenerated turn and a system prompt
that many users share all reuse what is still equal, whoever asks. Bounded in bytes; what was used
longest ago goes first. Knows nothing of models or requests.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qwen_vl.engine.prompt import Prompt

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


def token_keys(prompt: Prompt, image_token_id: int | None) -> np.ndarray:
    """What identifies each token, [tokens] int64: its id, or a negative hash for visual tokens."""
    keys = np.array(prompt.token_ids, dtype=np.int64)
    if not prompt.pictures:
        return keys
    visual = [_visual_keys(picture.content, picture.tokens) for picture in prompt.pictures]
    keys[keys == image_token_id] = np.concatenate(visual)
    return keys


def _visual_keys(content: str, tokens: int) -> np.ndarray:
    """Pictures that differ differ from their first token on: none is ever cut in the middle."""
    digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
    start = int.from_bytes(digest, "little") >> 2
    return -1 - (start + np.arange(tokens, dtype=np.int64))


class PrefixStore:
    """Prefixes by recency of use, at most `limit_bytes` of them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._stored: OrderedDict[int, Prefix] = OrderedDict()
        self._next_id = 0
        self.size_bytes = self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._stored)

    def longest(self, keys: np.ndarray) -> list[LayerStates]:
        """Views on the states of the longest stored prefix of `keys`, short of its last token.

        The last token always runs, because its logits are needed. An empty list if none fits.
        """
        best, length = self._best(keys)
        if not length:
            self.misses += 1
            return []
        self.hits += 1
        self._stored.move_to_end(best)
        return [(k[:, :, :length], v[:, :, :length]) for k, v in self._stored[best].layers]

    def found(self, keys: np.ndarray) -> int:
        """How many tokens `longest` would give now."""
        return self._best(keys)[1]

    def _best(self, keys: np.ndarray) -> tuple[int, int]:
        """(which is stored, how many tokens it shares); 0 tokens if none fits."""
        shared = ((i, _shared(prefix.keys, keys[:-1])) for i, prefix in self._stored.items())
        return max(shared, key=lambda pair: pair[1], default=(0, 0))

    def put(self, keys: np.ndarray, layers: Sequence[LayerStates]) -> None:
        """Stores copies of the states, in place of prefixes of it that are stored already.

        What is larger than the whole store is not kept.
        """
        size_bytes = Prefix(keys, list(layers)).size_bytes
        if size_bytes > self._limit_bytes or any(
            _shared(prefix.keys, keys) == len(keys) for prefix in self._stored.values()
        ):
            return
        for i, prefix in list(self._stored.items()):
            if _shared(prefix.keys, keys) == len(prefix.keys):
                self._drop(i)
        # Room first: with the copies made before, memory would peak above the limit.
        while self.size_bytes + size_bytes > self._limit_bytes:
            self._drop(next(iter(self._stored)))
        try:
            new = Prefix(keys, [(k.clone(), v.clone()) for k, v in layers])
        except (MemoryError, RuntimeError) as error:  # a copy only fails for want of memory
            log.warning("no memory to keep a prefix, all are dropped: %s", error)
            self._stored.clear()
            self.size_bytes = 0
            return
        self._stored[self._next_id] = new
        self._next_id += 1
        self.size_bytes += new.size_bytes

    def _drop(self, which: int) -> None:
        self.size_bytes -= self._stored.pop(which).size_bytes


def _shared(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common prefix."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length
