"""What breaks in one request, or in one step, is told and ends there: the engine answers on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import opened
from support.held import inference_held
from support.oracle import Oracle
from support.until import PATIENCE_S, until
from test_engine import GREEDY, picture, run, text_of, user

from qwen_vl.config import Settings
from qwen_vl.engine import Engine, open_engine
from qwen_vl.engine.local import scheduler
from qwen_vl.engine.local.batch import Batch, Row
from qwen_vl.engine.local.cache import RoomyLayer
from qwen_vl.engine.local.sampler import Sampler
from qwen_vl.engine.model import checkpoint
from qwen_vl.errors import Busy, EngineFailed, ModelUnavailable
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk

OUT_OF_MEMORY = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB"),
)
FIRST = [user(picture(1), "What is this?")]
SECOND = [user(picture(2), "And this one, what may it be?")]


@pytest.fixture(scope="module")
def oracle(tiny_checkpoints: dict[str, Path]) -> Oracle:
    return Oracle(tiny_checkpoints["qwen3_vl"])


@pytest.fixture
def engine(tiny_checkpoints: dict[str, Path]) -> Iterator[Engine]:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"])))
    yield engine
    engine.close()


def raising_once(plain: Callable[..., Any], error: Exception, at: Callable[..., bool]) -> Any:
    """`plain`, but for the first call that `at` picks by its arguments."""
    left = [error]

    def wrapped(*args: Any, **named: Any) -> Any:
        if left and at(*args):
            raise left.pop()
        return plain(*args, **named)

    return wrapped


def both(engine: Engine, second: SamplingParams = GREEDY) -> list[list[Chunk] | Exception]:
    """Asks both at the same moment, the first first -> what each reader got."""
    with inference_held(engine):
        answers = [engine.stream(FIRST, GREEDY), engine.stream(SECOND, second)]

    def read(answer: Any) -> list[Chunk] | Exception:
        try:
            return list(answer)
        except EngineFailed as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(read, answers))


def right(told: list[Chunk] | Exception, oracle: Oracle, messages: Any) -> bool:
    return isinstance(told, list) and text_of(told) == oracle.text(messages, GREEDY.max_new_tokens)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_no_memory_for_a_row_to_join_leaves_the_others_as_they_were(
    error: Exception, engine: Engine, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[RoomyLayer] = []

    def second_layer(layer: RoomyLayer, *_: Any) -> bool:
        calls.append(layer)
        return len(calls) == 2  # the first layer has the new row already

    monkeypatch.setattr(
        RoomyLayer, "take_in", raising_once(RoomyLayer.take_in, error, second_layer)
    )
    first, second = both(engine)
    assert len(calls) == 2
    assert right(first, oracle, FIRST)
    assert isinstance(second, EngineFailed)
    assert "not enough memory" in str(second)
    assert engine.status().answers
    assert right(run(engine, SECOND), oracle, SECOND)


def test_a_sampler_that_fails_ends_its_own_answer(
    engine: Engine, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one's, at its fourth token."""
    calls: Counter[Sampler] = Counter()

    def later(sampler: Sampler, _: torch.Tensor) -> bool:
        calls[sampler] += 1
        _, *asked = calls  # the first is of the answer that is held
        return asked[1:] == [sampler] and calls[sampler] == 4

    error = ValueError("no such token")
    monkeypatch.setattr(Sampler, "next_token", raising_once(Sampler.next_token, error, later))
    first, second = both(engine)
    assert right(first, oracle, FIRST)
    assert isinstance(second, EngineFailed)
    assert right(run(engine, SECOND), oracle, SECOND)


@pytest.mark.parametrize("method", ["step", "leave"])
def test_a_step_that_fails_ends_its_answers_and_no_later_one(
    method: str, engine: Engine, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_rows(batch: Batch, arguments: list[Row] | list[int]) -> bool:
        return len(batch.rows) == 2 and (method == "step" or len(arguments) == 1)

    failing = raising_once(getattr(Batch, method), OUT_OF_MEMORY[0], two_rows)
    monkeypatch.setattr(Batch, method, failing)
    short = SamplingParams(temperature=0, presence_penalty=0, max_new_tokens=4)
    first, second = both(engine, short)
    assert isinstance(first, EngineFailed)
    if method == "step":
        assert isinstance(second, EngineFailed)
    else:  # it had been told whole when its row left
        assert isinstance(second, list)
        assert second[-1].finish_reason == "length"
    assert engine.status().answers
    assert engine.stats().running == 0
    assert right(run(engine, FIRST), oracle, FIRST)


def test_nearly_no_temperature_is_greedy(engine: Engine, oracle: Oracle) -> None:
    cold = SamplingParams(temperature=1e-40, presence_penalty=0, max_new_tokens=24)
    assert right(run(engine, FIRST, cold), oracle, FIRST)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_inference_thread_that_dies_says_so_and_leaves_no_reader_waiting(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug outside of any request")

    with inference_held(engine):
        monkeypatch.setattr(scheduler.Scheduler, "admit", broken)
        engine.stream(FIRST, GREEDY)  # out of the queue when the thread dies
        waiting = engine.stream(SECOND, GREEDY)
    with pytest.raises(ModelUnavailable, match="has died"):
        list(waiting)
    status = engine.status()
    assert status.state == "failed"
    assert "restart the server" in status.detail
    with pytest.raises(ModelUnavailable):
        engine.stream(FIRST, GREEDY)


@pytest.fixture
def in_prefill(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Makes prefills endless; set once one is under way."""
    begun = threading.Event()

    def endless(*_: Any) -> Iterator[None]:
        while True:
            begun.set()
            time.sleep(0.01)
            yield

    monkeypatch.setattr(scheduler, "prefill", endless)
    return begun


def test_closing_ends_a_prefill_that_is_under_way(
    engine: Engine, in_prefill: threading.Event
) -> None:
    answer = engine.stream(FIRST, GREEDY)
    assert in_prefill.wait(PATIENCE_S)
    engine.close()
    assert [chunk.finish_reason for chunk in answer] == ["cancelled"]


def test_closing_gives_up_a_model_that_is_being_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def endless(_: Settings, report: Any, weigh: Any) -> None:
        while True:
            report("Downloading", None)
            begun.set()
            time.sleep(0.01)

    monkeypatch.setattr(checkpoint, "find", endless)
    engine = open_engine(Settings(model="bundled"))
    assert begun.wait(PATIENCE_S)
    engine.close()
    until(lambda: engine.status().state != "loading")
    with pytest.raises(ModelUnavailable, match="shutting down"):
        engine.stream(FIRST, GREEDY)


def test_a_request_in_its_prefill_counts_where_nobody_may_wait(
    tiny_checkpoints: dict[str, Path], in_prefill: threading.Event
) -> None:
    settings = Settings(model=str(tiny_checkpoints["qwen3_vl"]), max_batch=1, max_queue=0)
    engine = opened(settings)
    engine.stream(FIRST, GREEDY)
    assert in_prefill.wait(PATIENCE_S)
    with pytest.raises(Busy):
        engine.stream(SECOND, GREEDY)
    engine.close()
