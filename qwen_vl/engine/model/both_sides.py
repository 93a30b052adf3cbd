"""Linear layers with int8 on both sides, over one packed weight.

Rounding what goes into a layer ruins language models, for two reasons. A few input columns hold
values many times as large as the others', so that these are left with a handful of steps; and some
layers have large values anywhere. So a product has two forms:

- fine: an input is two digits, which stand in two rows of one product. That is as good as float32.
  While few rows are multiplied, the time goes into reading weights, and the second row costs
  little.
- coarse: an input is one digit, and the columns of outliers are multiplied apart. With many rows,
  this takes half of the time. Layers for which it is too coarse stay fine.

Each row has a scale of its own, so a row's result does not depend on the rows beside it. Which
columns and layers those are is told by the inputs of a few passes. Layers that read the same input
are one product. `Int8Product` is for CPUs that multiply bytes (VNNI, AMX); the product for others
is in `seven_bits`; `packing` puts them into a model. Knows nothing of families, prompts or files.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from qwen_vl.engine.model.quantize import Int8Linear

MOST_FINE_ROWS = 64  # with more, the second row costs more than reading the weights
OUTLIER_SHARE = 1 / 32  # of the input columns
COARSEST = 8.0  # largest: root mean square of what is rounded to 8 bits, in the median row
_MIDDLE = 128  # the byte that stands for 0
_LARGEST = 127 * 256  # of two bytes: the coarse one stays within 127, for the kernel's sums
_FEW_ROWS = 4  # bytes that lie apart are gathered one by one
_SEEN_ROWS = 64  # of each layer's inputs, kept to judge it by

_SHIFT = _MIDDLE + 0.5  # conversion to a whole number cuts off
_SHIFT_OF_BOTH = _MIDDLE * 256 + _SHIFT  # of both bytes


class Product(nn.Module):
    """y = x W^T + b for layers that read one input: their outputs, one after the other.

    `outliers` are columns of the input, int64; None: all rows are fine.
    """

    bias: Tensor | None
    outliers: Tensor | None
    most_fine_rows = MOST_FINE_ROWS
    packed_bytes = 0  # of weights that are no buffers
    packs_on_one_thread = False

    def __init__(self, layers: Sequence[Int8Linear], outliers: Tensor | None) -> None:
        super().__init__()
        self.out_features = sum(layer.out_features for layer in layers)
        self.in_features = layers[0].in_features
        # As buffers, so that they count as the model's memory.
        self.register_buffer("bias", _joined(layers))
        self.register_buffer("outliers", outliers)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float()
        is_fine = self.outliers is None or len(rows) <= self.most_fine_rows
        y = self.fine(rows) if is_fine else self.coarse(rows)
        if self.bias is not None:
            y += self.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def fine(self, x: Tensor) -> Tensor:
        """float32 [rows, in] -> float32 [rows, out], without the bias."""
        raise NotImplementedError

    def coarse(self, x: Tensor) -> Tensor:
        """The same, where there are outliers."""
        raise NotImplementedError


class Int8Product(Product):
    """Digits of 8 bits; outliers are multiplied in bfloat16."""

    packed: Tensor
    scales: Tensor
    zeros: Tensor
    columns: Tensor
    kept: Tensor

    def __init__(self, layers: Sequence[Int8Linear], outliers: Tensor | None) -> None:
        super().__init__(layers, outliers)
        codes, scales = codes_and_scales(layers)
        self.register_buffer("packed", torch.ops.onednn.qlinear_prepack(codes, None))
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))
        if outliers is not None:
            columns = (codes[:, outliers].float() * scales[:, None]).bfloat16()
            self.register_buffer("columns", columns)  # of the weights
            self.register_buffer("kept", torch.ones(self.in_features).index_fill_(0, outliers, 0))

    def fine(self, x: Tensor) -> Tensor:
        step = largest_of(x).mul_(1 / _LARGEST)
        codes = (x / step).add_(_SHIFT_OF_BOTH).to(torch.uint16)
        if len(x) < _FEW_ROWS:  # in one call. Little-endian: the rest comes first
            digits = codes.view(torch.uint8).view(*x.shape, 2).permute(2, 0, 1)
        else:
            digits = torch.empty(2, *x.shape, dtype=torch.uint8)
            digits[0].copy_(codes.view(torch.int16))  # cut off: torch shifts no uint16
            digits[1].copy_(codes.view(torch.int16) >> 8)
        rest, coarse = self._multiplied(digits.reshape(-1, x.shape[1])).chunk(2)
        return torch.add(rest, coarse, alpha=256).mul_(step)

    def coarse(self, x: Tensor) -> Tensor:
        assert self.outliers is not None
        beside = F.linear(x[:, self.outliers].bfloat16(), self.columns).float()
        x = x * self.kept
        step = largest_of(x).mul_(1 / 127)
        # By way of 16 bits: torch converts floats to bytes one by one.
        codes = x.div_(step).add_(_SHIFT).to(torch.int16).to(torch.uint8)
        return beside.addcmul_(self._multiplied(codes), step)

    def _multiplied(self, codes: Tensor) -> Tensor:
        """Bytes [rows, in] -> float32 [rows, out]; the sums inside are exact."""
        return torch.ops.onednn.qlinear_pointwise.default(
            *(codes, 1.0, _MIDDLE, self.packed, self.scales, self.zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )


class Int8Part(nn.Module):
    """One layer's share of a product. The first part that is asked computes all of them."""

    def __init__(self, shared: SharedProduct, start: int, layer: Int8Linear) -> None:
        super().__init__()
        self.shared = shared
        self._outputs = slice(start, start + layer.out_features)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(x)[..., self._outputs]


