"""The ways to round what int8 layers read, by the bits of a digit: the better one first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qwen_vl.engine.model import both_sides, seven_bits
from qwen_vl.engine.model.both_sides import Apart, Int8Product, Product
from qwen_vl.engine.model.seven_bits import SevenBitProduct


@dataclass(frozen=True)
class InputForm:
    """`is_exact` tells whether this machine can; `outliers` belong to its coarse products."""

    is_exact: Callable[[], bool]
    product: type[Product]
    outliers: Apart


INPUT_FORMS = {
    8: InputForm(both_sides.is_exact, Int8Product, both_sides.outliers),
    7: InputForm(seven_bits.is_exact, SevenBitProduct, seven_bits.outliers),
}
