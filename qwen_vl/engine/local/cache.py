"""The KV cache of a batch: one layer's keys and values, [rows, heads, columns, head_dim].

Rows of different length are padded on the left. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

ROOM_COLUMNS = 64  # more would be copied less often, and take more memory


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
    """[rows, columns] int64: 1 for tokens, 0 for padding left of rows of `lengths` tokens."""
    return (torch.arange(columns) >= (columns - lengths).unsqueeze(1)).long()


def stack(states: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    """Rows below each other, each padded on the left to `columns`."""
    return torch.cat([_left_padded(rows, columns) for rows in states])


def _left_padded(states: torch.Tensor, columns: int) -> torch.Tensor:
    return torch.nn.functional.pad(states, (0, 0, columns - states.shape[2], 0))