class SharedProduct(nn.Module):
    """Keeps a product's last result for as long as parts of it are still to be asked for."""

    def __init__(self, product: Product, parts: int) -> None:
        super().__init__()
        self.product = product
        self.parts = parts
        self._input: weakref.ref[Tensor] | None = None
        self._result: Tensor | None = None
        self._left = 0

    def forward(self, x: Tensor) -> Tensor:
        if self._result is None or self._input is None or self._input() is not x:
            result = self.product(x)
            self._input, self._result, self._left = weakref.ref(x), result, self.parts
        result = self._result
        self._left -= 1
        if not self._left:
            self._input = self._result = None
        return result


def is_exact() -> bool:
    """Whether this machine has the kernel, and its sums hold the largest bytes.

    Without VNNI, sums of two products are kept in 16 bits, and are cut off there in silence.
    """
    if sys.byteorder != "little" or not torch.backends.mkldnn.is_available():
        return False
    codes = torch.full((16, 256), 127, dtype=torch.int8)
    bytes_ = torch.full((2, 256), 255, dtype=torch.uint8)
    try:
        packed = torch.ops.onednn.qlinear_prepack(codes, None)
        scales, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int64)
        sums = torch.ops.onednn.qlinear_pointwise(
            *(bytes_, 1.0, _MIDDLE, packed, scales, zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((sums == 127 * 127 * 256).all())


def codes_and_scales(layers: Sequence[Int8Linear]) -> tuple[Tensor, Tensor]:
    """Those of all layers, one after the other: int8 [out, in], and float32 [out]."""
    codes = [layer.codes for layer in layers]
    scales = torch.cat([layer.scales for layer in layers]).float()
    return codes[0] if len(codes) == 1 else torch.cat(codes), scales  # `cat` copies even one


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


def largest_of(x: Tensor) -> Tensor:
    """Of each row [rows, in] -> [rows, 1]; never 0."""
    return x.abs().amax(1, keepdim=True).clamp_(min=1e-30)


class _Seen:
    """What a layer's inputs were like."""

    def __init__(self) -> None:
        self.inputs: list[int] = []  # which tensor each call read
        self.largest: Tensor | None = None  # of each column
        self.rows: Tensor | None = None  # some of them

    def judged(self, apart: Apart) -> Tensor:
        assert self.largest is not None
        assert self.rows is not None
        return apart(self.largest, self.rows)


# The paths of layers that read the same, joined by commas -> the columns of outliers, int64; none
# where the layers are to stay fine.
Judgement = dict[str, Tensor]
# The largest input of each column [in], and some inputs [rows, in] -> the columns of outliers.
Apart = Callable[[Tensor, Tensor], Tensor]


@torch.inference_mode()
def judge(model: nn.Module, run: Callable[[], None], apart: Apart) -> Judgement:
    """What the inputs of the model's `Int8Linear` layers are like.

    `run` has the model read something like what it is going to read. A layer that does not run is
    left out.
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
    judgement = {",".join(paths): seen[paths[0]].judged(apart) for paths in groups.values()}
    if isinstance(model, PreTrainedModel):
        head = model.get_output_embeddings()  # reads one row of a prompt, so it can be fine
        for path in judgement.keys() & {
            path for path, layer in model.named_modules() if layer is head
        }:
            judgement[path] = judgement[path][:0]
    return judgement


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
    """`Apart` for `Int8Product`: none where the other columns would still be too coarse."""
    count = max(16, round(len(largest) * OUTLIER_SHARE / 16) * 16)
    if count >= len(largest):
        return torch.empty(0, dtype=torch.int64)
    columns = largest.topk(count).indices.sort().values
    return columns[: count if coarseness(rows, columns) <= COARSEST else 0]


def coarseness(rows: Tensor, columns: Tensor) -> float:
    """Largest to root mean square without these columns, in the median of rows [rows, in]."""
    rest = rows.index_fill(1, columns, 0)
    size = rest.pow(2).mean(1).sqrt().clamp(min=1e-30)
    return float((rest.abs().amax(1) / size).median())
