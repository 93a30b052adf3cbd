"""Linear layers with 8- or 4-bit weights for the CPU, put in the place of a model's own.

Only weights are rounded here, never activations (for those, see `both_sides`).
The same stored weights serve two kernels. Decoding spends its time on reading weights, so its
kernel unpacks while it multiplies. Prefill widens a part of a layer's weights at a time and runs
ordinary matrix products in the type that is fastest on this machine. Knows nothing of families,
requests or files.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen_vl.engine.model.int4 import GROUP, Importance, round_to_int4

_EXACT = ("in_proj_a", "in_proj_b", "in_proj_ba")  # decay and update rate of Gated DeltaNet
_INT4_ROWS = 64  # outputs that the int4 kernel packs together
_TILE = 8  # an argument of the packing that means nothing on CPUs
_OUTPUTS_AT_ONCE = 512  # of a layer: so many are widened, and multiplied before the next
_MOST_RIGHT_ROWS = 128  # so many rows at most are faster as the right factor


@dataclass(frozen=True)
class Wide:
    """How many rows are multiplied: in this type, from `least_rows` on; fewer are decoding's."""

    dtype: torch.dtype = torch.float32
    least_rows: int = 17


class Int8Linear(nn.Module):
    """y = x W^T + b with W as int8 codes [out, in] and one scale per output."""

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, wide: Wide) -> None:
        super().__init__()
        codes, scales = round_to_int8(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.float())
        self.wide = wide
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        if len(flat) < self.wide.least_rows:
            y = torch._weight_int8pack_mm(flat.bfloat16(), self.codes, self.scales)
        else:
            y = _widened_product(flat.to(self.wide.dtype), self.codes).mul_(self.scales)
        return _shaped(y, x, self.bias)

    def dequantised(self) -> Tensor:
        """The weight that this layer stands for, float32 [out, in]."""
        return self.codes.float() * self.scales.float()[:, None]


class Int4Linear(nn.Module):
    """y = x W^T + b with W as 4-bit codes; `GROUP` neighbours share a scale and a zero point."""

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor | None, importance: Tensor | None = None
    ) -> None:
        """`importance` is for `round_to_int4`."""
        super().__init__()
        packed, scales_and_zeros = _packed(weight, importance)
        self.register_buffer("packed", packed)
        self.register_buffer("scales_and_zeros", scales_and_zeros)
        self.register_buffer("bias", None if bias is None else bias.float())
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features).bfloat16()
        y = torch._weight_int4pack_mm_for_cpu(flat, self.packed, GROUP, self.scales_and_zeros)
        return _shaped(y, x, self.bias)


class WideEmbedding(nn.Module):
    """An embedding kept in the checkpoint's bfloat16 that gives float32, as its neighbours take."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float()


def round_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] -> codes -127..127 [out, in] int8, and bfloat16 scales [out].

    A weight without data (on the meta device) gives these without data, at once.
    """
    if weight.is_meta:
        codes = torch.empty_like(weight, dtype=torch.int8)
        return codes, codes.new_empty(len(weight), dtype=torch.bfloat16)
    largest = torch.maximum(weight.amax(1), -weight.amin(1))  # makes no copy, as abs would
    scales = (largest.float() / 127).clamp(min=1e-12)
    # The kernel takes bfloat16 scales: rounded before the codes are made, they cost nothing.
    scales = scales.bfloat16()
    # Rows at a time: a float32 copy of a whole output layer would be the largest tensor of all.
    parts = [
        (rows.float() / scale[:, None].float()).round_().clamp_(-127, 127).to(torch.int8)
        for rows, scale in zip(weight.split(4096), scales.split(4096), strict=True)
    ]
    return torch.cat(parts), scales


