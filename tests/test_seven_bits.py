"""Digits of 7 bits: whole steps, second digits, layers that stay fine, rows that stay apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qwen_vl.engine.model.both_sides import MOST_FINE_ROWS, Int8Part, judge
from qwen_vl.engine.model.packing import Packing
from qwen_vl.engine.model.quantize import Int8Linear, Wide
from qwen_vl.engine.model.seven_bits import SevenBitProduct, is_exact, outliers

MANY = MOST_FINE_ROWS + 32
IN, OUT = 256, 128
LARGE = torch.tensor([3, 77])

exactly = pytest.mark.skipif(not is_exact(), reason="this CPU does not multiply bytes")


def layer(seed: int = 0, bias: torch.Tensor | None = None) -> Int8Linear:
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(seed)) * 0.05
    return Int8Linear(weight, bias, Wide())


def inputs(rows: int = MANY, seed: int = 1) -> torch.Tensor:
    """Rows of very different size, with two columns of large values."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, IN, generator=random)
    x[:, LARGE] *= 60
    return x * torch.logspace(-3, 3, rows)[:, None]


@exactly
def test_what_is_on_whole_steps_is_not_rounded() -> None:
    """63 steps in most columns, 8,064 in those with two digits."""
    exact = layer(bias=torch.linspace(-1, 1, OUT))
    random = torch.Generator().manual_seed(2)
    steps = torch.randint(-63, 64, (MANY, IN), generator=random).float()
    steps[:, LARGE] = torch.randint(-8064, 8065, (MANY, 2), generator=random).float()
    steps[:, 0] = 63
    x = steps * 0.25
    expected = x.double() @ exact.dequantised().double().T + torch.linspace(-1, 1, OUT).double()
    torch.testing.assert_close(
        SevenBitProduct([exact], LARGE)(x).double(), expected, rtol=1e-4, atol=1e-3
    )


@exactly
def test_an_error_is_one_of_rounding() -> None:
    """At most half a step of its row in every column."""
    exact, x = layer(), inputs()
    rest = x.clone()
    rest[:, LARGE] = 0
    step = torch.maximum(rest.abs().amax(1) / 63, x.abs().amax(1) / 8064)
    allowed = step[:, None] / 2 * exact.dequantised().abs().sum(1)
    y, expected = SevenBitProduct([exact], LARGE)(x), x.double() @ exact.dequantised().double().T
    assert ((y - expected).abs() <= allowed * 1.001).all()


@exactly
def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    digits, x = SevenBitProduct([layer()], LARGE), inputs(MANY)
    others = torch.cat([x[:1], inputs(MANY, seed=9) * 100])
    assert digits(x)[0].equal(digits(others)[0])


@exactly
def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = torch.linspace(-1, 1, OUT)
    y = SevenBitProduct([layer(bias=bias)], LARGE)(torch.zeros(2, MANY, IN))
    torch.testing.assert_close(y, bias.expand(2, MANY, OUT))


@exactly
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_row_stays_broken_and_alone(broken: float) -> None:
    """A number that is none must not come out as one that looks right."""
    digits, x = SevenBitProduct([layer()], LARGE), inputs()
    whole = digits(x)
    x[5, 7] = broken
    y = digits(x)
    assert not y[5].isfinite().any()
    kept = torch.arange(MANY) != 5
    assert y[kept].equal(whole[kept])


@exactly
@pytest.mark.parametrize("rows", [1, 5, MOST_FINE_ROWS])
def test_few_rows_are_as_good_as_float32(rows: int) -> None:
    exact, x = layer(), inputs(rows)
    expected = x.double() @ exact.dequantised().double().T
    for apart in (LARGE, None):
        error = (SevenBitProduct([exact], apart)(x) - expected).abs().amax(1)
        assert (error / expected.abs().amax(1)).max() < 1e-3


def test_columns_are_taken_until_the_others_fit() -> None:
    rows = torch.randn(IN, IN, generator=torch.Generator().manual_seed(0)).clamp_(-2.5, 2.5)
    assert len(outliers(rows.abs().amax(0), rows)) == IN // 32
    some = rows.clone()
    some[:, : IN // 8] *= 30
    assert outliers(some.abs().amax(0), some).tolist() == list(range(IN // 8))
    anywhere = rows.clone()
    anywhere.fill_diagonal_(40)
    assert not len(outliers(anywhere.abs().amax(0), anywhere))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = layer(1), layer(2)
        self.spiky = layer(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = torch.zeros_like(x)
        spikes[torch.arange(len(x)), torch.arange(len(x)) * 37 % IN] = 40
        return self.a(x) + self.b(x) + self.spiky(x + spikes)


@exactly
def test_large_values_anywhere_keep_a_layer_fine() -> None:
    block = Block()
    random = torch.Generator().manual_seed(3)
    x = torch.randn(200, IN, generator=random).clamp_(-2.5, 2.5)
    before = block(x)
    judged = judge(block, lambda: block(x), outliers)
    assert {paths: len(columns) for paths, columns in judged.items()} == {"a,b": 8, "spiky": 0}
    Packing(block, judged, SevenBitProduct).run()
    assert isinstance(block.a, Int8Part)
    assert isinstance(block.spiky, SevenBitProduct)
    assert F.cosine_similarity(before, block(x)).min() > 0.999
