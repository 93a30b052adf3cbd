"""What real clients send, and an answer can be given to, is answered."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from typing import Any

import httpx
import pytest
from support.gated import gated
from support.pictures import as_uri, encoded, noise
from support.scripted_engine import READY, ScriptedEngine
from test_api import CHAT, asking, serving

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import ImagePart, Message, TextPart

SHOWN = noise(24, 16)
URI = as_uri(encoded(SHOWN))
TEXT = {"type": "text", "text": "What is it?"}


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def asked(body: dict[str, Any], status: int = 200) -> tuple[Message, ...]:
    """What the engine is asked for this request."""
    engine = ScriptedEngine("a")
    with serving(engine, Settings()) as client:
        response = client.post(CHAT, json=body)
        assert response.status_code == status, response.text
    return engine.requests[0][0] if engine.requests else ()


@pytest.mark.parametrize(
    "roles",
    [
        ["system", "system", "user"],
        ["system", "developer", "user"],
        ["user", "assistant", "system", "user"],
        ["user", "system"],
        ["developer", "user", "system", "assistant", "user"],
    ],
    ids="-".join,
)
def test_system_messages_are_joined_in_front(roles: list[str]) -> None:
    turns = [turn(role, f"{role} {i}") for i, role in enumerate(roles)]
    system, *others = asked({"messages": turns})
    wanted = [one["content"] for one in turns if one["role"] in ("system", "developer")]
    assert (system.role, system.text) == ("system", "\n\n".join(wanted))
    left = [one["content"] for one in turns if one["content"] not in wanted]
    assert [message.text for message in others] == left


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": URI},
        {"image_url": {"url": URI}},
        {"type": "image", "image": URI},
        {"type": "image", "url": URI},
        {"type": "input_image", "image_url": URI},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": URI.split(",")[1]},
        },
    ],
    ids=["plain string", "no type", "Qwen", "transformers", "Responses", "Anthropic"],
)
def test_pictures_come_in_every_spelling(part: dict[str, Any]) -> None:
    for text in (TEXT, {"type": "input_text", "text": "What is it?"}):
        (message,) = asked({"messages": [turn("user", [part, text])]})
        assert message.text == "What is it?"
        (shown,) = message.images
        assert shown.image.tobytes() == SHOWN.tobytes()


def test_content_may_be_one_part_and_a_refusal() -> None:
    refusal = {"type": "refusal", "refusal": "No."}
    turns = [turn("user", TEXT), turn("assistant", [refusal]), turn("user", "Why?")]
    assert [message.text for message in asked({"messages": turns})] == [
        "What is it?",
        "No.",
        "Why?",
    ]


def test_low_detail_bounds_the_visual_tokens_of_that_picture() -> None:
    def part(**more: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": URI, **more}}

    details = ({}, {"detail": "low"}, {"detail": "auto"}, {"detail": "high"})
    (message,) = asked({"messages": [turn("user", [*(part(**one) for one in details), TEXT])]})
    assert [shown.most_tokens for shown in message.images] == [None, 256, None, None]
    asked({"messages": [turn("user", [part(detail="huge"), TEXT])]}, status=400)


def test_low_detail_costs_fewer_tokens(bundled_engine: Engine) -> None:
    picture = noise(1024, 1024)

    def prompt_tokens(most_tokens: int | None) -> int:
        parts = (ImagePart(picture, most_tokens=most_tokens), TextPart("What is it?"))
        params = SamplingParams(max_new_tokens=1)
        *_, last = bundled_engine.stream([Message("user", parts)], params)
        assert last.usage is not None
        return last.usage.prompt_tokens

    assert prompt_tokens(None) - prompt_tokens(64) > 100


@pytest.mark.parametrize("tokens", [-1, 8192, 32_000])
def test_a_limit_on_the_answer_is_a_ceiling(tokens: int) -> None:
    engine = ScriptedEngine("a")
    with serving(engine, Settings()) as client:
        assert client.post(CHAT, json=asking(max_tokens=tokens)).status_code == 200
    (_, params) = engine.requests[0]
    assert params.max_new_tokens == (1024 if tokens < 0 else Settings().max_new_tokens)


def test_an_answer_at_the_end_is_continued(bundled_engine: Engine) -> None:
    messages = [
        Message("user", (TextPart("Hello"),)),
        Message("assistant", (TextPart("I am a small"),)),
    ]
    greedy = SamplingParams(temperature=0, presence_penalty=0, max_new_tokens=30)
    whole, rest = (
        "".join(chunk.text for chunk in bundled_engine.stream(asked_for, greedy))
        for asked_for in (messages[:1], messages)
    )
    assert rest
    assert whole.startswith("I am a small")
    assert rest.startswith(whole.removeprefix("I am a small"))


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "/v1//chat/completions", "//v1/chat/completions",
             "/chat/completions"],
)  # fmt: skip
def test_slashes_and_a_missing_v1_are_forgiven(path: str) -> None:
    with gated(ScriptedEngine("a")) as client:
        told = client.post(f"{str(client.base_url).rstrip('/')}{path}", json=asking())
    assert told.status_code == 200, told.text


def test_the_model_is_there_by_its_name() -> None:
    engine = ScriptedEngine("a")
    with gated(engine) as client:
        (listed,) = client.get("/v1/models/").json()["data"]
        assert client.get(f"/v1/models/{engine.model_id}").json() == listed
        for other in ("no-such-model", "%0Aa%0Ab"):
            told = client.get(f"/v1/models/{other}")
            assert (told.status_code, told.json()["error"]["code"]) == (404, "not_found")
        assert client.get("/v1/a%0Ab").json()["error"]["code"] == "not_found"
    assert listed["context_length"] == Settings().max_context_tokens
    assert listed["input_modalities"] == ["text", "image"]
    with gated(ScriptedEngine("a", status=replace(READY, context_tokens=400))) as client:
        (listed,) = client.get("/v1/models").json()["data"]
    assert listed["context_length"] == listed["max_model_len"] == 400


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_packed_bodies_are_read_within_the_bound(coding: str) -> None:
    pack = gzip.compress if coding == "gzip" else zlib.compress
    engine = ScriptedEngine("a")
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    settings = Settings(max_image_mb=0.25, max_video_mb=0.25, max_prompt_chars=1000)
    with serving(engine, settings) as client:

        def sent(body: bytes) -> httpx.Response:
            return client.post(CHAT, content=body, headers=headers)

        assert sent(pack(json.dumps(asking("Hello")).encode())).status_code == 200
        assert engine.requests[0][0][0].text == "Hello"
        assert sent(pack(b" " * 50_000_000)).status_code == 413  # 50 kB on the wire
        assert sent(b"not packed at all").status_code == 400
        assert sent(pack(json.dumps(asking("Hello")).encode())[:-9]).status_code == 400


def test_a_key_may_come_in_a_header_of_its_own() -> None:
    with serving(ScriptedEngine("a"), Settings(api_key=("k3y",))) as client:
        assert client.post(CHAT, json=asking()).status_code == 401
        assert client.post(CHAT, json=asking(), headers={"X-Api-Key": "k3y"}).status_code == 200
        assert client.post(CHAT, json=asking(), headers={"X-Api-Key": "no"}).status_code == 401


def test_a_request_has_an_id() -> None:
    with serving(ScriptedEngine("a")) as client:
        given = client.post(CHAT, json=asking(), headers={"X-Request-Id": "mine-7"})
        assert given.headers["x-request-id"] == "mine-7"
        for wrong in (None, "x" * 500):
            headers = {"X-Request-Id": wrong} if wrong else {}
            made = client.post(CHAT, json=asking(), headers=headers).headers["x-request-id"]
            assert made not in ("", wrong)


def test_too_long_a_conversation_is_told_as_frameworks_know_it(bundled_engine: Engine) -> None:
    long = "word " * 30_000
    with serving(bundled_engine, Settings(model="bundled"), closes_engine=False) as client:
        response = client.post(CHAT, json=asking(long))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
