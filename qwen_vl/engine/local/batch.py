"""Rows that decode together: one forward pass gives every row its next logits.

Rows of different length share one cache, padded on the left (see `cache`). Rows join and leave
between two steps. Knows nothing of requests, sampling or text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qwen_vl.engine.local.cache import columns_in_use, columns_of, size_bytes, snapshot_of
from qwen_vl.engine.local.states import Columns, Snapshot
from qwen_vl.engine.model.load import LoadedModel


@dataclass(eq=False)
class Row:
    """One sequence: `length` tokens are in the cache, the next one goes to `next_position`."""

    length: int
    next_position: int  # MRoPE's, behind `length` when there are pictures; equal without


def fit_in_one_batch(loaded: LoadedModel, lengths: Sequence[int]) -> bool:
    """Whether rows of these lengths should share a pass.

    Every step reads the padding of all rows, and all weights once. Rows are kept apart where more
    padding would be read than weights: two passes are then cheaper, and take less memory.
    """
    padding = len(lengths) * max(lengths) - sum(lengths)
    return padding * loaded.token_bytes <= loaded.weight_bytes


class Batch:
    """The rows of one running batch, in the order of the cache's first dimension."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._cache: Any = None
        self.rows: list[Row] = []

    def join(self, rows: Sequence[Row], cache: Any) -> None:
        """Adds prefilled rows; `cache` holds their tokens, left-padded, and is taken over.

        If that fails, out of memory for example, the others are as they were.
        """
        if self._cache is None:
            self._cache = cache
        else:
            columns_before = self._cache.get_seq_length()
            columns = max(columns_before, cache.get_seq_length())
            try:
                for mine, new in zip(self._cache.layers, cache.layers, strict=True):
                    mine.take_in(new, columns)
            except Exception:  # whatever it was, the others' rows must fit together again
                for layer in self._cache.layers:
                    layer.cut(len(self.rows), columns_before)
                raise
        self.rows.extend(rows)

    def absorb(self, other: Batch) -> None:
        """Takes all rows of another batch over; that one is empty then."""
        rows, cache = other.rows, other._cache
        other.rows, other._cache = [], None
        self.join(rows, cache)

    def has_room(self, lengths: Sequence[int]) -> bool:
        """Whether rows of these lengths `fit_in_one_batch` with those that are here."""
        return fit_in_one_batch(self._loaded, [*lengths, *(row.length for row in self.rows)])

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Appends one token to every row -> the logits of the next ones, [rows, vocabulary]."""
        device = self._loaded.device
        lengths = torch.tensor([row.length for row in self.rows])
        mask = columns_in_use(lengths + 1, self._cache.get_seq_length() + 1)
        output = self._loaded.forward(
            len(tokens),
            input_ids=torch.tensor(tokens).unsqueeze(1).to(device),
            attention_mask=mask.to(device),
            position_ids=self._positions(lengths).to(device),
            past_key_values=self._cache,
            use_cache=True,
        )
        for row in self.rows:
            row.length += 1
            row.next_position += 1
        return output.logits[:, -1]

    def columns(self, row: Row) -> list[Columns]:
        """Views on what every layer keeps of each of a row's tokens."""
        return columns_of(self._cache, self.rows.index(row), row.length)

    def snapshot(self, row: Row) -> Snapshot:
        """Copies of a row's states after its last token."""
        return snapshot_of(self._cache, self.rows.index(row))

    @property
    def size_bytes(self) -> int:
        """What the cache of all rows takes."""
        return 0 if self._cache is None else size_bytes(self._cache)

    def leave(self, gone: Sequence[Row]) -> None:
        """Drops rows, and the columns that no other row uses."""
        keep = [i for i, row in enumerate(self.rows) if row not in gone]
        self.rows = [self.rows[i] for i in keep]
        if not keep:
            self._cache = None
            return
        self._cache.batch_select_indices(torch.tensor(keep, device=self._loaded.device))
        columns = max(row.length for row in self.rows)
        for layer in self._cache.layers:
            layer.cut(len(self.rows), columns)

    def _positions(self, lengths: torch.Tensor) -> torch.Tensor:
        """[rows, 1] for text models, else [4, rows, 1]; see `LoadedModel.positions`."""
        if not self._loaded.accepts_images:
            return lengths.unsqueeze(1)
        mrope = torch.tensor([row.next_position for row in self.rows])
        return torch.stack([lengths, mrope, mrope, mrope]).unsqueeze(2)
