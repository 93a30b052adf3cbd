"""int8 on both sides: exact sums, outliers apart, rows that do not touch each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen_vl.config import Settings
from qwen_vl.engine.model import machine
from qwen_vl.engine.model.both_sides import (
    MOST_FINE_ROWS,
    Int8Part,
    Int8Product,
    is_exact,
    judge,
    outliers,
)
from qwen_vl.engine.model.checkpoint import Checkpoint
from qwen_vl.engine.model.input_forms import INPUT_FORMS
from qwen_vl.engine.model.load import load
from qwen_vl.engine.model.packing import Packing
from qwen_vl.engine.model.quantize import Int8Linear, Wide
from qwen_vl.engine.model.samples import to_pack
from qwen_vl.start_cache import StartCache

IN, OUT = 256, 128
OUTLIERS = torch.tensor([3, 77])


def layer(seed: int = 0, bias: Tensor | None = None) -> Int8Linear:
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(seed)) * 0.05
    return Int8Linear(weight, bias, Wide())


def inputs(rows: int, seed: int = 1) -> Tensor:
    """Rows of very different size, with two columns that hold outliers."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, IN, generator=random)
    x[:, OUTLIERS] *= 60
    return x * torch.logspace(-3, 3, rows)[:, None]


def error(y: Tensor, x: Tensor, exact: Int8Linear) -> float:
    """The largest error of any row as a share of what its largest result is."""
    expected = x.double() @ exact.dequantised().double().T
    return float(((y - expected).abs().amax(1) / expected.abs().amax(1)).max())


@pytest.fixture(autouse=True)
def exact_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exact one in place of a CPU's that cuts sums off, so that all else is tested anywhere."""
    if is_exact():
        return

    def multiplied(
        codes: Tensor, _: float, zero: int, weights: Tensor, scales: Tensor, *others: object
    ) -> Tensor:
        return ((codes.double() - zero) @ weights.double().T * scales.double()).float()

    monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", lambda codes, _: codes.clone())
    monkeypatch.setattr(torch.ops.onednn, "qlinear_pointwise", multiplied)


def test_a_cpu_that_cuts_sums_off_does_not_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = {8: replace(INPUT_FORMS[8], is_exact=lambda: False)}
    monkeypatch.setattr(machine, "INPUT_FORMS", forms)
    assert machine.measure.__wrapped__(1).input_bits is None


def test_it_is_taken_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = dict.fromkeys(("float32", "bfloat16", "int8", "int4"), 1.0)
    for bits in (8, 7, None):
        speeds = machine.Speeds(ones, {**ones, "int8": 3.0}, bits)
        monkeypatch.setattr(machine, "measure", lambda _, speeds=speeds: speeds)
        assert machine.choose(Settings(device="cpu")).input_bits == bits
        assert machine.choose(Settings(device="cpu", quantize="int8")).input_bits == bits
        assert machine.choose(Settings(device="cpu", dtype="float32")).input_bits is None


@pytest.mark.parametrize("rows", [1, 5, MOST_FINE_ROWS])
def test_a_fine_product_is_as_good_as_float32(rows: int) -> None:
    exact, x = layer(), inputs(rows)
    assert error(Int8Product([exact], OUTLIERS)(x), x, exact) < 1e-3
    assert error(Int8Product([exact], None)(x), x, exact) < 1e-3


def test_a_coarse_product_keeps_what_stands_beside_outliers() -> None:
    exact, x = layer(), inputs(MOST_FINE_ROWS + 1)
    x[:, OUTLIERS] = x[:, OUTLIERS].bfloat16().float()  # as they are multiplied
    only_rest = exact.dequantised().clone()
    only_rest[:, OUTLIERS] = 0
    y = Int8Product([exact], OUTLIERS)(x)
    expected = x @ exact.dequantised().T
    rest = x @ only_rest.T
    of_outliers = (expected - rest).abs().amax(1)
    # An eighth bit of outliers' weights, and a byte of the others.
    allowed = of_outliers / 128 + rest.abs().amax(1) / 32
    assert ((y - expected).abs().amax(1) <= allowed).all()


@pytest.mark.parametrize("rows", [4, MOST_FINE_ROWS + 6])
def test_a_row_does_not_depend_on_the_rows_beside_it(rows: int) -> None:
    product, x = Int8Product([layer()], None), inputs(rows)
    others = torch.cat([x[:1], inputs(rows - 1, seed=9) * 100])
    assert product(x)[0].equal(product(others)[0])


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = torch.linspace(-1, 1, OUT)
    for rows in (1, MOST_FINE_ROWS + 1):
        y = Int8Product([layer(bias=bias)], OUTLIERS)(torch.zeros(rows, IN))
        torch.testing.assert_close(y, bias.expand(rows, OUT))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = layer(1), layer(2, torch.ones(OUT))
        self.c, self.unused = layer(3), layer(4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.a(x), self.b(x), self.c(x * 2)


def test_layers_that_read_the_same_are_one_product() -> None:
    block, x = Block(), inputs(3)
    expected = block(x)
    judged = judge(block, lambda: [block(inputs(100)) for _ in range(2)], outliers)
    Packing(block, judged, Int8Product).run()
    assert isinstance(block.a, Int8Part)
    assert block.a.shared is block.b.shared
    assert isinstance(block.c, Int8Product)
    assert isinstance(block.unused, Int8Linear)
    assert set(OUTLIERS.tolist()) < set(block.c.outliers.tolist())
    for y, before in zip(block(x), expected, strict=True):
        assert ((y - before).abs().amax(1) / before.abs().amax(1)).max() < 2e-2  # bfloat16's
    again = block.a(x), block.b(x)
    assert again[0].equal(block.a(x.clone()))
    assert not again[0].equal(block.a(inputs(3, seed=5)))  # another input is multiplied anew


def test_large_values_anywhere_keep_a_layer_fine() -> None:
    def spiky(rows: int) -> Tensor:
        x = torch.randn(rows, IN)
        x[torch.arange(rows), torch.randint(IN, (rows,))] = 40
        return x

    block = Block()
    Packing(block, judge(block, lambda: block(spiky(200)), outliers), Int8Product).run()
    assert block.c.outliers is None
    x = spiky(MOST_FINE_ROWS * 2)
    assert error(block.c(x * 2), x * 2, layer(3)) < 1e-3


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl", "qwen_text"])
@pytest.mark.parametrize("bits", INPUT_FORMS)
def test_a_model_computes_what_it_did_before(
    family: str, bits: int, tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    if not INPUT_FORMS[bits].is_exact():
        pytest.skip("this CPU does not have the kernel")
    found = Checkpoint(tiny_checkpoints[family], family)
    choice = machine.Choice("cpu", torch.float32, 1, "", "int8", input_bits=bits)
    with torch.inference_mode():
        plain, rounded = (load(found, choice, lambda *_: None) for _ in range(2))
        cache = StartCache(tmp_path)
        to_pack(rounded, choice, found, cache).run()
        again = load(found, choice, lambda *_: None)
        again.model.register_forward_pre_hook(lambda *_: pytest.fail("it is judged again"))
        to_pack(again, choice, found, cache).run()
        kinds = {type(module) for module in rounded.model.modules()}
        assert {Int8Part, INPUT_FORMS[bits].product} < kinds
        assert rounded.weight_bytes > 0.5 * plain.weight_bytes
        for length in (5, MOST_FINE_ROWS * 2):
            ids = torch.arange(3, 3 + length)[None]
            before, after = (one.model(input_ids=ids).logits[0] for one in (plain, rounded))
            assert F.cosine_similarity(before, after).min() > 0.99
