"""Linear layers that read many rows in digits of 7 bits, for CPUs with AVX2 but without VNNI.

Their products of bytes are twice to three times as fast as float32's, and exact as long as one side
has no more than 7 bits. 7 bits are too few for the columns with the largest inputs, so these have a
second digit, which is multiplied apart. How many columns that takes is judged by layer; where it
would be too many, the layer stays as it was. Each row has a step of its own, so a row's result does
not depend on the rows beside it. Few rows take the layer's own kernels: reading weights is what
takes time there. Knows nothing of families, prompts or files.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from qwen_vl.engine.model.both_sides import Judgement
from qwen_vl.engine.model.byte_products import multiplied, packed
from qwen_vl.engine.model.quantize import Int8Linear

LEAST_ROWS = 96  # with fewer, packing the weights takes longer than the product saves
BITS = 7
_LARGEST = 63  # what one digit holds on either side of zero
_LARGEST_OF_TWO = _LARGEST * 128 + _LARGEST
_ZERO = 64 * 128 + 64  # both digits in the middle
_SHARES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4)  # of the columns that may have two digits
_MOST_NOISE = 0.018  # of rounding, against the size of what is rounded, in the median row

_zero = torch.full((), _ZERO + 0.5)  # conversion to an integer cuts off


class SevenBitLinear(nn.Module):
    """An `Int8Linear` that multiplies many rows in digits.

    `columns` of the input, int64, have two digits.
    """

    columns: Tensor
    weights: Tensor  # of those columns
    scales: Tensor
    zeros: Tensor
    per_step: Tensor

    def __init__(self, layer: Int8Linear, columns: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.in_features, self.out_features = layer.in_features, layer.out_features
        # As buffers, so that they count as the model's memory.
        self.register_buffer("columns", columns)
        self.register_buffer("weights", packed(layer.codes[:, columns].contiguous()))
        self.register_buffer("scales", layer.scales.float())
        self.register_buffer("zeros", torch.zeros(layer.out_features, dtype=torch.int64))
        per_step = torch.full((layer.in_features,), 1 / _LARGEST)
        self.register_buffer("per_step", per_step.index_fill_(0, columns, 1 / _LARGEST_OF_TWO))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float()
        if len(rows) < LEAST_ROWS:
            return cast(Tensor, self.layer(x))
        step = (rows.abs() * self.per_step).amax(1, keepdim=True).clamp_(min=1e-30)
        codes = torch.addcmul(_zero, rows, 1 / step).to(torch.int16)
        second = (codes[:, self.columns] >> BITS).to(torch.uint8)
        first = (codes & 127).to(torch.uint8)
        y = self._multiplied(first, packed(self.layer.codes))
        y.add_(self._multiplied(second, self.weights), alpha=128).mul_(step)
        if self.layer.bias is not None:
            y += self.layer.bias
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def _multiplied(self, digits: Tensor, weights: Tensor) -> Tensor:
        return multiplied(digits, weights, self.scales, self.zeros, BITS)


def columns_apart(largest: Tensor, rows: Tensor) -> Tensor:
    """Which columns need a second digit, int64; none where a layer is to stay as it is.

    `largest` [in] are the columns' largest inputs, `rows` [rows, in] are some inputs.
    """
    order = largest.argsort(descending=True)
    for share in _SHARES:
        columns = order[: max(1, round(len(order) * share))]
        rest = rows.clone()
        rest[:, columns] = 0
        size = rest.pow(2).mean(1).sqrt().clamp(min=1e-30)
        noise = rest.abs().amax(1) / _LARGEST / 12**0.5 / size  # of rounding to whole steps
        if float(noise.median()) <= _MOST_NOISE:
            return columns.sort().values
    return order[:0]


@torch.inference_mode()
def round_to_seven_bits(model: nn.Module, judgement: Judgement) -> None:
    """Wraps the judged layers of which only some columns need two digits, one by one, in place.

    The output layer stays as it was: it reads one row of a prompt.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    for joined, columns in judgement.items():
        for path in joined.split(",") if len(columns) else ():
            layer = cast(Int8Linear, model.get_submodule(path))
            if layer is not head:
                model.set_submodule(path, SevenBitLinear(layer, columns))
