"""Linear layers with int8 on both sides, for CPUs that multiply bytes (VNNI, AMX).

Rounding what goes into a layer to 8 bits ruins language models, for two reasons. A few input
columns hold values many times as large as the others', so that these are left with a handful of
steps; and some layers have large values anywhere. So there are two forms, over one packed weight:

- fine: an input is two bytes, a coarse one and a rest, and stands in two rows of one product. That
  is as good as float32. While few rows are multiplied, the time goes into reading weights, and the
  second row costs little.
- coarse: an input is one byte, and the columns of outliers are multiplied in bfloat16 beside it.
  With many rows, this takes half of the time. Layers for which it is too coarse stay fine.

Each row has a scale of its own, so a row's result does not depend on the rows beside it. Which
columns and layers those are is told by the inputs of a few passes. Layers that read the same input
are one product. Knows nothing of families, prompts or files.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen_vl.engine.model.byte_products import multiplied, packed
from qwen_vl.engine.model.quantize import Int8Linear

BITS = 8
MOST_FINE_ROWS = 64  # with more, the second row costs more than reading the weights
OUTLIER_SHARE = 1 / 32  # of the input columns
COARSEST = 8.0  # largest: root mean square of what is rounded to 8 bits, in the median row
_MIDDLE = 1 << (BITS - 1)  # the byte that stands for 0
_LARGEST = 127 * 256  # of two bytes: the coarse one stays within 127, for the kernel's sums
_SEEN_ROWS = 64  # of each layer's inputs, kept to judge it by

_middle = torch.full((), _MIDDLE + 0.5)  # conversion to a byte cuts off
_middles = torch.full((), _MIDDLE * 256 + _MIDDLE + 0.5)  # of both bytes


class Int8Product(nn.Module):
    """y = x W^T + b for layers that read one input: their outputs, one after the other.

    `outliers` are columns of the input; None: all rows are fine.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor
    bias: Tensor | None
    outliers: Tensor | None
    columns: Tensor | None
    kept: Tensor
    most_fine_rows = MOST_FINE_ROWS

    def __init__(self, layers: Sequence[Int8Linear], outliers: Tensor | None) -> None:
        super().__init__()
        codes = torch.cat([layer.codes for layer in layers])
        scales = torch.cat([layer.scales for layer in layers]).float()
        self.out_features, self.in_features = codes.shape
        # As buffers, so that they count as the model's memory.
        self.register_buffer("packed", packed(codes))
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))
        self.register_buffer("bias", _joined(layers))
        self.register_buffer("outliers", outliers)
        self.register_buffer("columns", None)  # of the weights
        if outliers is not None:
            self.columns = (codes[:, outliers].float() * scales[:, None]).bfloat16()
            self.register_buffer("kept", torch.ones(self.in_features).index_fill_(0, outliers, 0))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float()
        is_fine = self.columns is None or len(rows) <= self.most_fine_rows
        y = self._fine(rows) if is_fine else self._coarse(rows)
        if self.bias is not None:
            y += self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def _fine(self, x: Tensor) -> Tensor:
        largest = _largest(x)
        codes = torch.addcmul(_middles, x, _LARGEST / largest).to(torch.uint16)
        # Little-endian: the rest comes first. [rests, then coarse ones; columns]
        both = codes.view(torch.uint8).view(*x.shape, 2).permute(2, 0, 1).reshape(-1, x.shape[1])
        rest, coarse = self._multiplied(both).chunk(2)
        return torch.add(rest, coarse, alpha=256).mul_(largest / _LARGEST)

    def _coarse(self, x: Tensor) -> Tensor:
        assert self.columns is not None
        assert self.outliers is not None
        beside = F.linear(x[:, self.outliers].bfloat16(), self.columns).float()
        x = x * self.kept
        largest = _largest(x)
        codes = torch.addcmul(_middle, x, 127 / largest).to(torch.uint8)
        return beside.addcmul_(self._multiplied(codes), largest / 127)

    def _multiplied(self, codes: Tensor) -> Tensor:
        """Bytes [rows, in] -> float32 [rows, out]; the sums inside are exact."""
        return multiplied(codes, self.packed, self.scales, self.zeros, BITS)


class Int8Part(nn.Module):
    """One layer's share of a product. The first part that is asked computes all of them."""

    def __init__(self, product: SharedProduct, start: int, layer: Int8Linear) -> None:
        super().__init__()
        self.product = product
        self._outputs = slice(start, start + layer.out_features)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)[..., self._outputs]


