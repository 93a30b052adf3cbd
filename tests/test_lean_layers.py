"""Steps over few tokens give what transformers' own decoder layers give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, Qwen3Config, Qwen3ForCausalLM

from qwen_vl.engine.local.cache import new_cache
from qwen_vl.engine.model import lean_layers
from qwen_vl.engine.model.checkpoint import Checkpoint
from qwen_vl.engine.model.layers import layer_kinds
from qwen_vl.engine.model.lean_layers import MOST_ROWS
from qwen_vl.engine.model.load import compute_here, load
from qwen_vl.engine.model.machine import Choice
from qwen_vl.engine.model.quantize import Wide, quantize


@pytest.fixture
def model(tiny_checkpoints: dict[str, Path]) -> Any:
    path = tiny_checkpoints["qwen3_vl"]
    return AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval()


def own_steps(model: Any) -> Callable[[], int]:
    """Counts how often a whole layer of transformers' runs from now on."""
    norms = [layer.self_attn.q_norm for layer in text_layers(model)]
    calls: list[nn.Module] = []
    for norm in norms:
        norm.register_forward_hook(lambda norm, *_: calls.append(norm))
    return lambda: len(calls)


def text_layers(model: Any) -> Any:
    inner = model.model
    return getattr(inner, "language_model", inner).layers


@torch.inference_mode()
def conversation(model: Any, widths: list[int], lengths: list[int]) -> list[Tensor]:
    """Logits of steps of these widths behind rows of these lengths, padded on the left."""
    draw = torch.Generator().manual_seed(0)
    rows, columns = len(lengths), max(lengths)
    is_used = torch.arange(columns) >= columns - torch.tensor(lengths)[:, None]
    cache = new_cache(layer_kinds(model.config.get_text_config()))
    places = (is_used.cumsum(1) - 1).clamp(min=0)
    logits = []
    for width in [columns, *widths]:
        ids = torch.randint(3, 200, (rows, width), generator=draw)
        if width < columns:
            is_used = torch.cat([is_used, torch.ones(rows, width, dtype=torch.bool)], 1)
            places = places[:, -1:] + 1 + torch.arange(width)
        out = model(
            input_ids=ids,
            attention_mask=is_used.long(),
            position_ids=places.expand(4, -1, -1) if hasattr(model.model, "visual") else places,
            past_key_values=cache,
            use_cache=True,
        )
        logits.append(out.logits)
    return logits


@pytest.mark.parametrize("lengths", [[50], [50, 50, 50], [41, 50, 47]])
@pytest.mark.parametrize("is_rounded", [False, True])
def test_it_computes_what_transformers_does(
    model: Any, lengths: list[int], is_rounded: bool
) -> None:
    if is_rounded:
        quantize(model, "int8", Wide())
    widths = [1, 1, 4, 1, 3]
    expected = conversation(model, widths, lengths)
    lean_layers.use_on_cpu(model)
    calls = own_steps(model)
    for one, other in zip(conversation(model, widths, lengths), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert calls() == len(text_layers(model))  # of the prompt alone


def test_a_text_model_of_the_same_layers_takes_it_too() -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
    )
    model = Qwen3ForCausalLM(config).eval()
    for layer in model.model.layers:  # as after training: all ones would hide a weight
        nn.init.uniform_(layer.self_attn.q_norm.weight)
        nn.init.uniform_(layer.self_attn.k_norm.weight)
    expected = conversation(model, [1, 2, 1], [40, 37])
    lean_layers.use_on_cpu(model)
    calls = own_steps(model)
    for one, other in zip(conversation(model, [1, 2, 1], [40, 37]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert calls() == 2


@torch.inference_mode()
def test_passes_over_many_tokens_and_without_a_cache_are_transformers_own(model: Any) -> None:
    lean_layers.use_on_cpu(model)
    calls, layers = own_steps(model), len(text_layers(model))
    model(input_ids=torch.full((1, MOST_ROWS + 1), 5), use_cache=True)
    assert calls() == layers
    model(input_ids=torch.full((1, 3), 5), use_cache=False)
    assert calls() == 2 * layers


def test_layers_with_a_window_or_another_activation_are_not_touched() -> None:
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    window = Qwen3Config(**sizes, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    model = Qwen3ForCausalLM(window)
    lean_layers.use_on_cpu(model)
    assert ["forward" in vars(layer) for layer in model.model.layers] == [True, False]
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, hidden_act="gelu"))
    lean_layers.use_on_cpu(model)
    assert not any("forward" in vars(layer) for layer in model.model.layers)


def test_a_model_whose_weights_come_layer_by_layer_is_not_touched(
    tiny_checkpoints: dict[str, Path],
) -> None:
    choice = Choice("cpu", torch.float32, 1, "")
    checkpoint = Checkpoint(tiny_checkpoints["qwen3_vl"], "tiny")
    loaded = load(checkpoint, choice, lambda *_: None)
    expected = conversation(loaded.model, [1, 1], [50])
    cpu_offload(loaded.model, torch.device("cpu"))
    compute_here(loaded)
    for one, other in zip(conversation(loaded.model, [1, 1], [50]), expected, strict=True):
        assert torch.equal(one, other)
