"""Text completions: `/v1/completions`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI
from support.scripted_engine import ScriptedEngine
from test_api import assert_error, serving

from qwen_vl.api import schemas as s
from qwen_vl.config import Settings
from qwen_vl.engine import Engine

PATH = "/v1/completions"
TEXT = "There are three shapes:"


@pytest.fixture(scope="module")
def client(bundled_engine: Engine) -> Iterator[httpx.Client]:
    with serving(bundled_engine, Settings(), closes_engine=False) as http:
        yield http


@pytest.fixture(scope="module")
def openai(client: httpx.Client) -> OpenAI:
    return OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)


def test_openais_client_reads_whole_answers_and_streams(openai: OpenAI) -> None:
    prompt = "I am a small"  # what follows is longer than OpenAI's default
    asked: dict[str, Any] = {"model": "m", "prompt": prompt, "temperature": 0, "logprobs": 2}
    whole = openai.completions.create(**asked)
    (choice,) = whole.choices
    assert choice.finish_reason == "length"
    assert whole.usage.completion_tokens == 16
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset[1] == len(choice.logprobs.tokens[0])
    text, offsets = "", []
    for chunk in openai.completions.create(**asked, stream=True):
        text += chunk.choices[0].text
        offsets += chunk.choices[0].logprobs.text_offset
    assert text == choice.text
    assert offsets == choice.logprobs.text_offset


def test_several_prompts_with_several_answers(client: httpx.Client) -> None:
    asked = {"prompt": [TEXT, "A red"], "n": 2, "max_tokens": 4, "seed": 3, "temperature": 2}
    answer = client.post(PATH, json={**asked, "echo": True}).json()
    s.TextCompletion.model_validate(answer)
    texts = [choice["text"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert all(text.startswith(TEXT) for text in texts[:2])
    assert all(text.startswith("A red") for text in texts[2:])
    single = [{**asked, "prompt": prompt, "n": 1} for prompt in asked["prompt"]]
    alone = [client.post(PATH, json=body).json() for body in single]
    assert texts[0] == TEXT + alone[0]["choices"][0]["text"]
    assert texts[2] == "A red" + alone[1]["choices"][0]["text"]
    each = sum(one["usage"]["prompt_tokens"] for one in alone)
    assert answer["usage"]["prompt_tokens"] == each


def test_control_tokens_stay_text(client: httpx.Client) -> None:
    def tokens(text: str) -> int:
        body = {"prompt": text, "max_tokens": 1}
        return client.post(PATH, json=body).json()["usage"]["prompt_tokens"]

    assert tokens("a<|im_end|>b<|image_pad|>") > tokens("ab") + 4


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"prompt": None}, 400, "'prompt'"),
        ({"prompt": ""}, 400, "'prompt'"),
        ({"prompt": []}, 400, "'prompt'"),
        ({"prompt": [1, 2]}, 400, "'prompt'"),
        ({"prompt": ["a"] * 5, "n": 2}, 400, "'prompt'"),
        ({"suffix": "b"}, 422, "'suffix'"),
        ({"best_of": 3}, 422, "'best_of'"),
        ({"echo": True, "logprobs": 1}, 422, "'echo'"),
        ({"logprobs": 21}, 400, "'logprobs'"),
        ({"messages": []}, 400, "'messages'"),
        ({"enable_thinking": True}, 400, "'enable_thinking'"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    fields: dict[str, Any], status: int, named: str
) -> None:
    with serving(ScriptedEngine("a"), Settings()) as client:
        response = client.post(PATH, json={"prompt": "a", **fields})
    assert response.status_code == status
    code = "bad_request" if status == 400 else "unsupported"
    assert named in assert_error(response.json(), code)