def _packed(weight: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    """int4 as the kernel takes it: uint8 [out, in / 2], and bfloat16 [groups, out, 2]."""
    if weight.is_meta:
        outputs, inputs = weight.shape
        groups = weight.new_empty(inputs // GROUP, outputs, 2, dtype=torch.bfloat16)
        return weight.new_empty(outputs, inputs // 2, dtype=torch.uint8), groups
    packed, scales_and_zeros = [], []
    for rows in weight.split(4096):
        codes, of_groups = round_to_int4(rows.float(), importance)
        packed.append(torch._convert_weight_to_int4pack_for_cpu(codes, _TILE))
        scales_and_zeros.append(of_groups)
    return torch.cat(packed), torch.cat(scales_and_zeros, 1).contiguous()


def _widened_product(x: Tensor, codes: Tensor) -> Tensor:
    """x [rows, in] -> x W^T [rows, out] float32, multiplied in the type of x.

    A block of outputs is widened, and multiplied while it is in a cache. In float32, few rows are
    the right factor of the product: that was up to twice as fast on a CPU with AVX2.
    """
    is_right = len(x) <= _MOST_RIGHT_ROWS and x.dtype == torch.float32
    parts = []
    for some in codes.split(_OUTPUTS_AT_ONCE):
        weights = _widened(some, x.dtype)
        parts.append(weights @ x.t() if is_right else F.linear(x, weights).float())
    y = parts[0] if len(parts) == 1 else torch.cat(parts, 0 if is_right else 1)
    return y.t().contiguous() if is_right else y


def _widened(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 codes as `dtype`, in a buffer that a thread's layers share: fresh memory costs time."""
    if not hasattr(_of_thread, "buffers"):
        _of_thread.buffers = {}
    buffers: dict[torch.dtype, Tensor] = _of_thread.buffers
    buffer = buffers.get(dtype)
    if buffer is None or len(buffer) < codes.numel():
        with torch.inference_mode(False):  # or it could not be written to outside of that mode
            buffer = buffers[dtype] = torch.empty(codes.numel(), dtype=dtype)
    return buffer[: codes.numel()].view(codes.shape).copy_(codes)


_of_thread = threading.local()


def quantize(
    model: nn.Module, scheme: str, wide: Wide, importance: Importance | None = None
) -> None:
    """Replaces the model's linear layers one by one, in place, so that memory only ever falls.

    `scheme` is "int8" or "int4". int4 goes by the `importance` of inputs, where that is known. With
    int4 three kinds of layers stay in int8: those of the vision encoder, the output layer, and
    layers without whole groups. What decides how fast a recurrent layer forgets is never rounded:
    it is tiny, and an error in it adds up. The embedding keeps its type, as only single rows of it
    are read. Everything else becomes float32.
    """
    for path in [path for path, module in model.named_modules() if is_rounded(path, module)]:
        round_layer(model, path, scheme, wide, importance)
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    # A class of its own may do more than look up: Gemma's embedding scales.
    if type(embedding) is nn.Embedding:
        path = next(path for path, module in model.named_modules() if module is embedding)
        _put(model, path, WideEmbedding(embedding.weight.data.bfloat16()))
    for parameter in model.parameters():
        parameter.data = parameter.data.float()


def is_rounded(path: str, module: nn.Module) -> bool:
    """Whether `quantize` replaces this module of a model."""
    return type(module) is nn.Linear and path.rpartition(".")[2] not in _EXACT


def round_layer(
    model: nn.Module,
    path: str,
    scheme: str,
    wide: Wide,
    importance: Importance | None,
) -> None:
    """Replaces the one linear layer that is found under `path`."""
    linear = model.get_submodule(path)
    assert isinstance(linear, nn.Linear)
    is_head = linear is model.get_output_embeddings()  # type: ignore[operator]
    coarse = scheme == "int4" and not is_head and _fits_int4(linear)
    bias = None if linear.bias is None else linear.bias.data
    if coarse and "visual" not in path.split("."):
        counts = (importance or {}).get(path)
        _put(model, path, Int4Linear(linear.weight.data, bias, counts))
    else:
        _put(model, path, Int8Linear(linear.weight.data, bias, wide))


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _fits_int4(linear: nn.Linear) -> bool:
    return linear.in_features % GROUP == 0 and linear.out_features % _INT4_ROWS == 0


def _shaped(y: Tensor, x: Tensor, bias: Any) -> Tensor:
    y = y.to(x.dtype)
    if bias is not None:
        y = y + bias
    return y.view(*x.shape[:-1], -1)
