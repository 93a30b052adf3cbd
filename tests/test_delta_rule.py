"""The gated delta rule against transformers' own, and token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_models import qwen3_5
from torch import Tensor
from transformers import AutoModelForImageTextToText
from transformers.models.qwen3_5 import modeling_qwen3_5 as plain

from qwen_vl.engine.model.delta_rule import (
    CHUNK,
    chunk_rule,
    copying,
    step_convolution,
    step_rule,
    use_on_cpu,
)


def inputs(
    rows: int, tokens: int, key_heads: int, heads: int, *, alike: bool = False
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(tokens)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    key = noise(rows, 1, key_heads, 16).expand(-1, tokens, -1, -1)
    return {
        "query": noise(rows, tokens, key_heads, 16),
        "key": key if alike else key + noise(rows, tokens, key_heads, 16),
        "value": noise(rows, tokens, heads, 8),
        "g": -noise(rows, tokens, heads).abs() * (0 if alike else 1),
        "beta": noise(rows, tokens, heads).sigmoid() ** (0 if alike else 1),
    }


@pytest.mark.parametrize("tokens", [1, CHUNK - 1, CHUNK, 3 * CHUNK + 5])
@pytest.mark.parametrize(("rows", "key_heads", "heads"), [(1, 4, 4), (2, 2, 6)])
def test_it_computes_what_transformers_does(
    tokens: int, rows: int, key_heads: int, heads: int
) -> None:
    given = inputs(rows, tokens, key_heads, heads)
    state = torch.randn(rows, heads, 16, 8, generator=torch.Generator().manual_seed(0))
    for before in (None, state):
        options = {"initial_state": before, "output_final_state": True}
        ours = chunk_rule(**given, **options, use_qk_l2norm_in_kernel=True)
        theirs = plain.torch_chunk_gated_delta_rule(
            **given, **options, use_qk_l2norm_in_kernel=True
        )
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rows", "key_heads", "heads"), [(1, 4, 4), (3, 2, 6)])
def test_a_step_computes_what_transformers_does(rows: int, key_heads: int, heads: int) -> None:
    given = inputs(rows, 1, key_heads, heads)
    state = torch.randn(rows, heads, 16, 8, generator=torch.Generator().manual_seed(0))
    options = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
    theirs = plain.torch_recurrent_gated_delta_rule(**given, **options, initial_state=state.clone())
    ours = step_rule(**given, **options, initial_state=state)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, theirs[1], rtol=1e-4, atol=1e-5)  # in its place


@pytest.mark.parametrize("kept", [3, 4])  # columns of the state
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_the_convolution_computes_what_transformers_does(
    kept: int, has_bias: bool, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    x, state, weight = noise(2, 6, 1), noise(2, 6, kept), noise(6, 4)
    bias = noise(6) if has_bias else None
    other = state.clone()
    theirs = plain.causal_conv1d_update(x, other, weight, bias, "silu")
    ours = step_convolution(x, state, weight, bias, "silu")
    exact = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {}  # else a last digit
    torch.testing.assert_close(ours, theirs, **exact)
    torch.testing.assert_close(state, other)


def test_states_are_copied_midway() -> None:
    given = inputs(1, 2 * CHUNK + 9, 2, 4)
    options = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
    plain_output, plain_state = chunk_rule(**given, **options)
    with copying([5, CHUNK + 3]) as copies:
        output, state = chunk_rule(**given, **options)
    torch.testing.assert_close(output, plain_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, plain_state, rtol=1e-4, atol=1e-5)
    for after, copied in zip([5, CHUNK + 3], copies[0], strict=True):
        head = {name: tensor[:, :after] for name, tensor in given.items()}
        torch.testing.assert_close(copied, chunk_rule(**head, **options)[1], rtol=1e-4, atol=1e-5)
    assert len(copies) == 1  # nothing is copied any more


def test_equal_keys_that_nothing_decays_keep_their_digits() -> None:
    """A white picture's tokens: the systems are as far from the identity as they can be."""
    given = inputs(1, 4 * CHUNK, 2, 2, alike=True)
    options = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
    ours = chunk_rule(**given, **options)
    one_by_one = plain.torch_recurrent_gated_delta_rule(**given, **options)
    for one, other in zip(ours, one_by_one, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_only_the_given_model_computes_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen_vl.engine.model import delta_rule

    calls: list[int] = []

    def counted(*args: Tensor, **options: object) -> object:
        calls.append(args[0].shape[1])
        return chunk_rule(*args, **options)

    monkeypatch.setattr(delta_rule, "chunk_rule", counted)
    folder = qwen3_5(tmp_path / "model")
    ours, other = (AutoModelForImageTextToText.from_pretrained(folder).eval() for _ in range(2))
    use_on_cpu(ours)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        expected = other(ids).logits
        assert not calls
        torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-3, atol=1e-5)
    assert calls == [37, 37]  # its recurrent layers
