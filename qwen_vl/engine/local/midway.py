"""Copies of recurrent states that are made midway, while one pass goes on over a prompt.

A pass that ends where a copy is wanted costs nearly as much for a handful of tokens as for dozens.
Knows caches and the rule of recurrent layers; knows nothing of prompts or stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from qwen_vl.engine.local.cache import RecurrentLayer
from qwen_vl.engine.local.states import Snapshot
from qwen_vl.engine.model import delta_rule


@contextmanager
def copying(cache: Any, after: Sequence[int]) -> Iterator[list[Snapshot]]:
    """The one pass within, over one row, copies the states after so many of its tokens.

    `after` rises, and ends before the pass does. The snapshots are there afterwards. Only for
    models that `LoadedModel.copies_midway`.
    """
    snapshots: list[Snapshot] = []
    if not after:
        yield snapshots
        return
    layers = [layer for layer in cache.layers if isinstance(layer, RecurrentLayer)]
    for layer in layers:
        layer.copied_after = after
    try:
        with delta_rule.copying(after) as states:
            yield snapshots
        pairs = zip(layers, states, strict=True)
        copied = {id(layer): (layer.copies, kept) for layer, kept in pairs}
        for i in range(len(after)):
            parts = (copied.get(id(layer), ()) for layer in cache.layers)
            snapshots.append([[part[i] for part in of_layer] for of_layer in parts])
    finally:
        for layer in layers:
            layer.copied_after, layer.copies = (), ()
