"""The cache of a batch: what each layer keeps of its rows.

Attention layers keep keys and values, [rows, heads, columns, head_dim]; rows of different length
are padded on the left. Recurrent layers keep states without columns. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

from qwen_vl.engine.local.states import Columns, Snapshot
from qwen_vl.engine.model.layers import LayerKind

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

    @property
    def columns(self) -> Columns:
        """All that it keeps per token, each [rows, heads, columns, width]."""
        return self.keys, self.values

    @property
    def states(self) -> list[torch.Tensor | None]:
        return []

    def restore(self, columns: Columns, states: Sequence[torch.Tensor | None]) -> None:
        """Begins with copies of one row's columns."""
        self.update(columns[0], columns[1])

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

    def drop_last(self, columns: int) -> None:
        """Drops the last columns of all rows; the next ones are written in their place."""
        self.keys, self.values = self.keys[:, :, :-columns], self.values[:, :, :-columns]

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


class IndexedLayer(RoomyLayer):
    """Also keeps what an indexer looks up to choose the tokens that attention reads (Qwen3.8)."""

    indexer_keys: torch.Tensor  # [rows, columns, width]

    def __init__(self) -> None:
        super().__init__()
        # [3, rows, columns]; the model leaves them in its first such layer
        self.indexer_position_ids: torch.Tensor | None = None

    def update_indexer(self, states: torch.Tensor) -> torch.Tensor:
        """Appends [rows, new columns, width] -> all of them."""
        kept = [self.indexer_keys] if hasattr(self, "indexer_keys") else []
        self.indexer_keys = torch.cat([*kept, states], 1)
        return self.indexer_keys

    @property
    def columns(self) -> Columns:
        return (*super().columns, *self._looked_up)

    def restore(self, columns: Columns, states: Sequence[torch.Tensor | None]) -> None:
        super().restore(columns, states)
        self._look_up([tensor.clone() for tensor in columns[2:]])

    def take_in(self, other: RoomyLayer, columns: int) -> None:
        assert isinstance(other, IndexedLayer)
        pairs = zip(self._looked_up, other._looked_up, strict=True)
        self._look_up([stack(pair, columns) for pair in pairs])
        super().take_in(other, columns)

    def cut(self, rows: int, columns: int) -> None:
        super().cut(rows, columns)
        self._look_up([tensor[:rows, :, -columns:] for tensor in self._looked_up])

    def drop_last(self, columns: int) -> None:
        super().drop_last(columns)
        self._look_up([tensor[:, :, :-columns] for tensor in self._looked_up])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._look_up([tensor[indices] for tensor in self._looked_up])

    @property
    def _looked_up(self) -> Columns:
        """Keys and positions as columns, [rows, heads, columns, width]."""
        keys = self.indexer_keys.unsqueeze(1)
        if self.indexer_position_ids is None:
            return (keys,)
        return keys, self.indexer_position_ids.transpose(0, 1).unsqueeze(3)

    def _look_up(self, columns: Sequence[torch.Tensor]) -> None:
        self.indexer_keys = columns[0].squeeze(1)
        for positions in columns[1:]:
            self.indexer_position_ids = positions.squeeze(3).transpose(0, 1)


