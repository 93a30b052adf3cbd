"""The remote engine over llama-cpp-python's server with a real small model: `make test-beyond`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from PIL import Image
from support.foreign_servers import llama_cpp
from test_api import serving
from test_engine import GREEDY, assistant, run, text_of, user
from test_engine_contract import remote_over

from qwen_vl.engine import Engine
from qwen_vl.errors import BadRequest, EngineFailed

pytestmark = pytest.mark.beyond


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_cpp(tmp_path_factory.mktemp("llama"), context_tokens=512) as url:
        yield url


@pytest.fixture(scope="module")
def engine(url: str) -> Iterator[Engine]:
    with remote_over(url) as engine:
        yield engine


def plain(url: str, *contents: str) -> str:
    """The same server asked without this project: the judge."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    body = {"messages": messages, "temperature": 0, "max_tokens": GREEDY.max_new_tokens}
    told = httpx.post(f"{url}/chat/completions", json=body, timeout=60).json()
    return told["choices"][0]["message"]["content"]


def test_it_is_ready_and_named(engine: Engine) -> None:
    assert (engine.status().state, engine.model_id) == ("ready", "smollm2")


def test_answers_and_later_turns_are_what_the_server_says(engine: Engine, url: str) -> None:
    asked = "What is the capital of France?"
    chunks = run(engine, [user(asked)])
    first = text_of(chunks)
    assert first == plain(url, asked)
    assert len(chunks) > 3, "it came in one piece"
    more = "And of Italy?"
    second = text_of(run(engine, [user(asked), assistant(first), user(more)]))
    assert second == plain(url, asked, first, more)


def test_usage_that_it_does_not_tell_is_counted_as_far_as_possible(engine: Engine) -> None:
    last = run(engine, [user("Tell me a story.")], replace(GREEDY, max_new_tokens=7))[-1]
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert last.usage.completion_tokens == 7
    assert last.usage.tokens_per_s > 0


def test_sampling_fields_pass(engine: Engine) -> None:
    asked = [user("Count from one to ten in words.")]
    whole = text_of(run(engine, asked))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    told = run(engine, asked, replace(GREEDY, stop=(stop,)))
    assert text_of(told) == whole[: whole.index(stop)]
    assert told[-1].finish_reason == "stop"
    warm = replace(GREEDY, temperature=1.5, top_k=0, top_p=1.0, seed=5, min_p=0.01)
    assert text_of(run(engine, asked, warm)) == text_of(run(engine, asked, warm))


def test_a_conversation_that_is_too_long_is_refused_in_its_words(engine: Engine) -> None:
    # It ends the stream without a word; asked again without one, it says why.
    with pytest.raises(BadRequest, match="maximum context length is 512"):
        run(engine, [user("word " * 2000)])
    assert engine.status().state == "ready"


def test_pictures_for_its_text_model(engine: Engine) -> None:
    with pytest.raises(EngineFailed, match="remove the pictures"):
        run(engine, [user(Image.new("RGB", (64, 64)), "What is it?")])
    assert text_of(run(engine, [user("Hello")]))  # and it goes on


def test_a_closed_answer_ends_there_too(engine: Engine) -> None:
    long = engine.stream([user("Tell me a long story.")], replace(GREEDY, max_new_tokens=400))
    next(long)
    long.close()
    assert list(long)[-1].finish_reason == "cancelled"
    # That server writes one answer at a time: this one comes only if it has stopped.
    assert run(engine, [user("Hello")])[-1].finish_reason in ("stop", "length")


def test_the_whole_api_in_front_of_it(url: str) -> None:
    with remote_over(url) as engine, serving(engine) as client:
        health = client.get("/health").json()
        assert health["status"] == "ready"
        assert health["upstreams"] == [{"url": url, "healthy": True, "running": 0}]
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
        told = client.post("/v1/chat/completions", json=body, timeout=60).json()
        assert told["choices"][0]["finish_reason"] == "length"
        assert "qwen_vl_upstream_healthy" in client.get("/metrics").text
