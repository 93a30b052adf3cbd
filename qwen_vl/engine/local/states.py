"""What a cache holds of the first tokens of one sequence, apart from the batch in which it ran.

Attention layers keep a column for every token: they can be cut after any. Recurrent layers keep a
state of fixed size that sums all tokens up: it holds after one token only, and is a snapshot.
Knows nothing of models, scopes or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

# Of one layer: keys and values, and whatever else it keeps per token, each [1, heads, tokens,
# width]; () where it keeps nothing per token.
Columns = tuple[torch.Tensor, ...]
# Of every layer: its states, each [1, ...], None where it has none; [] where it keeps no states.
Snapshot = list[list[torch.Tensor | None]]


@dataclass(frozen=True, eq=False)
class States:
    """The states of some tokens in every layer; without `columns` those of no token.

    `snapshot` is that after the last of them; [] for models without recurrent layers.
    """

    columns: Sequence[Columns] = ()
    snapshot: Snapshot = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return next((tensor.shape[2] for layer in self.columns for tensor in layer), 0)


def first(columns: Sequence[Columns], tokens: int) -> list[Columns]:
    """Views on the columns of the first tokens."""
    return [tuple(tensor[:, :, :tokens] for tensor in layer) for layer in columns]


def columns_bytes(columns: Sequence[Columns]) -> int:
    return sum(tensor.nbytes for layer in columns for tensor in layer)


def snapshot_bytes(snapshot: Snapshot) -> int:
    return sum(state.nbytes for layer in snapshot for state in layer if state is not None)
