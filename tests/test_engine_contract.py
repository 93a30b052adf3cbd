"""What every engine owes its callers, asked of each kind of engine there is.

All of them run the bundled model, and plain `model.generate` is the judge.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import opened
from support.foreign_servers import TINY_MODEL, transformers_serve
from support.oracle import Oracle
from support.until import PATIENCE_S
from test_api import serving
from test_engine import GREEDY, assistant, picture, run, text_of, user

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.errors import Unsupported, UserError
from qwen_vl.schema import Chunk, ImagePart, Message, TextPart

SERVED = Settings(model="bundled", max_seconds=120)


@contextlib.contextmanager
def local(_: Path) -> Iterator[Engine]:
    engine = opened(SERVED)
    yield engine
    engine.close()


@contextlib.contextmanager
def remote_over(url: str, **more: str) -> Iterator[Engine]:
    engine = opened(Settings(engine="remote", base_url=(url,), max_seconds=120, **more))
    yield engine
    engine.close()


@contextlib.contextmanager
def behind_a_server(engine: Engine) -> Iterator[Engine]:
    with (
        serving(engine, SERVED) as client,
        remote_over(str(client.base_url).rstrip("/") + "/v1") as far,
    ):
        yield far


@contextlib.contextmanager
def own_server(_: Path) -> Iterator[Engine]:
    with behind_a_server(opened(SERVED)) as engine:
        yield engine


@contextlib.contextmanager
def two_hops(folder: Path) -> Iterator[Engine]:
    with own_server(folder) as nearer, behind_a_server(nearer) as engine:
        yield engine


@contextlib.contextmanager
def foreign_server(folder: Path) -> Iterator[Engine]:
    with (
        transformers_serve(folder) as url,
        remote_over(url, remote_model=str(TINY_MODEL)) as engine,
    ):
        yield engine


@contextlib.contextmanager
def ray_replicas(_: Path) -> Iterator[Engine]:
    engine = opened(replace(SERVED, engine="ray", replicas=2))
    yield engine
    engine.close()


ENGINES = {
    "local": local,
    "own server": own_server,
    "two hops": two_hops,
    "transformers serve": foreign_server,
    "ray": ray_replicas,
}


@pytest.fixture(
    scope="module",
    params=[
        *("local", "own server", "two hops", "transformers serve"),
        pytest.param("ray", marks=pytest.mark.beyond),
    ],
)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    with ENGINES[request.param](tmp_path_factory.mktemp("engine")) as engine:
        assert engine.status().state == "ready", engine.status()
        yield engine


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(TINY_MODEL)


def conversations() -> dict[str, list[Message]]:
    """First and later turns, edited ones, other pictures of equal size, frames with times."""
    first = [user(picture(1, 160, 128), "Describe the image.")]
    later = [*first, assistant("There is one shape: a red circle."), user("How many are there?")]
    edited = [*first, assistant("There is a blue star."), user("How many are there?")]
    swapped = [user(picture(2, 160, 128), "Describe the image."), *later[1:]]
    added = [*later[:-1], user(picture(3, 96, 96), "And in this one?")]
    frames = [ImagePart(picture(10 + i, 128, 96), i * 2.0) for i in range(3)]
    return {
        "text": [user("Hello")],
        "system prompt": [Message("system", assistant("Be brief.").parts), user("Who are you?")],
        "picture": first,
        "later turn": later,
        "edited turn": edited,
        "swapped picture": swapped,
        "new picture in a later turn": added,
        "frames": [user(*frames, "Summarise as a timeline.")],
    }


@pytest.mark.parametrize("name", conversations())
def test_greedy_answers_equal_generate(name: str, engine: Engine, oracle: Oracle) -> None:
    messages = conversations()[name]
    assert text_of(run(engine, messages)) == oracle.text(messages, GREEDY.max_new_tokens)


def test_chunks_are_deltas_and_the_last_one_has_the_figures(engine: Engine) -> None:
    chunks = run(engine, conversations()["picture"])
    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in chunks[:-1])
    last = chunks[-1]
    assert last.text == ""
    assert last.finish_reason in ("stop", "length")
    assert last.usage is not None
    assert last.usage.prompt_tokens > 20  # the picture takes twenty
    assert 0 < last.usage.completion_tokens <= GREEDY.max_new_tokens
    assert last.usage.ttft_s > 0
    assert len(chunks) > 5, "it came in one piece"


def test_a_short_limit_is_kept_and_said(engine: Engine) -> None:
    chunks = run(engine, conversations()["picture"], replace(GREEDY, max_new_tokens=3))
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 3


def test_logprobs_are_the_models_own_whatever_sampling_does(
    engine: Engine, oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    messages = [user("Hello")]
    if "transformers serve" in request.node.name:  # it knows no such field, and says nothing of it
        with pytest.raises(Unsupported, match="logprobs"):
            run(engine, messages, replace(GREEDY, logprobs=0))
        return
    hot = replace(GREEDY, temperature=1.5, top_k=5, presence_penalty=1.0, seed=7, logprobs=20)
    with ThreadPoolExecutor(2) as pool:  # in a batch beside a row that asks for none
        plain = pool.submit(run, engine, messages, replace(hot, logprobs=None))
        chunks = run(engine, messages, hot)
    assert not any(chunk.logprobs for chunk in plain.result())
    told = [token for chunk in chunks for token in chunk.logprobs]
    text = text_of(chunks)
    assert text == text_of(plain.result())
    assert b"".join(token.raw for token in told).decode() == text
    ids = oracle.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [oracle.tokenizer.decode([id_]) for id_ in ids] == [token.text for token in told]
    for token, id_, logs in zip(told, ids, oracle.logprobs(messages, ids), strict=True):
        assert token.logprob == pytest.approx(float(logs[id_]), abs=1e-3)
        best = logs.topk(20)
        found = [one.logprob for one in token.likeliest]
        assert found == pytest.approx(best.values.tolist(), abs=1e-3)
        assert token.likeliest[0].text == oracle.tokenizer.decode([int(best.indices[0])])


def test_a_raw_text_is_gone_on_with_as_it_stands(
    engine: Engine, oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    text = "There are three shapes:"
    messages = [Message("raw", (TextPart(text),))]
    tells_logprobs = "transformers serve" not in request.node.name
    for logprobs in (None, 2) if tells_logprobs else (None,):
        params = replace(GREEDY, max_new_tokens=8, logprobs=logprobs)
        chunks = run(engine, messages, params)
        assert text_of(chunks) == oracle.goes_on(text, 8)
        told = [token for chunk in chunks for token in chunk.logprobs]
        raw = b"".join(token.raw for token in told)
        assert raw.decode() == ("" if logprobs is None else text_of(chunks))


def test_several_at_once_are_answered_as_if_alone(engine: Engine, oracle: Oracle) -> None:
    asked = [conversations()[name] for name in ("text", "picture", "later turn", "frames")]
    with ThreadPoolExecutor(len(asked)) as pool:
        told = list(pool.map(lambda messages: text_of(run(engine, messages)), asked))
    assert told == [oracle.text(messages, GREEDY.max_new_tokens) for messages in asked]


def test_closing_from_another_thread_ends_one_answer_only(engine: Engine, oracle: Oracle) -> None:
    left, kept = conversations()["picture"], conversations()["later turn"]
    closed, other = engine.stream(left, GREEDY), engine.stream(kept, GREEDY)
    got: list[Chunk] = []
    reader = threading.Thread(target=lambda: got.extend(closed))
    reader.start()
    closed.close()
    closed.close()  # once more does nothing
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    assert got[-1].finish_reason == "cancelled"
    assert text_of(list(other)) == oracle.text(kept, GREEDY.max_new_tokens)
    assert engine.status().state == "ready"


def test_the_end_refuses_and_stays_refusing(engine: Engine) -> None:
    """Last in this file: the engine is of no use afterwards."""
    running = engine.stream(conversations()["picture"], GREEDY)
    engine.drain(60)
    assert list(running)[-1].finish_reason in ("stop", "length")
    with pytest.raises(UserError):
        engine.stream(conversations()["text"], GREEDY)
