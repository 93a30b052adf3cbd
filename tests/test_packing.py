"""A model computes the same while its layers are packed, and after packing has been given up."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import opened
from support.until import until
from torch import Tensor, nn

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.model import machine, packing
from qwen_vl.engine.model.both_sides import Int8Part, Judgement, Product
from qwen_vl.engine.model.input_forms import INPUT_FORMS
from qwen_vl.engine.model.machine import Speeds
from qwen_vl.engine.model.packing import Packing
from qwen_vl.engine.model.quantize import Int8Linear, Wide
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Message, TextPart

SIZE = 64
JUDGED: Judgement = {paths: torch.tensor([0]) for paths in ("a,b", "c", "d")}
ENDS_S = 30.0
BITS = 7  # of a form whose product is one of this module here, so that no kernel is needed


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (
            Int8Linear(torch.randn(SIZE, SIZE), torch.randn(SIZE), Wide()) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.a(x), self.b(x), self.c(x * 2), self.d(x * 3)])


def kinds(block: Block) -> list[type[nn.Module]]:
    return [type(layer) for layer in (block.a, block.b, block.c, block.d)]


def product(before: Callable[[], None] = lambda: None) -> type[Product]:
    """What is packed multiplies as it should, on any CPU; `before` it is, something happens."""

    class Plain(Product):
        def __init__(self, layers: Sequence[Int8Linear], outliers: Tensor | None) -> None:
            before()
            super().__init__(layers, outliers)
            self.weight = torch.cat([layer.dequantised() for layer in layers])

        def fine(self, x: Tensor) -> Tensor:
            return x @ self.weight.T

        coarse = fine

    return Plain


@pytest.fixture(autouse=True)
def in_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "AT_ONCE_BYTES", 0)


@torch.inference_mode()
def test_a_model_computes_the_same_at_any_moment() -> None:
    block, x = Block(), torch.randn(40, SIZE)
    expected = block(x)
    begin, packed = threading.Semaphore(0), threading.Semaphore(0)

    def turn() -> None:
        packed.release()
        assert begin.acquire(timeout=ENDS_S)

    one = product(turn)
    work = Packing(block, JUDGED, one)
    work.start()
    seen = []
    for _ in JUDGED:
        assert packed.acquire(timeout=ENDS_S)  # those before stand in their places
        seen.append(kinds(block))
        for _ in range(2):
            torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-3)
        begin.release()
    work.wait()
    seen.append(kinds(block))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-3)
    layer = Int8Linear
    assert seen == [
        [layer, layer, layer, layer],
        [Int8Part, Int8Part, layer, layer],
        [Int8Part, Int8Part, one, layer],
        [Int8Part, Int8Part, one, one],
    ]


@torch.inference_mode()
def test_it_can_be_given_up_and_the_other_layers_stay() -> None:
    block, x = Block(), torch.randn(40, SIZE)
    expected = block(x)
    begun, go_on = threading.Event(), threading.Event()

    def turn() -> None:
        begun.set()
        assert go_on.wait(ENDS_S)

    work = Packing(block, JUDGED, product(turn))
    work.start()
    assert begun.wait(ENDS_S)
    threading.Timer(0.1, go_on.set).start()
    work.stop()
    assert kinds(block) == [Int8Part, Int8Part, Int8Linear, Int8Linear]
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-3)
    work.stop()  # for good


def test_without_memory_the_layers_stay_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full() -> None:
        raise MemoryError

    block, x = Block(), torch.randn(40, SIZE)
    expected = block(x)
    work = Packing(block, JUDGED, product(full))
    work.start()
    work.wait()
    assert kinds(block) == [Int8Linear] * 4
    assert torch.equal(block(x), expected)
    assert "No memory is left to pack more layers" in caplog.text


def test_few_weights_are_packed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "AT_ONCE_BYTES", 4 * SIZE * SIZE)
    block, one = Block(), product()
    Packing(block, JUDGED, one).start()
    assert kinds(block) == [Int8Part, Int8Part, one, one]


def test_nothing_to_pack_and_nothing_begun_end_at_once() -> None:
    work = Packing(Block(), {}, product())
    work.wait()
    work.start()
    work.stop()
    Packing(Block(), JUDGED, product()).stop()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No layer is packed before it is opened, on a CPU that gains by it, as far as it knows."""
    found = threading.Event()

    def wait() -> None:
        assert found.wait(ENDS_S)

    form = replace(INPUT_FORMS[BITS], product=product(wait))
    monkeypatch.setitem(INPUT_FORMS, BITS, form)
    gains = {"float32": 1.0, "bfloat16": 1.0, "int8": 2.0, "int4": 2.0}
    monkeypatch.setattr(machine, "measured", lambda *_: Speeds(gains, gains, BITS))
    yield found
    found.set()


def answer(engine: Engine) -> str:
    asked = [Message("user", (TextPart("Hello"),))]
    params = SamplingParams(temperature=0, max_new_tokens=4)
    return "".join(chunk.text for chunk in engine.stream(asked, params))


@pytest.fixture
def engine(
    gate: threading.Event, tiny_checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> Engine:
    """One that is ready, and has packed nothing yet."""
    caplog.set_level(logging.INFO)
    model = str(tiny_checkpoints["qwen_text"])
    return opened(Settings(model=model, device="cpu", quantize="int8"))


def test_an_engine_answers_before_its_layers_are_packed(
    engine: Engine, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    assert engine.status().state == "ready"
    before = answer(engine)
    assert "Layers packed" not in caplog.text
    gate.set()
    until(lambda: "Layers packed" in caplog.text)
    after = answer(engine)
    engine.close()
    assert before
    assert after


def test_an_engine_that_is_closed_packs_no_more(
    engine: Engine, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    threading.Timer(0.1, gate.set).start()
    engine.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("packing")]
    assert "Layers packed" not in caplog.text


def test_what_was_packed_goes_with_the_engine(
    engine: Engine, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    gate.set()
    until(lambda: "Layers packed" in caplog.text)
    product = INPUT_FORMS[BITS].product

    def packed() -> int:
        return sum(isinstance(one, product) for one in gc.get_objects())

    assert packed() > 0
    engine.close()
    gc.collect()
    assert packed() == 0
