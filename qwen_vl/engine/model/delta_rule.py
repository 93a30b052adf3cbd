"""The gated delta rule of recurrent layers, for a CPU: over many tokens at once, and over one.

Computes what transformers' own functions do, up to rounding. In prefill, that takes about two
thirds of their time: they call LAPACK once for every chunk and head to solve a triangular system;
here all systems are solved together, block by block, by matrix products. In decoding, which spends
its time on reading and writing states, it takes about half: a state is written in its place.
Source: "Gated Delta Networks", arXiv 2412.06464. Knows nothing of caches or families.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from qwen_vl.engine.model.float_products import multiplying

CHUNK = 32  # tokens; larger ones need more work within, smaller ones more steps
BLOCK = 8  # rows that are solved one after the other
_RULE = "torch_chunk_gated_delta_rule"  # what layers call it


def use_on_cpu(model: nn.Module) -> None:
    """Lets the recurrent layers of this model compute their rule here; others are not touched.

    A step over one token then changes the states that it is given.
    """
    for module in model.modules():
        forward = inspect.unwrap(type(module).forward)
        if not isinstance(forward, FunctionType) or "forward" in vars(module):
            continue
        if _RULE in forward.__code__.co_names:
            module.forward = MethodType(_with_rule(forward), module)


def _with_rule(forward: FunctionType) -> FunctionType:
    return FunctionType(
        forward.__code__,
        {
            **forward.__globals__,
            _RULE: chunk_rule,
            "torch_recurrent_gated_delta_rule": step_rule,
            "causal_conv1d_update": step_convolution,
        },
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )


def layers_here(model: nn.Module) -> int:
    """How many of this model's layers compute their rule here."""
    forwards = (vars(module).get("forward") for module in model.modules())
    return sum(_RULE in getattr(forward, "__globals__", ()) for forward in forwards)


_wish = threading.local()


@contextmanager
def copying(after: Sequence[int]) -> Iterator[list[list[Tensor]]]:
    """Within, on this thread, each call of the rule copies its state after so many of its tokens.

    `after` rises, and its numbers are smaller than that of a call's tokens. Gives the copies of
    each call, in the order of the calls.
    """
    copies: list[list[Tensor]] = []
    _wish.after, _wish.copies = after, copies
    try:
        yield copies
    finally:
        _wish.after = ()


def chunk_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """`query` and `key` [rows, tokens, key heads, key dim], `value` [rows, tokens, heads, dim].

    `g` is the decay in log space and `beta` the rate of update, both [rows, tokens, heads]. Returns
    the output, as `value`, and the state [rows, heads, key dim, dim] in float32.
    """
    given, normalise = (query, key, value, g, beta), use_qk_l2norm_in_kernel
    after = getattr(_wish, "after", ())
    if not after:
        return _chunk_rule(*given, initial_state, output_final_state, normalise)
    outputs, copies, state = [], [], initial_state
    for start, end in pairwise((0, *after, key.shape[1])):
        q, k, v, decay, rate = (tensor[:, start:end] for tensor in given)
        output, state = _chunk_rule(q, k, v, decay, rate, state, True, normalise)
        outputs.append(output)
        copies.append(state)
    _wish.copies.append(copies[:-1])
    return torch.cat(outputs, 1), state if output_final_state else None


