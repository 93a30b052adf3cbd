"""Sampling laws, on logits made up here."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from qwen_vl.engine.local.sampler import Sampler
from qwen_vl.sampling import SamplingParams

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
PLAIN = {"top_p": 1.0, "top_k": 0, "presence_penalty": 0.0, "repetition_penalty": 1.0}


def drawn(count: int = 4000, **fields: float) -> Counter[int]:
    """How often each token is drawn first, over many samplers with seeds of their own."""
    return Counter(
        Sampler(SamplingParams(seed=seed, **{**PLAIN, **fields})).next_token(LOGITS)
        for seed in range(count)
    )


def test_greedy_takes_the_likeliest() -> None:
    assert set(drawn(20, temperature=0)) == {0}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    counts = drawn(temperature=temperature)
    expected = (LOGITS / temperature).softmax(0)
    for token, share in enumerate(expected.tolist()):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)


def test_top_k_keeps_k() -> None:
    assert set(drawn(temperature=2.0, top_k=2)) == {0, 1}


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    first, second = LOGITS.softmax(0)[:2].tolist()
    assert set(drawn(temperature=1.0, top_p=first - 0.01)) == {0}
    assert set(drawn(temperature=1.0, top_p=first + 0.01)) == {0, 1}
    assert set(drawn(temperature=1.0, top_p=first + second + 0.01)) == {0, 1, 2}


def test_top_p_of_zero_still_draws_the_likeliest() -> None:
    assert set(drawn(50, temperature=1.0, top_p=0.0)) == {0}


def test_presence_penalty_is_taken_once_per_generated_token() -> None:
    sampler = Sampler(SamplingParams(temperature=0, **{**PLAIN, "presence_penalty": 1.5}))
    # 2.0 -> 0.5 after the first; 1.0 -> -0.5; then 0.5 is ahead of 0.0 and stays so.
    assert [sampler.next_token(LOGITS) for _ in range(4)] == [0, 1, 0, 0]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    logits = torch.tensor([3.0, 2.0, -1.0])
    sampler = Sampler(SamplingParams(temperature=0, **{**PLAIN, "repetition_penalty": 2.0}))
    assert [sampler.next_token(logits) for _ in range(3)] == [0, 1, 0]  # 1.5 against 1.0
    negative = torch.tensor([-1.0, -1.5])
    sampler = Sampler(SamplingParams(temperature=0, **{**PLAIN, "repetition_penalty": 2.0}))
    assert [sampler.next_token(negative) for _ in range(2)] == [0, 1]  # -2.0 against -1.5


def test_logits_of_the_caller_stay_as_they_are() -> None:
    logits = LOGITS.clone()
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=2.0))
    for _ in range(3):
        sampler.next_token(logits)
    assert torch.equal(logits, LOGITS)


def test_same_seed_same_tokens_and_no_seed_differs() -> None:
    def tokens(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.5, seed=seed, **PLAIN))
        return [sampler.next_token(LOGITS) for _ in range(40)]

    assert tokens(5) == tokens(5)
    assert tokens(-5) == tokens(-5)  # negative seeds are seeds too
    assert tokens(5) != tokens(6)
    assert tokens(None) != tokens(None)


def test_frequency_penalty_grows_with_every_use() -> None:
    logits = torch.tensor([2.0, 0.5])
    sampler = Sampler(SamplingParams(temperature=0, frequency_penalty=1.0, **PLAIN))
    # 2.0, then 1.0, then 0.0 against 0.5, then 0.0 against -0.5
    assert [sampler.next_token(logits) for _ in range(4)] == [0, 0, 1, 0]


def test_min_p_is_a_share_of_the_likeliest() -> None:
    first, second, third = LOGITS.softmax(0)[:3].tolist()
    assert set(drawn(temperature=1.0, min_p=second / first - 0.01)) == {0, 1}
    assert set(drawn(temperature=1.0, min_p=third / first - 0.01)) == {0, 1, 2}
    assert set(drawn(50, temperature=1.0, min_p=1.0)) == {0}


def test_logit_bias_bans_and_forces_tokens() -> None:
    banned = SamplingParams(temperature=0, logit_bias=((0, -100.0),), **PLAIN)
    assert Sampler(banned).next_token(LOGITS) == 1
    forced = SamplingParams(temperature=0, logit_bias=((4, 100.0), (0, 1.0)), **PLAIN)
    assert Sampler(forced).next_token(LOGITS) == 4
