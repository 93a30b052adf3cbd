"""How much memory the rows that decode together may take, whatever is asked at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import opened
from support.held import inference_held
from support.oracle import Oracle

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.local.batch import Batch
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Message, TextPart

GREEDY = SamplingParams(temperature=0, presence_penalty=0, max_new_tokens=24)


def asked(text: str) -> list[Message]:
    return [Message("user", (TextPart(text),))]


def told_at_once(engine: Engine, texts: list[str]) -> list[str]:
    with inference_held(engine):
        answers = [engine.stream(asked(text), GREEDY, f"scope {text[:1]}") for text in texts]
    return ["".join(chunk.text for chunk in answer) for answer in answers]


def expected(oracle: Oracle, text: str) -> str:
    """Without half a character at its end, which is never shown."""
    return oracle.text(asked(text), GREEDY.max_new_tokens).rstrip("\N{REPLACEMENT CHARACTER}")


@pytest.fixture(scope="module")
def oracle(tiny_checkpoints: dict[str, Path]) -> Oracle:
    return Oracle(tiny_checkpoints["qwen_text"])


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the rows of every decoding pass."""
    seen: list[list[int]] = []
    plain = Batch.step

    def step(batch: Batch, tokens: list[list[int]]) -> object:
        seen.append([row.length for row in batch.rows])
        return plain(batch, tokens)

    monkeypatch.setattr(Batch, "step", step)
    return seen


def test_long_ones_take_turns_and_short_ones_do_not_wait_for_them(
    tiny_checkpoints: dict[str, Path], oracle: Oracle, passes: list[list[int]]
) -> None:
    folder = tiny_checkpoints["qwen_text"]
    engine = opened(Settings(model=str(folder), max_batch=4, max_context_tokens=800))
    texts = [letter * 400 for letter in "ABC"] + ["Hello", "Hi"]
    told = told_at_once(engine, texts)
    engine.close()
    assert told == [expected(oracle, text) for text in texts]
    # 400 and their answers: two would be more than a conversation of 800 may have.
    assert max(sum(length > 400 for length in lengths) for lengths in passes) == 1
    assert any(min(lengths) < 400 < max(lengths) for lengths in passes)  # beside short ones


def test_rows_of_very_different_length_decode_apart_until_they_are_alike(
    tiny_checkpoints: dict[str, Path], oracle: Oracle, passes: list[list[int]]
) -> None:
    """Padding of the short ones to the length of the long one would outweigh the whole model."""
    folder = tiny_checkpoints["qwen_text"]
    engine = opened(Settings(model=str(folder), max_batch=4))
    texts = ["A" * 3500, "Hello", "Hi", "You"]
    told = told_at_once(engine, texts)
    engine.close()
    assert told == [expected(oracle, text) for text in texts]
    assert all(len(lengths) == 1 for lengths in passes if max(lengths) > 3500)
    assert any(len(lengths) == 3 for lengths in passes)
