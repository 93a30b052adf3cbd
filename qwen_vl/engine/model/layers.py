"""What a text model's layers keep of the tokens so far, told by its config.

Knows nothing of caches or weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers.cache_utils import get_layer_types_and_kwargs


@dataclass(frozen=True)
class LayerKind:
    """One layer. A recurrent one keeps up to `states` states of fixed size, and no token's own."""

    is_recurrent: bool = False
    is_indexed: bool = False  # attends to the tokens that an indexer chooses
    states: int = 0


def layer_kinds(config: Any) -> list[LayerKind]:
    """The kinds of all layers of a text model. Sliding windows count as plain attention."""
    types, options = get_layer_types_and_kwargs(config)
    return [
        LayerKind(
            is_recurrent=type_ == "linear_attention",
            is_indexed=type_ == "indexed_attention",
            states=option.get("number_of_states", 0),
        )
        for type_, option in zip(types, options, strict=True)
    ]


def token_values(config: Any) -> int:
    """How many numbers one token keeps in all layers: keys, values, and those of indexers."""
    head_dim = getattr(config, "head_dim", None)
    head_dim = head_dim or config.hidden_size // config.num_attention_heads
    per_layer = 2 * config.num_key_value_heads * head_dim
    indexer_dim = getattr(config, "indexer_head_dim", None) or 0
    return sum(
        per_layer + (indexer_dim if kind.is_indexed else 0)
        for kind in layer_kinds(config)
        if not kind.is_recurrent
    )


def state_values(config: Any) -> int:
    """How many numbers the recurrent layers keep of one sequence, whatever its length."""
    recurrent = sum(kind.is_recurrent for kind in layer_kinds(config))
    if not recurrent:
        return 0
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    convolution = (2 * keys + values) * config.linear_conv_kernel_dim
    return int(recurrent * (convolution + values * config.linear_key_head_dim))