@multiplying(0)  # oneDNN may take seconds for so many small products
def _chunk_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None,
    output_final_state: bool,
    use_qk_l2norm_in_kernel: bool,
) -> tuple[Tensor, Tensor | None]:
    """`chunk_rule` without copies on the way."""
    rows, tokens, key_heads, key_dim = key.shape
    heads, dim = value.shape[-2:]
    if use_qk_l2norm_in_kernel:
        query, key = _normalised(query.float()), _normalised(key.float())
    q = _chunked(query * key_dim**-0.5, heads // key_heads)
    k = _chunked(key, heads // key_heads)
    v = _chunked(value)
    rate = _chunked(beta.unsqueeze(-1))  # [rows * heads, chunks, CHUNK, 1]
    decayed = _chunked(g.unsqueeze(-1)).cumsum(2)  # since the chunk's beginning, in log space
    pairwise = (decayed - decayed.transpose(2, 3)).tril_().exp_().tril_()
    transposed = k.transpose(2, 3)
    inverse = _inverse((k @ transposed).mul_(pairwise).mul_(rate))
    within = (q @ transposed).mul_(pairwise)
    grown = decayed.exp()
    # What each token writes, and the part of it that the old state tells already.
    written = inverse @ torch.cat([v, k * grown], -1).mul_(rate)
    values, known = written[..., :dim], written[..., dim:]
    reads = torch.cat([known, q * grown], 2)
    writes = (k * (decayed[:, :, -1:] - decayed).exp()).transpose(2, 3)
    left = grown[:, :, -1:]  # of the old state, after a chunk
    if initial_state is None:
        state = v.new_zeros(rows * heads, key_dim, dim)
    else:
        state = initial_state.float().flatten(0, 1)
    out = torch.empty_like(v)
    for i in range(v.shape[1]):
        read = reads[:, i] @ state
        new = values[:, i] - read[:, :CHUNK]
        torch.baddbmm(read[:, CHUNK:], within[:, i], new, out=out[:, i])
        state = torch.baddbmm(state * left[:, i], writes[:, i], new)
    output = out.view(rows, heads, -1, dim)[:, :, :tokens].transpose(1, 2).contiguous()
    final = state.view(rows, heads, key_dim, dim) if output_final_state else None
    return output.to(value.dtype), final


def step_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor,
    output_final_state: bool = True,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """`chunk_rule` for one token of each row. The new state takes the place of the given one."""
    rows, _tokens, key_heads, key_dim = key.shape
    heads, dim = value.shape[-2:]
    asked = torch.stack([query, key], 3).float()  # [rows, 1, key heads, 2, key dim]
    if use_qk_l2norm_in_kernel:
        asked = _normalised(asked)
    if heads > key_heads:  # neighbours share a key head
        asked = asked.repeat_interleave(heads // key_heads, 2)
    asked = asked.view(rows * heads, 2, key_dim)
    q, k = asked[:, :1], asked[:, 1:]
    state = initial_state.float().flatten(0, 1)
    left = g.float().exp().view(-1, 1, 1)  # of the old state
    told = (asked @ state).mul_(left)  # what the old state tells both, [rows * heads, 2, dim]
    new = (value.float().reshape(-1, 1, dim) - told[:, 1:]).mul_(beta.float().view(-1, 1, 1))
    state.mul_(left).addcmul_(k.transpose(1, 2), new)
    output = (told[:, :1] + (q * k).sum(-1, keepdim=True) * new) * key_dim**-0.5
    return (
        output.view(rows, 1, heads, dim).to(value.dtype),
        state.view(rows, heads, key_dim, dim),
    )


def step_convolution(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None
) -> Tensor:
    """A causal convolution over one token, `x` [rows, width, 1]; `state` gets it as its last one.

    `weight` is [width, kernel]. Multiplying and adding is three times as fast as a convolution of
    as many groups as channels.
    """
    read = torch.cat([state, x], -1)
    state.copy_(read[..., -state.shape[-1] :])
    # In float32, as a convolution adds up: bfloat16 would round every product.
    y = (read[..., -weight.shape[-1] :].float() * weight.float()).sum(-1, keepdim=True)
    if bias is not None:
        y += bias.float()[:, None]
    y = y.to(x.dtype)
    return y if activation is None else ACT2FN[activation](y)


def _normalised(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def _chunked(x: Tensor, repeats: int = 1) -> Tensor:
    """[rows, tokens, heads, width] -> float32 [rows * heads * repeats, chunks, CHUNK, width]."""
    x = F.pad(x.float().transpose(1, 2), (0, 0, 0, -x.shape[1] % CHUNK))
    if repeats > 1:  # neighbours share a key head
        x = x.repeat_interleave(repeats, 1)
    return x.reshape(x.shape[0] * x.shape[1], -1, CHUNK, x.shape[-1])


def _inverse(system: Tensor) -> Tensor:
    """(I + L)^-1 of L, what lies below the diagonal of [..., CHUNK, CHUNK].

    By substitution within blocks, then block by block. A power series would be simpler, and loses
    all digits where keys are alike.
    """
    blocks = _diagonal(system, BLOCK)
    inverse = torch.eye(BLOCK, dtype=system.dtype, device=system.device).repeat(
        *blocks.shape[:-2], 1, 1
    )
    for i in range(1, BLOCK):
        row = blocks[..., i : i + 1, :i] @ inverse[..., :i, :i]
        inverse[..., i, :i] = row.squeeze(-2).neg_()
    size = BLOCK
    while size < CHUNK:
        below = _diagonal(system, 2 * size)[..., size:, :size]
        upper, lower = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = (lower @ (below @ upper)).neg_()
        inverse = torch.cat(
            [
                torch.cat([upper, torch.zeros_like(upper)], -1),
                torch.cat([corner, lower], -1),
            ],
            -2,
        )
        size *= 2
    return inverse.squeeze(-3)


def _diagonal(system: Tensor, size: int) -> Tensor:
    """The blocks along the diagonal, [..., blocks, size, size]."""
    parts = system.unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
    return parts.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
