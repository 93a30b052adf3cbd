"""Rounded linear layers compute what their codes say, and models made of them still answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import opened
from PIL import Image
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from qwen_vl.bench import accuracy
from qwen_vl.config import Settings
from qwen_vl.engine.model.checkpoint import Checkpoint
from qwen_vl.engine.model.int4 import GROUP, mean_squares, round_to_int4
from qwen_vl.engine.model.load import load
from qwen_vl.engine.model.machine import Choice
from qwen_vl.engine.model.quantize import Int4Linear, Int8Linear, Wide, is_rounded, quantize
from qwen_vl.engine.model.samples import importance
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import ImagePart, Message, TextPart

# Activations are rounded to bfloat16, which has 8 bits: the error of a sum stays below this share
# of the largest result.
BFLOAT16_SHARE = 0.02


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(128, 256, generator=torch.Generator().manual_seed(0)) * 0.05


@pytest.mark.parametrize("rows", [1, 3, 16, 17, 40])
@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16])
def test_int8_computes_what_its_codes_say(
    weight: torch.Tensor, rows: int, product: torch.dtype
) -> None:
    bias = torch.linspace(-1, 1, 128)
    layer = Int8Linear(weight, bias, Wide(product))
    assert (layer.dequantised() - weight).abs().max() <= weight.abs().amax(1).max() / 127
    x = torch.randn(2, rows, 256)
    expected = x @ layer.dequantised().T + bias
    error = (layer(x[:1]) - expected[:1]).abs().max()
    assert layer(x[:1]).dtype == torch.float32
    assert error <= BFLOAT16_SHARE * expected.abs().max()


def test_prefill_in_float32_is_exact_up_to_rounding(weight: torch.Tensor) -> None:
    layer = Int8Linear(weight, None, Wide())
    x = torch.randn(40, 256)
    torch.testing.assert_close(layer(x), x @ layer.dequantised().T, rtol=1e-5, atol=1e-5)


def test_int8_keeps_a_row_of_zeros(weight: torch.Tensor) -> None:
    weight[5] = 0
    layer = Int8Linear(weight, None, Wide())
    assert (layer(torch.randn(2, 256))[:, 5] == 0).all()


@pytest.mark.parametrize("rows", [1, 40])
def test_int4_computes_what_its_codes_say(weight: torch.Tensor, rows: int) -> None:
    codes, scales_and_zeros = round_to_int4(weight)
    assert codes.min() >= 0
    assert codes.max() <= 15
    scales, zeros = scales_and_zeros.float().transpose(0, 1).repeat_interleave(GROUP, 1).unbind(-1)
    meant = meant_by(codes, scales_and_zeros)
    # Half a step, what bfloat16 takes from scale and zero, and what lies beyond the codes' reach.
    inside = (codes > 0) & (codes < 15)
    assert ((meant - weight).abs() <= 0.6 * scales + 0.01 * zeros.abs())[inside].all()
    assert inside.float().mean() > 0.8
    x = torch.randn(rows, 256)
    expected = x @ meant.T
    assert (Int4Linear(weight, None)(x) - expected).abs().max() <= (
        BFLOAT16_SHARE * expected.abs().max()
    )


def meant_by(codes: torch.Tensor, scales_and_zeros: torch.Tensor) -> torch.Tensor:
    scales, zeros = scales_and_zeros.float().transpose(0, 1).repeat_interleave(GROUP, 1).unbind(-1)
    return (codes - 8) * scales + zeros


def test_int4_keeps_what_16_values_can_say(weight: torch.Tensor) -> None:
    levels = torch.arange(16) * 0.25 - 2  # in bfloat16 without loss
    weight = levels[torch.randint(16, (128, 256), generator=torch.Generator().manual_seed(1))]
    weight[:, ::GROUP], weight[:, 1::GROUP] = levels[0], levels[-1]
    torch.testing.assert_close(meant_by(*round_to_int4(weight)), weight, rtol=0, atol=0.02)
    same = torch.full((64, 64), 0.5)
    assert torch.equal(meant_by(*round_to_int4(same)), same)


def test_int4_is_finer_where_inputs_are_large(weight: torch.Tensor) -> None:
    random = torch.Generator().manual_seed(2)
    x = torch.randn(512, 256, generator=random) * torch.rand(256, generator=random) ** 4
    layer = nn.Linear(256, 128)
    seen = mean_squares({"it": layer}, lambda: layer(x[:256]))  # and judged by the other half

    def error(importance: torch.Tensor | None) -> float:
        wrong = meant_by(*round_to_int4(weight, importance)) - weight
        return float((x[256:] @ wrong.T).square().mean())

    assert error(seen["it"]) < 0.7 * error(None)


def test_int4_goes_by_what_each_layer_is_given(tiny_checkpoints: dict[str, Path]) -> None:
    found = Checkpoint(tiny_checkpoints["qwen3_vl"], "tiny")
    choice = Choice("cpu", torch.float32, 1, "", "int4")
    seen = importance(found, choice, lambda *_: None)
    judged = load(found, choice, lambda *_: None, None, lambda: seen).model
    whole = AutoModelForImageTextToText.from_pretrained(found.folder, dtype="auto")
    assert seen.keys() == {path for path, one in whole.named_modules() if is_rounded(path, one)}
    quantize(whole, "int4", Wide(), seen)
    blind = load(found, choice, lambda *_: None).model
    layer = next(path for path, one in judged.named_modules() if isinstance(one, Int4Linear))
    packed = [model.get_submodule(layer).packed for model in (judged, whole, blind)]
    assert torch.equal(packed[0], packed[1])
    assert not torch.equal(packed[0], packed[2])


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl", "qwen_text"])
def test_models_answer_with_rounded_weights(
    family: str, scheme: str, tiny_checkpoints: dict[str, Path]
) -> None:
    engine = opened(Settings(model=str(tiny_checkpoints[family]), device="cpu", quantize=scheme))
    assert engine.status().state == "ready", engine.status().detail
    assert engine.status().dtype == scheme
    parts = (TextPart("Hello"),)
    if engine.status().accepts_images:
        parts = (ImagePart(Image.new("RGB", (96, 64), "red")), *parts)
    question = [Message("user", parts)]
    params = SamplingParams(temperature=0, max_new_tokens=5)
    first, second = (list(engine.stream(question, params)) for _ in range(2))
    engine.close()
    assert first[-1].usage.completion_tokens > 0
    assert "".join(c.text for c in first) == "".join(c.text for c in second)


def test_no_plain_linear_layer_is_left(tiny_checkpoints: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        tiny_checkpoints["qwen_text"], dtype=torch.bfloat16
    )
    quantize(model, "int8", Wide())
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_shuffled_channels_change_nothing(tiny_checkpoints: dict[str, Path]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny_checkpoints["qwen_text"], dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    expected = plain(ids).logits
    shuffled = accuracy.read(tiny_checkpoints["qwen_text"])
    same = plain.model.layers[0].mlp.up_proj.weight.equal(
        shuffled.model.layers[0].mlp.up_proj.weight
    )
    assert not same
    torch.testing.assert_close(shuffled(ids).logits, expected, rtol=1e-3, atol=1e-4)


def test_accuracy_command(
    tiny_checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy.main([str(tiny_checkpoints["qwen_text"]), "--tokens", "300"])
    assert "| float32 | 1.000 | 0.0000 |" in capsys.readouterr().out


def test_fewer_bits_agree_less(tiny_checkpoints: dict[str, Path]) -> None:
    kl = {one.name: one.kl for one in accuracy.measure(tiny_checkpoints["qwen_text"], 100)}
    assert 0 < kl["int8 weights, multiplied in float32"] < kl["int4 weights alone, decode"]


def test_an_embedding_that_does_more_than_look_up_is_kept() -> None:
    class Scaled(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * 3

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = Scaled(10, 64), nn.Linear(64, 64, bias=False)

        def get_input_embeddings(self) -> nn.Module:
            return self.embed

        def get_output_embeddings(self) -> nn.Module:
            return self.head

    model, ids = Tiny(), torch.arange(10)
    before = model.embed(ids)
    quantize(model, "int8", Wide())
    assert torch.equal(model.embed(ids), before)
    assert isinstance(model.head, Int8Linear)