class RecurrentLayer(LinearAttentionLayer):
    """Keeps states, [rows, ...], that sum all tokens up. Nothing is padded, nothing can be cut."""

    columns: Columns = ()
    dtype: Any
    device: Any
    copied_after: Sequence[int] = ()  # of the tokens of the next update
    copies: Sequence[torch.Tensor] = ()  # of a convolution's state, after each of these

    @property
    def states(self) -> list[torch.Tensor | None]:
        """Those of its convolutions, then the recurrent ones; None where it has none."""
        return [*self.conv_states.values(), *self.recurrent_states.values()]

    def update_conv_state(
        self, conv_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """What the convolution reads: its state and the new tokens, [rows, width, tokens]."""
        read = super().update_conv_state(conv_states, *args, **kwargs)
        if self.copied_after:
            size = int(self.conv_kernel_size[0] or 0)
            before = read.shape[-1] - conv_states.shape[-1]
            ends = [read[..., : before + after][..., -size:] for after in self.copied_after]
            self.copies = [F.pad(end, (size - end.shape[-1], 0)) for end in ends]
        return read

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Takes the new state as it is: a new tensor, or the old one, which a step has changed."""
        self.recurrent_states[state_idx] = recurrent_states
        self.is_recurrent_states_initialized[state_idx] = True
        return recurrent_states

    def restore(self, columns: Columns, states: Sequence[torch.Tensor | None]) -> None:
        """Begins with copies of one row's states: a step writes into them."""
        self._replace([None if state is None else state.clone() for state in states])

    def take_in(self, other: RecurrentLayer, columns: int) -> None:
        """Adds the other's rows below its own. The other is left empty."""
        pairs = zip(self.states, other.states, strict=True)
        self._replace(
            [None if a is None or b is None else torch.cat([a, b]) for a, b in pairs],
        )
        other._replace([None] * len(other.states))

    def cut(self, rows: int, columns: int) -> None:
        """Keeps the first rows."""
        self._replace([None if state is None else state[:rows] for state in self.states])

    def drop_last(self, columns: int) -> None:
        """Nothing: only a snapshot brings an earlier state back."""

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows only, as copies."""
        self._replace([None if state is None else state[indices] for state in self.states])

    def _replace(self, states: Sequence[torch.Tensor | None]) -> None:
        for i in range(self.number_of_states):
            conv, recurrent = states[i], states[self.number_of_states + i]
            self.conv_states[i], self.recurrent_states[i] = conv, recurrent
            self.is_conv_states_initialized[i] = self.has_previous_state[i] = conv is not None
            self.is_recurrent_states_initialized[i] = recurrent is not None
            if conv is not None:
                self.conv_kernel_size[i] = conv.shape[-1]
                self.dtype, self.device = conv.dtype, conv.device


def new_cache(
    kinds: Sequence[LayerKind], columns: Iterable[Columns] = (), snapshot: Snapshot | None = None
) -> Any:
    """A cache of such layers that grows, beginning with copies of what is given of every layer.

    Sliding windows are masked.
    """
    layers: list[Any] = [_new_layer(kind) for kind in kinds]
    for i, kept in enumerate(columns):
        layers[i].restore(kept, snapshot[i] if snapshot else [])
    return Cache(layers=layers)


def _new_layer(kind: LayerKind) -> RoomyLayer | RecurrentLayer:
    if kind.is_recurrent:
        return RecurrentLayer(number_of_states=kind.states)
    return IndexedLayer() if kind.is_indexed else RoomyLayer()


def columns_of(cache: Any, row: int, length: int) -> list[Columns]:
    """Views on the last `length` columns of a row."""
    return [
        tuple(tensor[row : row + 1, :, -length:] for tensor in layer.columns)
        for layer in cache.layers
    ]


def snapshot_of(cache: Any, row: int) -> Snapshot:
    """Copies of a row's states as they are now."""
    return [
        [None if state is None else state[row : row + 1].clone() for state in layer.states]
        for layer in cache.layers
    ]


def bring_back(cache: Any, snapshot: Snapshot, columns: int) -> None:
    """Makes a cache of one row what it was at a snapshot, `columns` ago."""
    for layer, states in zip(cache.layers, snapshot, strict=True):
        layer.drop_last(columns)
        if states:
            layer.restore((), states)


def close_holes(cache: Any, used: torch.Tensor) -> None:
    """Moves what each row uses together, in place, so that all rows end with the last column.

    `used` is [rows, columns] of bool. As many columns stay as the longest row needs.
    """
    places = [row.nonzero().squeeze(1) for row in used]
    columns = max(map(len, places))
    for layer in cache.layers:
        for tensor in layer.columns:
            for row, at in zip(tensor, places, strict=True):
                row[:, columns - len(at) : columns] = row.index_select(1, at.to(row.device))
        if columns < used.shape[1]:
            layer.drop_last(used.shape[1] - columns)


def size_bytes(cache: Any) -> int:
    """What all rows take."""
    kept = (tensor for layer in cache.layers for tensor in (*layer.columns, *layer.states))
    return sum(tensor.nbytes for tensor in kept if tensor is not None)


def columns_in_use(lengths: torch.Tensor, columns: int) -> torch.Tensor:
    """[rows, columns] int64: 1 for tokens, 0 for padding left of rows of `lengths` tokens."""
    return (torch.arange(columns) >= (columns - lengths).unsqueeze(1)).long()


def stack(states: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    """Rows below each other, each padded on the left to `columns`."""
    return torch.cat([_left_padded(rows, columns) for rows in states])


def _left_padded(states: torch.Tensor, columns: int) -> torch.Tensor:
    return torch.nn.functional.pad(states, (0, 0, columns - states.shape[2], 0))
