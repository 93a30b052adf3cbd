"""When an answer counts as a loop, on tokens made up here."""

from __future__ import annotations

import random

import pytest

from qwen_vl.engine.local.loops import LEAST_TOKENS, LONGEST_CYCLE, is_looping


def first_found(tokens: list[int]) -> int | None:
    """How many tokens it took to see the loop, as the engine asks after every one."""
    return next((n for n in range(1, len(tokens) + 1) if is_looping(tokens[:n])), None)


@pytest.mark.parametrize("cycle", [1, 2, 7, LONGEST_CYCLE])
def test_a_loop_is_found_and_not_too_soon(cycle: int) -> None:
    start = random.Random(cycle).choices(range(1000), k=50)
    tokens = start + list(range(2000, 2000 + cycle)) * 1000
    found = first_found(tokens)
    assert found is not None
    assert found >= LEAST_TOKENS
    assert found < 50 + max(LEAST_TOKENS, 10 * cycle) + 32 + cycle


def test_text_that_goes_on_is_no_loop() -> None:
    draw = random.Random(1)
    assert first_found(draw.choices(range(50), k=3000)) is None
    rows = [token for row in range(300) for token in (1, 2, 3, row, 4)]  # a table with numbers
    assert first_found(rows) is None


def test_a_long_ruled_line_is_no_loop() -> None:
    assert first_found([5] * 200 + [6, 7, 8]) is None
