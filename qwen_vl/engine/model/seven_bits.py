"""int8 on both sides with digits of 7 bits, for CPUs without VNNI (x86 with AVX2).

Their products of bytes add two at a time in 16 bits, where two full bytes do not fit, and are cut
off in silence; a byte and 7 bits always fit. Reading weights in fbgemm's order is what makes them
fast, also for a single row. In coarse products, outliers have a second digit: 1/32 to 1/4 of the
columns, as judged by layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from qwen_vl.engine.model.both_sides import Product, coarseness, codes_and_scales, largest_of
from qwen_vl.engine.model.quantize import Int8Linear

BASE = 128  # a digit is -64 to 64: as bytes 0 to 128, two of which and two of 127 fit into 16 bits
_LARGEST = 63  # of one digit; what is left of a number when it is rounded may be 64
_SHARES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4)  # of the columns that may be outliers
COARSEST = 3.92  # as in `both_sides`: half of what bytes can bear, for steps are twice as large

# A later torch may go without them: `is_exact` tells.
warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel and other")


class SevenBitProduct(Product):
    """Digits of 7 bits; in coarse products, outliers have two."""

    per_step: Tensor
    packs_on_one_thread = True  # 0.1 GB/s of it, so all threads pack

    def __init__(self, layers: Sequence[Int8Linear], outliers: Tensor | None) -> None:
        super().__init__(layers, outliers)
        codes, scales = codes_and_scales(layers)
        self._packed = _Packed(codes, scales)
        self.packed_bytes = codes.numel()
        if outliers is not None:
            self._columns = _Packed(codes[:, outliers].contiguous(), scales)
            self.packed_bytes += len(codes) * len(outliers)
            per_step = torch.full((self.in_features,), 1 / _LARGEST)
            per_step.index_fill_(0, outliers, 1 / _LARGEST / BASE)
            self.register_buffer("per_step", per_step)

    def fine(self, x: Tensor) -> Tensor:
        step = largest_of(x) / _LARGEST
        rest = x / step
        coarse = rest.round()
        rest -= coarse
        if len(x) > self.most_fine_rows:
            y = self._packed.times(coarse).add_(self._packed.times(rest, 1 / BASE))
        else:  # weights are read once for both
            y, of_rest = self._packed.times(torch.cat([coarse, rest * BASE])).chunk(2)
            y = torch.add(y, of_rest, alpha=1 / BASE)
        return y.mul_(step)

    def coarse(self, x: Tensor) -> Tensor:
        step = largest_of(x * self.per_step)
        first = x / step
        few = first[:, self.outliers]
        second = (few / BASE).round_() * BASE
        first[:, self.outliers] = few - second
        y = self._packed.times(first).add_(self._columns.times(second, BASE))
        return y.mul_(step)


class _Packed:
    """Weights int8 [out, in] and their scales, float32 [out], as fbgemm reads them."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        zeros = torch.zeros(len(codes), dtype=torch.int64)
        weights = torch._make_per_channel_quantized_tensor(codes, scales.double(), zeros, 0)
        torch.backends.quantized.engine = "fbgemm"  # for good: several threads pack at a time
        self._weights = torch.ops.quantized.linear_prepack(weights, None)

    def times(self, x: Tensor, step: float = 1.0) -> Tensor:
        """float32 [rows, in] of up to 64 steps -> float32 [rows, out]; x is rounded to steps."""
        return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x, step, BASE // 2, self._weights
        )


def is_exact() -> bool:
    """Whether this machine has the kernel, and its sums hold the largest digits."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    codes = torch.full((16, 256), 127, dtype=torch.int8)
    try:
        sums = _Packed(codes, torch.ones(16)).times(torch.full((2, 256), BASE / 2))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((sums == BASE // 2 * 127 * 256).all())


def outliers(largest: Tensor, rows: Tensor) -> Tensor:
    """`Apart` for `SevenBitProduct`: none where the other columns would still be too coarse."""
    order = largest.argsort(descending=True)
    for share in _SHARES:
        columns = order[: max(1, round(len(order) * share))]
        if coarseness(rows, columns) <= COARSEST:
            return columns.sort().values
    return order[:0]
