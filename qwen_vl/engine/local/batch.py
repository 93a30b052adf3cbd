"""Rows that decode together: one forward pass gives every row its next logits.

Rows of different length share one KV cache whose keys and values, [rows, heads, columns, head_dim]
in every layer, are padded on the left. Rows join and leave between two steps. Knows nothing of
requests, sampling or text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from qwen_vl.engine.model.load import LoadedModel

ROOM_COLUMNS = 64  # more would be copied less often, and take more memory


@dataclass(eq=False)
class Row:
    """One sequence: `length` tokens are in the cache, the next one goes to `next_position`."""

    length: int
    next_position: int  # MRoPE's, behind `length` when there are pictures; equal without


class Batch:
    """The rows of one running batch, in the order of the cache's first dimension."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._cache: Any = None
        self.rows: list[Row] = []

    def join(self, rows: Sequence[Row], cache: Any) -> None:
        """Adds prefilled rows; `cache` holds their tokens, left-padded, and is taken over.

        The others are as they were if that fails, as for want of memory.
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

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Appends one token to every row -> the logits of the next ones, [rows, vocabulary]."""
        device = self._loaded.device
        lengths = torch.tensor([row.length for row in self.rows])
        mask = columns_in_use(lengths + 1, self._cache.get_seq_length() + 1)
        output = self._loaded.model(
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

    def states(self, row: Row) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Views on a row's keys and values in every layer, [1, heads, row.length, head_dim]."""
        i = self.rows.index(row)
        return [
            (layer.keys[i : i + 1, :, -row.length :], layer.values[i : i + 1, :, -row.length :])
            for layer in self._cache.layers
        ]

    @property
    def size_bytes(self) -> int:
        """What the keys and values of all rows take."""
        layers = () if self._cache is None else self._cache.layers
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

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


class RoomyLayer(DynamicLayer):
    """Keys and values with free columns behind them: a step writes one column, and copies none."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[torch.Tensor] = []  # of keys and of values, with the free columns

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends columns, [rows, heads, new columns, head_dim] -> all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used, columns = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        if not self._has_room(columns):
            self._make_room(key_states, used, columns + ROOM_COLUMNS)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, used:columns] = states
        self.keys, self.values = (buffer[:, :, :columns] for buffer in self._buffers)
        return self.keys, self.values

    def take_in(self, other: RoomyLayer, columns: int) -> None:
        """Adds the other's rows below its own, all padded on the left to `columns`.

        The other is left empty: with all layers held twice, memory would peak when rows join.
        """
        self.keys = stack([self.keys, other.keys], columns)
        self.values = stack([self.values, other.values], columns)
        self._buffers, other._buffers = [], []
        del other.keys, other.values

    def cut(self, rows: int, columns: int) -> None:
        """Keeps the first rows and the last columns, as views: this needs no memory."""
        self.keys = self.keys[:rows, :, -columns:]
        self.values = self.values[:rows, :, -columns:]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows only, as copies: the buffers of all rows go at once."""
        super().batch_select_indices(indices)
        self._buffers = []

    def _has_room(self, columns: int) -> bool:
        """Whether the keys still lie at the start of their buffer, and it is wide enough."""
        if not self._buffers or self._buffers[0].shape[2] < columns:
            return False
        buffer = self._buffers[0]
        return self.keys.data_ptr() == buffer.data_ptr() and self.keys.stride() == buffer.stride()

    def _make_room(self, states: torch.Tensor, used: int, columns: int) -> None:
        rows, heads, _, head_dim = states.shape
        self._buffers = [states.new_empty(rows, heads, columns, head_dim) for _ in range(2)]
        if used:
            for buffer, kept in zip(self._buffers, (self.keys, self.values), strict=True):
                buffer[:, :, :used] = kept


def new_cache(layers: Iterable[tuple[torch.Tensor, torch.Tensor]] = ()) -> Any:
    """A KV cache that grows, beginning with copies of `layers`; sliding windows are masked."""
    cache = Cache(layer_class_to_replicate=RoomyLayer)
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def columns_in_use(lengths: torch.Tensor, columns: int) -> torch.Tensor:
    """[rows, columns] int64: 1 but for the padding on the left of rows of `lengths` tokens."""
    return (torch.arange(columns) >= (columns - lengths).unsqueeze(1)).long()


def stack(states: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    """Rows below each other, each padded on the left to `columns`."""
    return torch.cat([_left_padded(rows, columns) for rows in states])


def _left_padded(states: torch.Tensor, columns: int) -> torch.Tensor:
    return torch.nn.functional.pad(states, (0, 0, columns - states.shape[2], 0))
