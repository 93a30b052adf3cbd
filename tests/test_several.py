"""Several answers to one question: `n`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from openai import OpenAI
from support.pictures import as_uri, encoded, noise
from support.scripted_engine import ScriptedEngine
from support.until import until
from test_api import CHAT, asking, assert_error, events, serving, showing

from qwen_vl.api import schemas as s
from qwen_vl.config import Settings
from qwen_vl.engine import Answer, Engine
from qwen_vl.errors import Busy, EngineFailed

HOT: dict[str, Any] = {"temperature": 2, "top_p": 1, "top_k": 0, "max_tokens": 12}
BEGUN = {"role": "assistant", "content": "Zq"}  # nobody would go on with it twice alike


@pytest.fixture(scope="module")
def client(bundled_engine: Engine) -> Any:
    with serving(bundled_engine, Settings(), closes_engine=False) as http:
        yield http


def test_the_answers_are_those_of_single_requests_with_the_next_seeds(client: Any) -> None:
    asked = asking(seed=2**63 - 2, **HOT)
    asked["messages"].append(BEGUN)
    answer = client.post(CHAT, json={**asked, "n": 3}).json()
    s.ChatCompletion.model_validate(answer)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    seeds = (2**63 - 2, 2**63 - 1, -(2**63))  # where they end, they begin again
    single = [client.post(CHAT, json={**asked, "seed": seed}).json() for seed in seeds]
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts == [one["choices"][0]["message"]["content"] for one in single]
    assert len(set(texts)) == 3
    usages = [one["usage"] for one in single]
    assert answer["usage"]["prompt_tokens"] == usages[0]["prompt_tokens"]
    assert answer["usage"]["completion_tokens"] == sum(one["completion_tokens"] for one in usages)


def test_openais_client_reads_a_stream_of_several(client: Any) -> None:
    asked = asking("Tell me more", seed=7, n=3, **HOT)
    whole = client.post(CHAT, json=asked).json()
    openai = OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
    texts, ends, usages, order = ["", "", ""], {}, [], []
    for chunk in openai.chat.completions.create(
        **asking("Tell me more", seed=7, n=3, temperature=2, top_p=1, max_tokens=12),
        model="m",
        extra_body={"top_k": 0},
        stream=True,
        stream_options={"include_usage": True},
    ):
        usages += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            order.append(choice.index)
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert ends == {i: whole["choices"][i]["finish_reason"] for i in range(3)}
    (usage,) = usages
    assert usage.prompt_tokens == whole["usage"]["prompt_tokens"]
    assert usage.completion_tokens == whole["usage"]["completion_tokens"]
    assert order != sorted(order), "they are written one after the other"


def test_one_picture_is_decoded_and_read_once(client: Any, bundled_engine: Engine) -> None:
    before = bundled_engine.stats()
    asked = asking(showing(as_uri(encoded(noise(101, 96)))), n=4, **HOT)
    answer = client.post(CHAT, json=asked).json()
    assert len(answer["choices"]) == 4
    after = bundled_engine.stats()
    assert after.vision_misses - before.vision_misses == 1
    assert after.prefix_hits - before.prefix_hits >= 3


@pytest.mark.parametrize("n", [0, -1, 9, 1.5, "2", True])
def test_another_number_is_refused_by_name(n: Any) -> None:
    with serving(ScriptedEngine("a")) as client:
        response = client.post(CHAT, json=asking(n=n))
        assert response.status_code == 400
        assert "'n' must" in assert_error(response.json(), "bad_request")
        for path in ("/stream_chat", "/inference"):
            assert client.post(path, json={"text": "Hi", "n": 2}).status_code == 422


def test_a_client_that_leaves_ends_them_all() -> None:
    engine = ScriptedEngine("a", threading.Event())
    with serving(engine) as client:
        with client.stream("POST", CHAT, json=asking(n=3, stream=True)) as response:
            next(response.iter_lines())
            until(lambda: len(engine.answers) == 3)
        until(lambda: engine.cancelled == 3)


class _Full(ScriptedEngine):
    """Takes one question and no more."""

    def stream(self, *args: Any) -> Answer:
        if self.answers:
            raise Busy("Full: try again.")
        return super().stream(*args)


@pytest.mark.parametrize("stream", [False, True])
def test_where_not_all_find_a_place_none_does(stream: bool) -> None:
    engine = _Full("a", threading.Event())
    with serving(engine) as client:
        response = client.post(CHAT, json=asking(n=3, stream=stream))
        assert response.status_code == 429
        until(lambda: engine.cancelled == 1)


def test_one_that_breaks_is_told_and_ends_the_others() -> None:
    engine = ScriptedEngine("a", EngineFailed("broken"))
    with serving(engine) as client:
        assert client.post(CHAT, json=asking(n=2)).status_code == 500
        with client.stream("POST", CHAT, json=asking(n=2, stream=True)) as response:
            told = list(events(response))
    assert told[-1]["error"]["code"] == "engine_failed"
    until(lambda: all(answer.closed.is_set() for answer in engine.answers))
