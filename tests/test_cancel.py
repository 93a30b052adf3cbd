"""Cancelling in every phase: counted in passes through the model, not in seconds."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import opened
from test_engine import GREEDY, LONG, picture, run, user
from torch.nn.modules.module import register_module_forward_hook
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLForConditionalGeneration,
    Qwen3VLVisionModel,
)

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.local import prefill


class Watch:
    """Counts the passes through the model that runs, and lets a test act in the middle of one."""

    def __init__(self) -> None:
        self.rows: list[int] = []  # of each pass
        self.encoded = 0  # pictures that went through the vision encoder
        self.caches: list[weakref.ref] = []
        self.at: dict[tuple[str, int], Callable[[], None]] = {}
        self._hook = register_module_forward_hook(self._seen, with_kwargs=True)

    @property
    def forwards(self) -> int:
        return len(self.rows)

    def _seen(self, module: Any, _: Any, kwargs: dict[str, Any], __: Any) -> None:
        if isinstance(module, Qwen3VLForConditionalGeneration):
            self.rows.append(len(kwargs["input_ids"]))
            self.caches.append(weakref.ref(kwargs["past_key_values"]))
            self.at.pop(("forward", self.forwards), lambda: None)()
        elif isinstance(module, Qwen3VLVisionModel):
            self.encoded += 1
            self.at.pop(("encode", self.encoded), lambda: None)()

    def remove(self) -> None:
        self._hook.remove()


@pytest.fixture
def engine(tiny_checkpoints: dict[str, Path]) -> Iterator[Engine]:
    engine = opened(
        Settings(model=str(tiny_checkpoints["qwen3_vl"]), prefix_cache_mb=0, draft="off")
    )
    yield engine
    engine.close()


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    watch.remove()


def ended(engine: Engine, watch: Watch) -> int:
    """Passes so far, once the engine has answered somebody else after the cancelled one."""
    before = watch.forwards
    other = run(engine, [user("Other")])
    mine = other[-1].usage.completion_tokens  # its prefill gives the first token
    return watch.forwards - mine if watch.forwards > before else before


def test_while_decoding(engine: Engine, watch: Watch) -> None:
    answer = engine.stream([user("A")], LONG)
    watch.at["forward", 5] = answer.close
    assert list(answer)[-1].finish_reason == "cancelled"
    assert ended(engine, watch) == 5
    assert watch.caches[0]() is None  # and its memory is back


def test_in_the_middle_of_a_long_prompt(
    engine: Engine, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill, "CHUNK_TOKENS_CPU", 8)
    answer = engine.stream([user("Many words " * 30)], GREEDY)
    watch.at["forward", 2] = answer.close
    assert list(answer)[-1].finish_reason == "cancelled"
    monkeypatch.setattr(prefill, "CHUNK_TOKENS_CPU", 256)
    assert ended(engine, watch) == 2
    assert watch.caches[0]() is None


def test_between_pictures(engine: Engine, watch: Watch) -> None:
    pictures = [picture(seed) for seed in range(4)]
    answer = engine.stream([user(*pictures, "What differs?")], GREEDY)
    watch.at["encode", 2] = answer.close
    assert list(answer)[-1].finish_reason == "cancelled"
    assert ended(engine, watch) == 0
    assert watch.encoded == 2


def test_in_the_queue(tiny_checkpoints: dict[str, Path], watch: Watch) -> None:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"]), max_batch=1))
    running = engine.stream([user("A")], LONG)
    next(running)
    waiting = engine.stream([user(picture(9), "B")], GREEDY)
    waiting.close()
    running.close()
    assert list(waiting)[-1].finish_reason == "cancelled"
    run(engine, [user("Other")])
    assert watch.encoded == 0  # its picture was never looked at
    engine.close()


def test_one_of_a_batch(engine: Engine, watch: Watch) -> None:
    """The row is gone from the very next step; the others do not notice."""
    rows = watch.rows
    first, second = engine.stream([user("A")], LONG), engine.stream([user("B")], LONG)
    next(first), next(second)
    while not rows or rows[-1] != 2:
        next(second)
    closed_at = len(rows)
    first.close()
    list(first)
    while len(rows) < closed_at + 4:
        next(second)
    second.close()
    assert set(rows[closed_at + 2 : closed_at + 4]) == {1}  # one step may have been under way
