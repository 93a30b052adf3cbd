"""Steps over few tokens through decoder layers, in fewer calls, on a CPU.

A decode step of a 2B model runs two thousand small operations beside its products, and these cost
a quarter of its time. Here queries and keys are normalised and turned together, norms are one call
each, and a single token's attention is two products over the keys as they lie. The result is that
of transformers' own layers, up to rounding in float32. Passes over many tokens are left to those.
Source: Qwen3's decoder layer, which Qwen3-VL's text model shares. Knows no requests and no caches
but their `update`.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from qwen_vl.engine.model.both_sides import Int8Part

MOST_ROWS = 32  # tokens of all rows together; from some more on, products take nearly all the time
_LAYERS = ("Qwen3DecoderLayer", "Qwen3VLTextDecoderLayer")


def use_on_cpu(model: nn.Module) -> None:
    """Lets layers that are known take the shorter way for few tokens; others are not touched."""
    for module in model.modules():
        if type(module).__name__ in _LAYERS and _is_plain(module):
            module.forward = MethodType(_forward, module)


def _is_plain(layer: Any) -> bool:
    """Whether all is as it is in Qwen3's checkpoints."""
    is_silu = layer.mlp.config.hidden_act == "silu"
    return is_silu and not getattr(layer.self_attn, "sliding_window", None)


def _forward(layer: Any, hidden_states: Tensor, **inputs: Any) -> Tensor:
    """In place of a decoder layer's: [rows, tokens, hidden] -> the same shape."""
    rows, tokens, _ = hidden_states.shape
    is_few = rows * tokens <= MOST_ROWS and inputs.get("past_key_values") is not None
    if not is_few or hidden_states.dtype != torch.float32:
        result: Tensor = type(layer).forward(layer, hidden_states, **inputs)
        return result
    x = _attended(layer, hidden_states, **inputs).add_(hidden_states)
    both = _joined(
        _normed(x, layer.post_attention_layernorm), layer.mlp.gate_proj, layer.mlp.up_proj
    )
    gate, up = both.chunk(2, -1)
    y: Tensor = layer.mlp.down_proj(F.silu(gate).mul_(up))
    return y.add_(x)


def _attended(
    layer: Any,
    x: Tensor,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None,
    past_key_values: Any,
    **options: Any,
) -> Tensor:
    """What attention adds to `x`."""
    attention = layer.self_attn
    normed = _normed(x, layer.input_layernorm)
    width = attention.head_dim
    projected = _joined(normed, attention.q_proj, attention.k_proj, attention.v_proj)
    heads = projected.unflatten(-1, (-1, width))  # [rows, tokens, heads of all three, width]
    kv_heads = attention.k_proj.out_features // width
    turned = _turned(attention, heads[:, :, :-kv_heads], *position_embeddings).transpose(1, 2)
    queries, keys = turned[:, :-kv_heads], turned[:, -kv_heads:]
    values = heads[:, :, -kv_heads:].transpose(1, 2)
    keys, values = past_key_values.update(keys, values, attention.layer_idx)
    if x.shape[1] == 1:
        seen = _attend(queries, keys, values, attention_mask, attention.scaling)
    else:
        attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
        seen, _ = attend(
            *(attention, queries, keys, values, attention_mask),
            dropout=0.0,
            scaling=attention.scaling,
            **options,
        )
    added: Tensor = attention.o_proj(seen.reshape(*x.shape[:-1], -1))
    return added


def _normed(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def _joined(x: Tensor, *layers: Any) -> Tensor:
    """The outputs of layers that read the same, one after the other."""
    first, last = layers[0], layers[-1]
    is_one = isinstance(first, Int8Part) and isinstance(last, Int8Part)
    if is_one and first.shared is last.shared and first.shared.parts == len(layers):
        product: Tensor = first.shared.product(x)
        return product
    return torch.cat([layer(x) for layer in layers], -1)


def _turned(attention: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries and keys, normalised and at their positions: [rows, tokens, heads, width]."""
    if not hasattr(attention, "_weights"):
        pairs = (attention.q_norm, attention.q_proj), (attention.k_norm, attention.k_proj)
        width = attention.head_dim
        parts = [norm.weight.expand(layer.out_features // width, -1) for norm, layer in pairs]
        attention._weights = torch.cat(parts)  # [heads, width]
    normed = F.rms_norm(heads, heads.shape[-1:], None, attention.q_norm.variance_epsilon)
    normed = normed.mul_(attention._weights)
    half = heads.shape[-1] // 2
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    swapped = torch.cat([-normed[..., half:], normed[..., :half]], -1)
    return normed.mul_(cos).addcmul_(swapped, sin)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """One token's attention in each row. Heads that share keys are columns of one product.

    queries [rows, heads, 1, width], keys and values [rows, fewer heads, columns, width], mask
    [rows, 1, 1, columns], true where a column may be seen -> [rows, fewer heads, group, width]
    """
    grouped = (queries * scaling).unflatten(1, (keys.shape[1], -1)).squeeze(3)
    scores = keys @ grouped.transpose(2, 3)  # [rows, heads, columns, group]
    if mask is not None:
        scores.masked_fill_(mask.transpose(2, 3).logical_not(), -torch.inf)
    return scores.softmax(2).transpose(2, 3) @ values