class SharedProduct(Int8Product):
    """Keeps its last result for as long as parts of it are still to be asked for."""

    def __init__(self, layers: Sequence[Int8Linear], outliers: Tensor | None) -> None:
        super().__init__(layers, outliers)
        self._parts = len(layers)
        self._input: weakref.ref[Tensor] | None = None
        self._result: Tensor | None = None
        self._left = 0

    def forward(self, x: Tensor) -> Tensor:
        if self._result is None or self._input is None or self._input() is not x:
            result = super().forward(x)
            self._input, self._result, self._left = weakref.ref(x), result, self._parts
        result = self._result
        self._left -= 1
        if not self._left:
            self._input = self._result = None
        return result


def _joined(layers: Sequence[Int8Linear]) -> Tensor | None:
    """Their biases, one after the other."""
    if all(layer.bias is None for layer in layers):
        return None
    nothing = (torch.zeros(layer.out_features) for layer in layers)
    return torch.cat(
        [
            zeros if layer.bias is None else layer.bias
            for layer, zeros in zip(layers, nothing, strict=True)
        ]
    )


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax(1, keepdim=True).clamp_(min=1e-30)


class _Seen:
    """What a layer's inputs were like."""

    def __init__(self) -> None:
        self.inputs: list[int] = []  # which tensor each call read
        self.largest: Tensor | None = None  # of each column
        self.rows: Tensor | None = None  # some of them

    def judged(self, apart: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        assert self.largest is not None
        assert self.rows is not None
        return apart(self.largest, self.rows)


# The paths of layers that read the same, joined by commas -> the columns to multiply apart, int64.
Judgement = dict[str, Tensor]


@torch.inference_mode()
def judge(
    model: nn.Module, run: Callable[[], None], apart: Callable[[Tensor, Tensor], Tensor]
) -> Judgement:
    """What the inputs of the model's `Int8Linear` layers are like.

    `run` has the model read something like what it is going to read. A layer that does not run is
    left out. `apart` tells the columns from the largest input of each [in], and some rows
    [rows, in].
    """
    seen = {path: _Seen() for path, layer in model.named_modules() if type(layer) is Int8Linear}
    hooks = [model.get_submodule(path).register_forward_pre_hook(_see(seen[path])) for path in seen]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    groups: dict[tuple[int, ...], list[str]] = {}
    for path, what in seen.items():
        if what.inputs:
            groups.setdefault(tuple(what.inputs), []).append(path)
    return {",".join(paths): seen[paths[0]].judged(apart) for paths in groups.values()}


@torch.inference_mode()
def round_both_sides(model: nn.Module, judgement: Judgement) -> None:
    """Puts products in the place of the judged layers, one by one, in place.

    Layers without columns to multiply apart stay fine.
    """
    for joined, columns in judgement.items():
        paths = joined.split(",")
        layers = [cast(Int8Linear, model.get_submodule(path)) for path in paths]
        apart = columns if len(columns) else None
        if len(paths) == 1:
            model.set_submodule(paths[0], Int8Product(layers, apart))
            continue
        product, start = SharedProduct(layers, apart), 0
        for path, layer in zip(paths, layers, strict=True):
            model.set_submodule(path, Int8Part(product, start, layer))
            start += layer.out_features


_calls = 0  # of hooks


def _see(seen: _Seen) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0]
        seen.inputs.append(_number_of(x))
        rows = x.reshape(-1, x.shape[-1]).float()
        largest = rows.abs().amax(0)
        seen.largest = largest if seen.largest is None else torch.maximum(seen.largest, largest)
        few = rows[:: max(1, len(rows) // _SEEN_ROWS)]
        seen.rows = few if seen.rows is None else torch.cat([seen.rows, few])

    return hook


def _number_of(x: Tensor) -> int:
    """The same for the same tensor: it is kept in mind as long as it lives."""
    global _calls
    if not hasattr(x, "_number"):
        _calls += 1
        x._number = _calls  # type: ignore[attr-defined]
    return int(x._number)  # type: ignore[attr-defined]


def outliers(largest: Tensor, rows: Tensor) -> Tensor:
    """The columns to multiply apart; none where the others would still be too coarse."""
    count = max(16, round(len(largest) * OUTLIER_SHARE / 16) * 16)
    if count >= len(largest):
        return torch.empty(0, dtype=torch.int64)
    columns = largest.topk(count).indices.sort().values
    rest = rows.clone()
    rest[:, columns] = 0
    size = rest.pow(2).mean(1).sqrt().clamp(min=1e-30)
    coarseness = (rest.abs().amax(1) / size).median()
    return columns[: count if float(coarseness) <= COARSEST else 0]
