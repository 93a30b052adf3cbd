"""Weights -> 4-bit codes, a scale and a zero point for each group, so that outputs change least.

An error in a weight counts as much as what is multiplied with it: its column's inputs, squared, as
a model has seen them. Where codes reach less far than a group's largest weights, the others are
finer; some reaches are tried. For given codes, the best scale and zero are those of a weighted
least-squares line. Knows tensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

GROUP = 32  # columns that share a scale and a zero point
_REACHES = (0.76, 0.88, 1.0)  # shares of a group's range
_LEAST = 1e-4  # of the mean: what a column counts whose inputs were never seen to be anything else
_SPLIT_ROWS = 256  # at a time: they stay in the processor's cache

# The path of a layer -> the mean squares of its inputs, float32 [in].
Importance = Mapping[str, Tensor]


@torch.inference_mode()
def mean_squares(layers: Mapping[str, nn.Module], run: Callable[[], None]) -> Importance:
    """What goes into `layers` (by path) while `run` has their model read something.

    A layer that does not run is left out.
    """
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    with ExitStack() as hooks:
        for path, layer in layers.items():

            def see(_: nn.Module, inputs: tuple[Tensor], path: str = path) -> None:
                x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
                sums[path] = sums.get(path, 0) + x.square().sum(0)
                rows[path] = rows.get(path, 0) + len(x)

            hooks.enter_context(layer.register_forward_pre_hook(see))
        run()
    return {path: total / rows[path] for path, total in sums.items()}


def round_to_int4(weight: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """float32 [out, in] -> codes 0..15 [out, in] int32, and bfloat16 [groups, out, 2].

    A weight is (code - 8) * scale + zero. `importance` [in] is what an error in each column
    counts; None: all the same.
    """
    counts = torch.ones(weight.shape[1]) if importance is None else importance.float()
    counts = (counts / counts.mean().clamp(min=1e-30)).clamp(min=_LEAST).view(-1, GROUP)
    parts = [_fitted(rows.unflatten(1, (-1, GROUP)), counts) for rows in weight.split(_SPLIT_ROWS)]
    codes, scales, zeros = (torch.cat(part) for part in zip(*parts, strict=True))
    scales_and_zeros = torch.cat([scales, zeros], -1).bfloat16()
    return codes.to(torch.int32).flatten(1) + 8, scales_and_zeros.transpose(0, 1).contiguous()


def _fitted(weights: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[out, groups, GROUP] -> codes -8..7, scales and zeros [out, groups, 1], all float32."""
    total = counts.sum(-1, keepdim=True)
    mean = (counts * weights).sum(-1, keepdim=True) / total
    low, high = weights.amin(-1, keepdim=True), weights.amax(-1, keepdim=True)
    best: list[Tensor] = []
    for reach in _REACHES:
        scale = ((high - low) * reach / 15).clamp(min=1e-9)
        codes = _codes(weights, scale, (low + high + scale) / 2)
        middle = (counts * codes).sum(-1, keepdim=True) / total
        apart = codes - middle
        spread = (counts * apart * apart).sum(-1, keepdim=True)
        slope = (counts * apart * weights).sum(-1, keepdim=True) / spread.clamp(min=1e-12)
        scale = torch.where(spread > 0, slope, scale).clamp(min=1e-9).bfloat16().float()
        zero = (mean - scale * middle).bfloat16().float()
        codes = _codes(weights, scale, zero)
        error = (counts * (codes * scale + zero - weights).square()).sum(-1, keepdim=True)
        found = [error, codes, scale, zero]
        if best:
            better = error < best[0]
            found = [torch.where(better, *pair) for pair in zip(found, best, strict=True)]
        best = found
    _, codes, scale, zero = best
    return codes, scale, zero


def _codes(weights: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return ((weights - zero) / scale).round_().clamp_(-8, 7)
