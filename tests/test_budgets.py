"""What one request may cost: counted first, worked on beside others, never at their expense."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from PIL import Image
from support.gated import PATIENCE_S, gated, head, soon, whole_app, wire
from support.pictures import as_uri, encoded, noise
from support.scripted_engine import ScriptedEngine
from test_api import CHAT, asking, assert_error, showing
from test_fetch import here_is_public, web
from test_service import bearer

from qwen_vl.api import fetch, sessions
from qwen_vl.config import Settings
from qwen_vl.errors import UserError
from qwen_vl.schema import Message

__all__ = ["here_is_public"]  # a fixture

TWO_KEYS = Settings(api_key=("first", "second"))
PICTURE = as_uri(encoded(noise(8, 8)))


@dataclass
class SlowPicture:
    """A picture that is decoded until somebody abandons it."""

    size: tuple[int, int] = (8, 8)
    key: str = "slow"
    begun: threading.Event = field(default_factory=threading.Event)
    abandoned: threading.Event = field(default_factory=threading.Event)

    def decode(self) -> Image.Image:
        self.begun.set()
        assert self.abandoned.wait(PATIENCE_S)
        raise UserError("abandoned")

    def abandon(self) -> None:
        self.abandoned.set()


# --- counted before it is read ---


_FIELD = '{"messages": [{"role": "user", "content": "Hi"}], "x": %s}'
_PART = '{"type": "text", "text": ""},'


@pytest.mark.parametrize(
    "body",
    [
        _FIELD % ("[" + "[]," * 300_000 + "0]"),
        _FIELD % ("[" + "{}," * 300_000 + "0]"),
        _FIELD % ("[" + "1," * 300_000 + "0]"),
        _FIELD % ("{" + ",".join(f'"k{i}":0' for i in range(400_000)) + "}"),
        _FIELD % ('"' + "\\/" * 5_000_000 + '"'),
        '{"messages": [{"role": "user", "content": [%s{"type": "text", "text": "a"}]}]}'
        % (_PART * 100_000),
    ],
    ids=["lists", "objects", "numbers", "keys", "escapes", "parts"],
)
def test_a_body_that_is_built_of_too_many_things_is_not_parsed(body: str) -> None:
    engine = ScriptedEngine("a")
    with gated(engine) as client:
        response = client.post(CHAT, content=body)
        assert response.status_code == 413
        assert_error(response.json(), "too_large")
        assert client.post(CHAT, json=asking()).status_code == 200
    assert len(engine.requests) == 1


@pytest.mark.parametrize("spread", [1, 50], ids=["in one message", "over messages"])
def test_parts_are_counted_over_all_messages(spread: int) -> None:
    parts = [{"type": "text", "text": ""}] * (2000 // spread)
    last = {"role": "user", "content": [*parts, {"type": "text", "text": "a"}]}
    body = {"messages": [{"role": "user", "content": parts}] * (spread - 1) + [last]}
    with gated(ScriptedEngine("a")) as client:
        response = client.post(CHAT, json=body)
        assert response.status_code == 413
        assert "2,001 parts" in assert_error(response.json(), "too_large")


def test_what_real_requests_hold_passes() -> None:
    code = "if (a[0] == {b: 1, c: [2, 3]}) { d(); }\n" * 480  # 19,200 characters
    bias = {str(i): -1.5 for i in range(1000)}
    body = asking(code, logit_bias=bias, metadata=[{"parameters": {"a": [1, 2]}}] * 2000)
    with gated(ScriptedEngine("a")) as client:
        assert client.post(CHAT, json=body).status_code == 200


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_in_any_of_its_encodings(encoding: str) -> None:
    engine = ScriptedEngine("a")
    with gated(engine) as client:
        body = json.dumps(asking("你好"), ensure_ascii=False).encode(encoding)
        assert client.post(CHAT, content=body).status_code == 200
    assert engine.requests[0][0][0].text == "你好"


# --- places ---


def test_pictures_hold_no_text_up_and_end_with_their_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[SlowPicture] = []

    def open_slow(*_: Any) -> SlowPicture:
        opened.append(SlowPicture())
        return opened[-1]

    monkeypatch.setattr("qwen_vl.api.messages.open_data_uri", open_slow)
    body = json.dumps(asking(showing(PICTURE))).encode()
    with gated(ScriptedEngine("a")) as client:
        asked = [wire(client) for _ in range(4)]
        for one in asked:
            one.sendall(head(CHAT, f"Content-Length: {len(body)}") + body)
        assert soon(lambda: sum(picture.begun.is_set() for picture in opened) == 2)
        assert client.post(CHAT, json=asking()).status_code == 200
        for one in asked:
            one.close()
        assert soon(lambda: len(opened) == 4)
        assert soon(lambda: all(picture.abandoned.is_set() for picture in opened))
        assert client.post(CHAT, json=asking()).status_code == 200


def test_as_many_pictures_wait_as_may_and_the_rest_is_told_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = SlowPicture()
    monkeypatch.setattr("qwen_vl.api.messages.open_data_uri", lambda *_: picture)
    body = asking(showing(PICTURE))
    engine = ScriptedEngine("a")
    with gated(engine, Settings(max_queue=0)) as client, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client.post, CHAT, json=body) for _ in range(5)]
        assert soon(lambda: any(call.done() for call in calls))
        picture.abandon()
        codes = sorted(call.result().status_code for call in calls)
    assert codes == [400, 400, 400, 400, 429]  # two at once, two wait


# --- callers ---


def test_a_salt_divides_what_is_cached_for_one_caller() -> None:
    engine = ScriptedEngine("a")
    with gated(engine, TWO_KEYS) as client:
        for key, salt in (("first", "x"), ("first", "y"), ("first", None), ("second", "x")):
            body = asking(cache_salt=salt)
            assert client.post(CHAT, json=body, headers=bearer(key)).status_code == 200
        for salt in (5, "x" * 201):
            response = client.post(CHAT, json=asking(cache_salt=salt), headers=bearer("first"))
            assert "'cache_salt'" in assert_error(response.json(), "bad_request")
        job = client.post("/inference", json=asking(cache_salt="x"), headers=bearer("first"))
        assert job.status_code == 422
        client.post("/stream_chat", json={"text": "a", "cache_salt": "x"}, headers=bearer("first"))
    first, other, plain, second, again = engine.scopes
    assert len({first, other, plain, second}) == 4
    assert first == again
    assert not any("first" in scope for scope in engine.scopes)


def test_without_keys_an_address_is_a_caller() -> None:
    engine = ScriptedEngine("a")
    settings = Settings(trusted_proxy=("127.0.0.1",))
    with gated(engine, settings) as client:
        for address in ("9.9.9.9", "8.8.8.8", "9.9.9.9"):
            client.post(CHAT, json=asking(), headers={"X-Forwarded-For": address})
    assert engine.scopes[0] == engine.scopes[2] != engine.scopes[1]


def test_no_caller_pushes_out_anothers_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 4)
    engine = ScriptedEngine("a")

    def ask(key: str, session: str) -> int:
        body = {"text": "Hi", "session_id": session}
        client.post("/stream_chat", json=body, headers=bearer(key))
        return len(engine.requests[-1][0])

    with gated(engine, TWO_KEYS) as client:
        ask("first", "mine")
        for i in range(10):
            ask("second", f"s{i}")
        assert ask("first", "mine") == 3
        assert ask("second", "s9") == 3
        assert ask("second", "s0") == 1


def test_nor_by_the_size_of_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_BYTES", 1000)  # a picture here has 192

    def remembers(owner: str, name: str) -> bool:
        with kept.use(owner, name) as session:
            had = bool(session.messages)
            session.messages = [Message("user", (part,))]
        return had

    from qwen_vl.schema import ImagePart

    part = ImagePart(noise(8, 8))
    kept = sessions.Sessions()
    remembers("a", "mine")
    for i in range(10):
        remembers("b", f"s{i}")
    assert remembers("a", "mine")
    assert remembers("b", "s9")
    assert not remembers("b", "s0")


# --- the web ---


@pytest.mark.usefixtures("here_is_public")
def test_all_pictures_of_a_request_get_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_vl.api.calls.MAX_SECONDS", 0.5)
    monkeypatch.setattr(fetch, "MAX_SECONDS", 60)
    over = threading.Event()
    asked: list[str] = []

    def hang(handler: Any) -> None:
        asked.append(handler.path)
        over.wait(PATIENCE_S)

    settings = Settings(allow_image_urls=True)
    with web(hang) as url, gated(ScriptedEngine("a"), settings) as client:
        response = client.post(CHAT, json=asking(showing(*[f"{url}/{i}" for i in range(8)])))
        over.set()
        assert "longer" in assert_error(response.json(), "bad_request")
    assert asked == ["/0"]


# --- the end ---


def test_health_says_that_the_server_is_stopping() -> None:
    stop = threading.Event()
    with gated(ScriptedEngine("a"), is_ending=stop.is_set) as client:
        assert client.get("/health").json()["ready"]
        stop.set()
        health = client.get("/health")
    assert health.status_code == 503
    assert (health.json()["status"], health.json()["ready"]) == ("draining", False)


def test_every_client_gets_an_end_when_the_server_stops() -> None:
    stop, never = threading.Event(), threading.Event()
    engine = ScriptedEngine("Half", never)
    settings = Settings(shutdown_seconds=0)
    with whole_app(engine, settings, stop) as client, ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(client.post, CHAT, json=asking(stream=i < 3)) for i in range(6)]
        assert soon(lambda: len(engine.answers) == 6)
        assert soon(lambda: all(one.waiting.is_set() for one in engine.answers))
        stop.set()
        texts = [call.result().text for call in calls]
    assert all("Half" in text and '"cancelled"' in text for text in texts)
    assert all(text.endswith("data: [DONE]\n\n") for text in texts[:3])


def test_the_wait_for_a_place_is_bounded() -> None:
    from qwen_vl.api.places import Places
    from qwen_vl.errors import Busy

    async def crowd() -> list[str]:
        told: list[str] = []
        places, gate = Places(1, waiting=2), threading.Event()

        async def come() -> None:
            try:
                await places.run(gate.wait)
                told.append("in")
            except Busy:
                told.append("busy")
                gate.set()

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(come)
        return told

    assert sorted(anyio.run(crowd)) == ["busy", "in", "in", "in"]
