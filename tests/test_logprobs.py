"""Log probabilities: asked for over HTTP, and told with the text that their tokens make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from openai import OpenAI
from support.scripted_engine import ScriptedEngine
from test_api import CHAT, asking, assert_error, serving

from qwen_vl.api import schemas as s
from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.local.logprobs import Logprobs
from qwen_vl.engine.remote.text import TextLogprobs
from qwen_vl.engine.remote.wire import piece_of
from qwen_vl.engine.thoughts import Piece


@pytest.mark.parametrize("stream", [False, True])
def test_openais_client_reads_them(bundled_engine: Engine, stream: bool) -> None:
    with serving(bundled_engine, Settings(), closes_engine=False) as http:
        client = OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)
        asked: dict[str, Any] = asking("Hello", model="m", temperature=0, max_tokens=8)
        asked |= {"logprobs": True, "top_logprobs": 3, "stop": " demo"}
        told = client.chat.completions.create(**asked, stream=stream)
        if stream:
            choices = [chunk.choices[0] for chunk in told]
            text = "".join(choice.delta.content or "" for choice in choices)
            tokens = [one for c in choices if c.logprobs for one in c.logprobs.content]
        else:
            (choice,) = told.choices
            text, tokens = choice.message.content, choice.logprobs.content
    assert text.startswith("I am")
    # Neither the stop text's tokens nor the end's are among them.
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == text
    for token in tokens:
        assert token.top_logprobs[0].token == token.token  # greedy
        assert [one.logprob for one in token.top_logprobs] == sorted(
            (one.logprob for one in token.top_logprobs), reverse=True
        )
        assert len(token.top_logprobs) == 3


def test_the_shape_is_that_of_the_reference(bundled_engine: Engine) -> None:
    with serving(bundled_engine, Settings(), closes_engine=False) as client:
        plain = client.post(CHAT, json=asking(max_tokens=2)).json()
        asked = asking(max_tokens=2, logprobs=True)
        answer = client.post(CHAT, json=asked).json()
    assert plain["choices"][0]["logprobs"] is None
    told = s.ChatCompletion.model_validate(answer).choices[0].logprobs
    assert len(told.content) == 2
    assert told.content[0].top_logprobs == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"logprobs": 5}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": "3"}, "top_logprobs"),
    ],
)
def test_wrong_wishes_are_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with serving(ScriptedEngine("a")) as client:
        response = client.post(CHAT, json=asking(**fields))
        assert response.status_code == 400
        assert f"'{named}'" in assert_error(response.json(), "bad_request")


def test_where_there_is_no_place_for_them_they_are_refused() -> None:
    with serving(ScriptedEngine("a")) as client:
        for path, body in (
            ("/stream_chat", {"text": "Hi"}),
            ("/inference", {"text": "Hi"}),
            ("/inference", asking()),
        ):
            response = client.post(path, json={**body, "logprobs": True})
            assert response.status_code == 422
            assert "'logprobs'" in response.json()["error"]["message"]


class _Letters:
    """A tokenizer of bytes: token 0 is "中"'s first byte, and so on."""

    names = ("ä", "¸", "Ń", "a", "Ġ", "Ċ", "<end>")

    def id_to_token(self, token: int) -> str | None:
        return self.names[token] if token < len(self.names) else None

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(self.names[token] for token in tokens)


def measured(*tokens: int) -> Logprobs:
    logprobs = Logprobs(_Letters(), 1)
    for token in tokens:
        logprobs.measure(torch.zeros(8), token)
    return logprobs


def test_a_character_of_several_tokens_comes_with_all_of_them() -> None:
    logprobs = measured(0, 1)
    assert logprobs.told("") == ()
    logprobs.measure(torch.zeros(8), 2)
    assert b"".join(one.raw for one in logprobs.told("中")) == "中".encode()


def test_what_belongs_to_a_stop_text_or_a_thought_is_left_out() -> None:
    told = measured(3, 4, 3).told("a", stopped=True)
    assert [one.raw for one in told] == [b"a"]
    logprobs = measured(3, 3)
    logprobs.forget()
    for token in (5, 5, 3):
        logprobs.measure(torch.zeros(8), token)
    assert [one.raw for one in logprobs.told("a")] == [b"a"]


def test_what_is_impossible_stays_a_number_and_padding_has_no_text() -> None:
    logprobs = Logprobs(_Letters(), 8)
    logits = torch.full((8,), float("-inf"))
    logits[3] = 0
    logprobs.measure(logits, 3)
    (one,) = logprobs.told("a")
    assert one.logprob == 0
    assert {other.logprob for other in one.likeliest[1:]} == {-9999.0}
    assert b"" in {other.raw for other in one.likeliest}


# --- of another server ---


def test_another_server_that_tells_none_is_no_silence() -> None:
    logprobs = TextLogprobs(asked=True)
    logprobs.told(Piece("hm", ""), ())
    assert not logprobs.are_missing
    logprobs.told(Piece("", "a"), ())
    assert logprobs.are_missing


@pytest.mark.parametrize(
    "entry",
    [
        None,
        7,
        {},
        {"token": "a"},
        {"token": "a", "logprob": "-1"},
        {"token": "a", "logprob": float("nan")},
        {"token": ["a"], "logprob": -1.0, "bytes": [256]},
    ],
)
def test_what_makes_no_sense_is_left_out(entry: Any) -> None:
    good = {"token": "a", "logprob": -1e300, "bytes": None, "top_logprobs": [entry]}
    choice = {"delta": {"content": "a"}, "logprobs": {"content": [entry, good]}}
    (told,) = piece_of({"choices": [choice]}).logprobs
    assert (told.raw, told.logprob, told.likeliest) == (b"a", -9999.0, ())
    odd = {"delta": {"content": "a"}, "logprobs": entry}
    assert piece_of({"choices": [odd]}).logprobs == ()
