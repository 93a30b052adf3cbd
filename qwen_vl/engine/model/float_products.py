"""float32 products by oneDNN, for passes over many rows, where it is faster than MKL.

torch multiplies float32 with MKL, which makes little of the CPUs of other makers. On two cores of
AMD's Zen 5, oneDNN took 0.43 of the time for a linear layer and 0.58 for the attention of a
picture. torch asks it only where products may round to bfloat16. It does that on CPUs with tiles
for it (AMX) and on no others, so what it gives is compared. Knows nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache as once
from typing import Any

import torch
import torch.nn.functional as F

LEAST_ROWS = 32  # with fewer, preparing a product takes longer than it gains
_GAIN = 1.15  # less is within what measurements differ by
_FLOAT32, _ONEDNN = "ieee", "bf16"
_TRIED = (4, 1024, 64)  # heads, tokens and width of an attention, as in a vision encoder
_ROUNDS = 6

_matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # of the process


@contextmanager
def multiplying(rows: int) -> Iterator[None]:
    """A pass over so many rows. Passes may lie within each other, on one thread."""
    if not is_faster():
        yield
        return
    before = _used()
    _use(_ONEDNN if rows >= LEAST_ROWS else _FLOAT32)
    try:
        yield
    finally:
        _use(before)


@once
@torch.inference_mode()
def is_faster() -> bool:
    """Whether oneDNN is faster on this machine, and as exact; tried once, in 0.1 s."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, *_TRIED, generator=generator) for _ in range(3))
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    best_s = dict.fromkeys((_FLOAT32, _ONEDNN), float("inf"))
    errors = dict[str, float]()
    before = _used()
    try:
        for _ in range(_ROUNDS):  # by turns, so that a busy moment meets both
            for way in best_s:
                _use(way)
                start_s = time.perf_counter()
                result = F.scaled_dot_product_attention(query, key, value)
                best_s[way] = min(best_s[way], time.perf_counter() - start_s)
                errors[way] = float((result - exact).abs().max())
    finally:
        _use(before)
    is_exact = errors[_ONEDNN] < 4 * errors[_FLOAT32]  # by rounding, it would be a thousand times
    return is_exact and best_s[_FLOAT32] > _GAIN * best_s[_ONEDNN]


def _used() -> str:
    return str(_matmul.fp32_precision)


def _use(way: str) -> None:
    _matmul.fp32_precision = way
