"""Products of bytes: the one kernel under both ways of rounding inputs, and whether it is exact.

Knows nothing of layers.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor


def packed(codes: Tensor) -> Tensor:
    """Weights int8 [out, in] as the kernel reads them; takes about as long as copying them does."""
    return torch.ops.onednn.qlinear_prepack(codes, None)


def multiplied(digits: Tensor, weights: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """Unsigned digits [rows, in] times `packed` weights -> float32 [rows, out].

    The digit in the middle of 0 to 2^bits - 1 stands for zero. `scales`, float32 [out], are the
    weights'; `zeros`, int64 [out], are what the kernel wants beside them.
    """
    return torch.ops.onednn.qlinear_pointwise(
        *(digits, 1.0, 1 << (bits - 1), weights, scales, zeros, None),
        *(1.0, 0, torch.float32, "none", [], ""),
    )


def is_exact(bits: int) -> bool:
    """Whether this machine has the kernel, and its sums hold the largest digits of so many bits.

    Without VNNI, sums of two products are kept in 16 bits, and are cut off there in silence: 7 bits
    fit, 8 do not.
    """
    if sys.byteorder != "little" or not torch.backends.mkldnn.is_available():
        return False
    digits = torch.full((2, 256), (1 << bits) - 1, dtype=torch.uint8)
    scales, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int64)
    try:
        weights = packed(torch.full((16, 256), 127, dtype=torch.int8))
        sums = multiplied(digits, weights, scales, zeros, bits)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((sums == ((1 << (bits - 1)) - 1) * 127 * 256).all())
