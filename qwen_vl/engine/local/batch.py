"""Rows that decode together: one forward pass gives every row its next logits.

Rows of different length share one cache, padded on the left (see `cache`). Rows join and leave
between two steps. A step may run several tokens of a row; `keep` tells how many of them were right.
Knows nothing of requests, sampling or text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qwen_vl.engine.local.cache import (
    bring_back,
    close_holes,
    columns_in_use,
    columns_of,
    size_bytes,
    snapshot_of,
)
from qwen_vl.engine.local.states import Columns, Snapshot
from qwen_vl.engine.model.load import LoadedModel

MOST_HOLES = 64  # columns that a row reads for nothing, before its others are moved together


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
        self._used = torch.ones(0, 0, dtype=torch.bool)  # [rows, columns]; the others are masked
        self._inputs = torch.zeros(0, 0, dtype=torch.long)  # of the last step, [rows, width]
        self._before: Snapshot = []  # the last step, where that may have to be undone
        # A sliding window counts columns: there none may lie between others.
        config = loaded.model.config.get_text_config()
        self._most_holes = 0 if getattr(config, "sliding_window", None) else MOST_HOLES

    @property
    def takes_drafts(self) -> bool:
        """Whether a step may run more than one token of each row.

        Recurrent rows cannot be padded: there a row must be alone.
        """
        return len(self.rows) == 1 or not self._loaded.is_recurrent

    def join(self, rows: Sequence[Row], cache: Any) -> None:
        """Adds prefilled rows; `cache` holds their tokens, left-padded, and is taken over.

        If that fails, out of memory for example, the others are as they were.
        """
        self._close_holes()
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
        self._used = self._in_use()

    def absorb(self, other: Batch) -> None:
        """Takes all rows of another batch over; that one is empty then."""
        other._close_holes()
        rows, cache = other.rows, other._cache
        other.rows, other._cache = [], None
        self.join(rows, cache)

    def has_room(self, lengths: Sequence[int]) -> bool:
        """Whether rows of these lengths `fit_in_one_batch` with those that are here."""
        return fit_in_one_batch(self._loaded, [*lengths, *(row.length for row in self.rows)])

    def step(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Appends tokens to every row -> the logits after each, [rows, width, vocabulary].

        `keep` comes next. Logits behind a row that has fewer tokens than others mean nothing.
        """
        width = max(map(len, tokens))
        if width > 1 and self._loaded.is_recurrent:
            self._before = snapshot_of(self._cache, 0)
        self._inputs = torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens])
        lengths = torch.tensor([[len(row)] for row in tokens])
        self._used = torch.cat([self._used, torch.arange(width) < lengths], 1)
        return self._forward(self._inputs)

    def keep(self, counts: Sequence[int]) -> None:
        """Drops all tokens of the last step but the first ones of each row, one at least."""
        width, most = self._inputs.shape[1], max(counts)
        if width > 1:
            new = torch.arange(width) < torch.tensor(counts).unsqueeze(1)
            self._used[:, -width:] &= new
            if self._before and most < width:
                self._run_again(most)
            elif most < width:
                for layer in self._cache.layers:
                    layer.drop_last(width - most)
                self._used = self._used[:, : most - width]
        self._before = []
        for row, count in zip(self.rows, counts, strict=True):
            row.length += count
            row.next_position += count
        if width > 1 and self._holes > self._most_holes:
            self._close_holes()

    def _run_again(self, count: int) -> None:
        """The first tokens of the last step, for states that have taken in what was wrong."""
        width = self._inputs.shape[1]
        bring_back(self._cache, self._before, width)
        self._used = self._used[:, : count - width]
        self._forward(self._inputs[:, :count], logits_to_keep=1)

    def _forward(self, inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        device = self._loaded.device
        output = self._loaded.forward(
            inputs.numel(),
            input_ids=inputs.to(device),
            attention_mask=self._used.long().to(device),
            position_ids=self._positions(inputs.shape[1]).to(device),
            past_key_values=self._cache,
            use_cache=True,
            **options,
        )
        return output.logits

    @property
    def _holes(self) -> int:
        """The most columns that a row reads for nothing, between those that it uses."""
        columns, begins = self._used.shape[1], self._used.long().argmax(1).tolist()
        pairs = zip(self.rows, begins, strict=True)
        return max(columns - begin - row.length for row, begin in pairs)

    def _close_holes(self) -> None:
        if self.rows and self._holes:
            close_holes(self._cache, self._used)
            self._used = self._in_use()

    def _in_use(self) -> torch.Tensor:
        """Without holes."""
        lengths = torch.tensor([row.length for row in self.rows])
        return columns_in_use(lengths, int(lengths.max())).bool()

    def columns(self, row: Row) -> list[Columns]:
        """Views on what every layer keeps of each of a row's tokens."""
        self._close_holes()
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
        self._close_holes()
        keep = [i for i, row in enumerate(self.rows) if row not in gone]
        self.rows = [self.rows[i] for i in keep]
        if not keep:
            self._cache = None
            return
        self._cache.batch_select_indices(torch.tensor(keep, device=self._loaded.device))
        columns = max(row.length for row in self.rows)
        for layer in self._cache.layers:
            layer.cut(len(self.rows), columns)
        self._used = self._in_use()

    def _positions(self, width: int) -> torch.Tensor:
        """[rows, width] for text models, else [4, rows, width]; see `LoadedModel.positions`."""
        index = torch.tensor([[row.length] for row in self.rows]) + torch.arange(width)
        if not self._loaded.accepts_images:
            return index
        mrope = torch.tensor([[row.next_position] for row in self.rows]) + torch.arange(width)
        return torch.stack([index, mrope, mrope, mrope])
