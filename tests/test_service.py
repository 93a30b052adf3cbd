"""The rest of the API over real HTTP: who may call, plain streams, jobs, forms, clips, figures."""

from __future__ import annotations

import contextlib
import html
import json
import re
import shlex
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from support.clip_files import frame, write
from support.pictures import as_uri, encoded, noise
from support.scripted_engine import SEEING, ScriptedEngine
from support.until import PATIENCE_S, until
from test_api import CHAT, asking, assert_error, serving

from qwen_vl.api import sessions
from qwen_vl.config import Settings
from qwen_vl.errors import EngineFailed, TooOften
from qwen_vl.gate import rates
from qwen_vl.schema import EngineStats

CODES = {400: "bad_request", 413: "too_large", 415: "unsupported_media"}
KEYED = Settings(api_key=("first-key", "second-key"))
ROUTES = [
    ("GET", "/v1/models"),
    ("POST", CHAT),
    ("POST", "/stream_chat"),
    ("POST", "/inference"),
    ("GET", "/result/x"),
    ("DELETE", "/result/x"),
    ("GET", "/metrics"),
]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def payloads(response: httpx.Response) -> list[Any]:
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def tokens(response: httpx.Response) -> str:
    return "".join(payload.get("token", "") for payload in payloads(response))


def finished(client: httpx.Client, task_id: str) -> dict[str, Any]:
    until(lambda: client.get(f"/result/{task_id}").json()["status"] != "processing")
    return client.get(f"/result/{task_id}").json()


# --- who may call ---


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_asks_for_a_key(method: str, path: str) -> None:
    with serving(ScriptedEngine("a"), KEYED) as client:
        for headers in ({}, bearer("wrong"), {"Authorization": "Basic first-key"}):
            response = client.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert_error(response.json(), "invalid_api_key")
        for key in KEYED.api_key:
            assert client.request(method, path, headers=bearer(key)).status_code != 401


def test_health_needs_no_key() -> None:
    with serving(ScriptedEngine(), KEYED) as client:
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (Settings(), 200),
        (Settings(host="0.0.0.0"), 403),
        (Settings(share=True), 403),
        (Settings(auth="me:secret"), 403),
        (Settings(api="off"), 403),
        (Settings(share=True, api="on"), 200),
        (Settings(host="0.0.0.0", api_key=("k",)), 401),
    ],
)
def test_a_public_server_without_keys_has_no_api(settings: Settings, status: int) -> None:
    with serving(ScriptedEngine("a"), settings) as client:
        assert client.get("/health").status_code == 200
        response = client.get("/v1/models")
        assert response.status_code == status
        if status == 403:
            assert "--api-key" in assert_error(response.json(), "forbidden")


def test_the_rate_limit_counts_addresses() -> None:
    with serving(ScriptedEngine("a"), Settings(rate_limit=3)) as client:
        assert [client.get("/v1/models").status_code for _ in range(4)] == [200, 200, 200, 429]
        response = client.get("/v1/models")
        assert 1 <= int(response.headers["retry-after"]) <= 20
        assert_error(response.json(), "rate_limit")
        assert client.get("/health").status_code == 200


def test_a_bucket_fills_again_and_old_addresses_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(rates.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(rates, "MAX_ADDRESSES", 2)
    limit = rates.RateLimit(2)
    limit.take("a"), limit.take("a")
    with pytest.raises(TooOften) as refused:
        limit.take("a")
    assert refused.value.retry_after_s == 30
    now_s[0] += 30
    limit.take("a")
    limit.take("b"), limit.take("c")
    limit.take("a"), limit.take("a")  # as if it had never been here


# --- plain streams ---


def test_stream_chat_sends_tokens() -> None:
    engine = ScriptedEngine("Hel", "lo")
    with serving(engine) as client:
        response = client.post("/stream_chat", json={"text": "Hi", "temperature": 0})
    assert response.headers["content-type"].startswith("text/event-stream")
    sent = payloads(response)
    assert sent[:2] == [{"token": "Hel"}, {"token": "lo"}]
    assert sent[2]["finish_reason"] == "stop"
    assert sent[2]["usage"]["completion_tokens"] == 2
    messages, params = engine.requests[0]
    assert messages[0].text == "Hi"
    assert params.temperature == 0


def test_stream_chat_remembers_a_session_and_nobody_elses() -> None:
    engine = ScriptedEngine("An answer")
    picture = as_uri(encoded(noise(8, 8)))
    with serving(engine, KEYED) as client:
        for key, text, image in (
            ("first-key", "One", picture),
            ("first-key", "Two", None),
            ("second-key", "Three", None),
        ):
            body = {"text": text, "image": image, "session_id": "s"}
            client.post("/stream_chat", json=body, headers=bearer(key))
        client.post("/stream_chat", json={"text": "Four"}, headers=bearer("first-key"))
    asked = [[message.text for message in messages] for messages, _ in engine.requests]
    assert asked == [["One"], ["One", "An answer", "Two"], ["Three"], ["Four"]]
    assert len(engine.requests[1][0][0].images) == 1  # the picture of the first turn is still there


def test_an_empty_session_id_is_no_session() -> None:
    engine = ScriptedEngine("a")
    with serving(engine) as client:
        for text in ("one", "two"):
            client.post("/stream_chat", json={"text": text, "session_id": ""})
    assert [len(messages) for messages, _ in engine.requests] == [1, 1]


def test_a_session_with_a_picture_is_sampled_as_one_to_its_end() -> None:
    engine = ScriptedEngine("a")
    image = as_uri(encoded(noise(8, 8)))
    with serving(engine) as client:
        first = {"text": "one", "image": image, "session_id": "s", "seed": 5}
        client.post("/stream_chat", json=first)
        client.post("/stream_chat", json={"text": "two", "session_id": "s", "top_k": 7})
    (_, shown), (_, later) = engine.requests
    expected = SEEING.preset(has_images=True)
    assert (shown.temperature, shown.seed) == (expected.temperature, 5)
    assert (later.temperature, later.top_p) == (expected.temperature, expected.top_p)
    assert (later.top_k, later.seed) == (7, None)


def test_a_session_answers_one_question_at_a_time() -> None:
    gate = threading.Event()
    engine = ScriptedEngine("a", gate)
    body = {"text": "Hi", "session_id": "s"}
    with serving(engine) as client:
        with client.stream("POST", "/stream_chat", json=body) as first:
            lines = first.iter_lines()  # kept: dropping it would close the connection
            next(lines)
            response = client.post("/stream_chat", json=body)
            assert response.status_code == 409
            assert_error(response.json(), "conflict")
        assert engine.answers[0].closed.wait(PATIENCE_S)
        gate.set()
        until(lambda: client.post("/stream_chat", json=body).status_code != 409)  # a moment later
    # What was said before the first client left is part of the conversation.
    assert [m.text for m in engine.requests[-1][0]] == ["Hi", "a", "Hi"]


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    kept = sessions.Sessions()
    for name in "abc":
        with kept.use("", name) as session:
            session.messages = []
    assert len(kept) == 2
    monkeypatch.setattr(sessions, "KEPT_S", -1.0)
    with kept.use("", "d"):
        pass
    assert len(kept) == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": ""},
        {"text": 5},
        {"text": "a", "image": 5},
        {"text": "a", "image": "file:///etc/hostname"},
        {"text": "a", "session_id": 5},
        {"text": "a", "session_id": "x" * 201},
        {"text": "a", "temperature": "hot"},
    ],
)
def test_stream_chat_refuses_in_words(body: dict[str, Any]) -> None:
    with serving(ScriptedEngine("a")) as client:
        response = client.post("/stream_chat", json=body)
    assert response.status_code == 400
    assert_error(response.json(), "bad_request")


# --- jobs ---


def test_a_job_is_answered_in_the_background() -> None:
    gate = threading.Event()
    engine = ScriptedEngine("Half", gate, " and whole")
    with serving(engine) as client:
        response = client.post("/inference", json=asking())
        assert response.status_code == 202
        begun = response.json()
        assert begun["status"] == "processing"
        until(lambda: client.get(f"/result/{begun['task_id']}").json()["result"] == "Half")
        job = client.get(f"/result/{begun['task_id']}").json()
        assert (job["status"], job["position"]) == ("processing", 0)
        gate.set()
        job = finished(client, begun["task_id"])
    assert (job["status"], job["result"]) == ("done", "Half and whole")
    assert job["finish_reason"] == "stop"
    assert job["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "send",
    [
        {"json": {"text": "Hi"}},
        {"files": {"image": ("a.png", encoded(noise(8, 8)))}, "data": {"prompt": "Hi"}},
    ],
    ids=["simple", "form"],
)
def test_jobs_take_the_other_forms_too(send: dict[str, Any]) -> None:
    engine = ScriptedEngine("a")
    with serving(engine) as client:
        job = finished(client, client.post("/inference", **send).json()["task_id"])
    assert job["status"] == "done"
    assert engine.requests[0][0][0].text == "Hi"


def test_cancelled_and_failed_jobs_say_so() -> None:
    gate = threading.Event()
    with serving(ScriptedEngine("Half", gate)) as client:
        ids = [client.post("/inference", json=asking()).json()["task_id"] for _ in range(6)]
        waiting = client.get(f"/result/{ids[5]}").json()
        assert waiting["position"] == 2  # four are being answered
        assert client.delete(f"/result/{ids[5]}").json()["status"] == "cancelled"
        client.delete(f"/result/{ids[0]}")
        assert finished(client, ids[0])["status"] == "cancelled"
        gate.set()
        assert finished(client, ids[1])["status"] == "done"
        assert client.delete(f"/result/{ids[1]}").json()["status"] == "done"  # too late
    with serving(ScriptedEngine("Half", EngineFailed("It broke."))) as client:
        job = finished(client, client.post("/inference", json=asking()).json()["task_id"])
    assert (job["status"], job["result"]) == ("failed", "Half")
    assert job["error"] == {"message": "It broke.", "code": "engine_failed"}


def test_jobs_are_bounded() -> None:
    gate = threading.Event()
    with serving(ScriptedEngine(gate), Settings(max_jobs=2)) as client:
        codes = [client.post("/inference", json=asking()).status_code for _ in range(3)]
        gate.set()
    assert codes == [202, 202, 429]


def test_unknown_jobs_and_those_of_others_are_404() -> None:
    with serving(ScriptedEngine("a"), KEYED) as client:
        mine = client.post("/inference", json=asking(), headers=bearer("first-key")).json()
        path = f"/result/{mine['task_id']}"
        assert client.get(path, headers=bearer("first-key")).status_code == 200
        for response in (
            client.get(path, headers=bearer("second-key")),
            client.delete(path, headers=bearer("second-key")),
            client.get("/result/nothing", headers=bearer("first-key")),
        ):
            assert response.status_code == 404
            assert_error(response.json(), "not_found")


# --- forms and clips ---


def test_a_form_with_a_picture_gets_a_whole_answer() -> None:
    engine = ScriptedEngine("A picture.")
    picture = {"image": ("a.png", encoded(noise(16, 8)), "image/png")}
    with serving(engine) as client:
        plain = client.post(CHAT, files=picture)
        client.post(CHAT, files=picture, headers={"Accept-Language": "zh-CN,zh;q=0.9"})
        client.post(CHAT, files=picture, data={"prompt": "Colour?", "temperature": "0"})
        stream = client.post(CHAT, files=picture, data={"stream": "true"})
    assert plain.json()["choices"][0]["message"]["content"] == "A picture."
    assert stream.headers["content-type"].startswith("text/event-stream")
    asked = [messages[0] for messages, _ in engine.requests]
    assert [message.text for message in asked[:3]] == [
        "Describe this image.",
        "请描述这张图片",
        "Colour?",
    ]
    assert asked[0].images[0].image.size == (16, 8)
    assert engine.requests[2][1].temperature == 0


@pytest.mark.parametrize(
    ("send", "status", "code"),
    [
        ({"data": {"prompt": "Hi"}, "files": {"other": b"x"}}, 400, "bad_request"),
        ({"files": {"image": ("a.png", b"Hello")}}, 415, "unsupported_media"),
        ({"files": {"image": ("a.png", encoded(noise(8, 8))[:60])}}, 400, "bad_request"),
        ({"files": {"image": ("a.png", b"x" * 2_000_000)}}, 413, "too_large"),
        (
            {"content": b"no form", "headers": {"content-type": "multipart/form-data"}},
            400,
            "bad_request",
        ),
        ({"content": b"<a/>", "headers": {"content-type": "text/xml"}}, 415, "unsupported_media"),
    ],
    ids=["no image", "text", "cut", "huge", "no boundary", "xml"],
)
def test_bad_forms_are_refused_in_words(send: dict[str, Any], status: int, code: str) -> None:
    settings = Settings(max_image_mb=0.25, max_video_mb=0.25, max_images=1)
    with serving(ScriptedEngine("a"), settings) as client:
        response = client.post(CHAT, **send)
    assert response.status_code == status, response.text
    assert_error(response.json(), code)


def test_a_clip_becomes_frames_with_their_times(tmp_path: Path) -> None:
    clip = write(tmp_path / "clip.mp4", (frame(i) for i in range(60)), fps=10)
    engine = ScriptedEngine("a")
    part = {"type": "video_url", "video_url": {"url": as_uri(clip.read_bytes(), "video/mp4")}}
    with serving(engine, Settings()) as client:
        content = [{**part, "every_s": 2}, {"type": "text", "text": "What happens?"}]
        assert client.post(CHAT, json=asking(content)).status_code == 200
    times_s = [part.time_s for part in engine.requests[0][0][0].images]
    assert times_s == pytest.approx([0, 2, 4], abs=0.1)


def test_a_clip_that_takes_long_holds_no_text_up_and_ends_with_its_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(*_: Any, should_stop: Any, **__: Any) -> list[Any]:
        begun.set()
        while not should_stop():
            time.sleep(0.01)
        ended.set()
        return []

    monkeypatch.setattr("qwen_vl.media.clips.extract_keyframes", slow)
    part = {"type": "video_url", "video_url": {"url": _CLIP}}
    with serving(ScriptedEngine("a")) as client:
        host, port = client.base_url.host, client.base_url.port
        body = json.dumps(asking([part])).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        waiting = [socket.create_connection((host, port)) for _ in range(5)]
        for one in waiting:  # one is read, four wait
            one.sendall(head.encode() + body)
        assert begun.wait(PATIENCE_S)
        assert client.post(CHAT, json=asking("Hi")).status_code == 200
        end_s = time.monotonic() + PATIENCE_S
        while (refused := ask_for(client, part)) is None:
            assert time.monotonic() < end_s
        assert_error(refused, "busy")
        for one in waiting:
            one.close()
        assert ended.wait(PATIENCE_S)


def ask_for(client: httpx.Client, part: dict[str, Any]) -> Any:
    """The refusal of a question about this clip; None if it has to wait."""
    with contextlib.suppress(httpx.ReadTimeout):
        return client.post(CHAT, json=asking([part]), timeout=1).json()


def test_frames_with_times_reach_the_engine() -> None:
    engine = ScriptedEngine("a")
    frames = [as_uri(encoded(noise(8, 8))), as_uri(encoded(noise(8, 16)))]
    part = {"type": "video", "frames": frames, "timestamps_s": [0, 1.5]}
    with serving(engine) as client:
        client.post(CHAT, json=asking([part, {"type": "text", "text": "Hi"}]))
    images = engine.requests[0][0][0].images
    assert [(image.image.size, image.time_s) for image in images] == [((8, 8), 0), ((8, 16), 1.5)]


_FRAME = as_uri(encoded(noise(8, 8)))
_CLIP = as_uri(b"any", "video/mp4")


@pytest.mark.parametrize(
    ("part", "status"),
    [
        ({"type": "video_url"}, 400),
        ({"type": "video_url", "video_url": {"url": "http://example.com/a.mp4"}}, 400),
        ({"type": "video_url", "video_url": {"url": as_uri(b"no clip", "video/mp4")}}, 415),
        ({"type": "video_url", "video_url": {"url": _FRAME}}, 415),
        ({"type": "video_url", "video_url": {"url": "x"}, "every_s": 0}, 400),
        ({"type": "video_url", "video_url": {"url": _CLIP}, "every_s": 10**400}, 400),
        ({"type": "video_url", "video_url": {"url": as_uri(b"x" * 300_000, "video/mp4")}}, 413),
        ({"type": "video", "frames": [], "timestamps_s": []}, 400),
        ({"type": "video", "frames": [_FRAME], "timestamps_s": []}, 400),
        ({"type": "video", "frames": [_FRAME], "timestamps_s": ["1"]}, 400),
        ({"type": "video", "frames": [_FRAME], "timestamps_s": [-1]}, 400),
        ({"type": "video", "frames": [_FRAME] * 5, "timestamps_s": [0, 1, 2, 3, 4]}, 413),
        ({"type": "video", "frames": [5], "timestamps_s": [0]}, 400),
    ],
)
def test_bad_clips_are_refused_in_words(part: dict[str, Any], status: int) -> None:
    settings = Settings(max_video_mb=0.25, max_frames=4)
    with serving(ScriptedEngine("a"), settings) as client:
        response = client.post(CHAT, json=asking([part, {"type": "text", "text": "Hi"}]))
    assert response.status_code == status, response.text
    assert_error(response.json(), CODES[status])


def test_json_and_schemas_are_told_to_the_model_too() -> None:
    engine = ScriptedEngine("{}")
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with serving(engine) as client:
        client.post(CHAT, json=asking(response_format={"type": "json_object"}))
        client.post(CHAT, json=asking(response_format=named))
    (plain, _), (bound, params) = engine.requests
    assert plain[0].role == bound[0].role == "system"
    assert "JSON" in plain[0].text
    assert "colour" in bound[0].text
    assert params.constraint is not None


# --- figures ---


def test_metrics_tell_calls_errors_and_the_engine() -> None:
    stats = EngineStats(waiting=3, running=2, prefix_hits=5, prefix_bytes=7)
    with serving(ScriptedEngine("a", stats=stats)) as client:
        client.post(CHAT, json=asking())
        client.post(CHAT, json=asking(""))
        text = client.get("/metrics").text
    lines = text.splitlines()
    for line in (
        'qwen_vl_http_requests_total{route="/v1/chat/completions",status="200"} 1.0',
        'qwen_vl_http_requests_total{route="/v1/chat/completions",status="400"} 1.0',
        "qwen_vl_requests_waiting 3.0",
        "qwen_vl_batch_rows 2.0",
        'qwen_vl_cache_lookups_total{cache="prefix",result="hit"} 5.0',
        'qwen_vl_cache_bytes{cache="prefix"} 7.0',
        "qwen_vl_ready 1.0",
        'qwen_vl_answers_total{finish_reason="stop"} 1.0',
        'qwen_vl_tokens_total{kind="prompt"} 11.0',
    ):
        assert line in lines
    assert "process_resident_memory_bytes" in text
    assert "qwen_vl_time_to_first_token_seconds_bucket" in text


def test_docs_and_schema_name_every_route() -> None:
    with serving(ScriptedEngine(), KEYED) as client:  # a browser cannot send a key there
        page = client.get("/docs")
        document = client.get("/openapi.json").json()
    assert page.headers["content-type"].startswith("text/html")
    assert set(document["paths"]) == {
        *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{name}"),
        *("/stream_chat", "/inference"),
        *("/v1/responses", "/v1/responses/{response_id}", "/v1/responses/{response_id}/cancel"),
        *("/result/{task_id}", "/health", "/metrics"),
    }
    for path in document["paths"]:
        assert path in page.text
    assert "<script" not in page.text
    assert "http" not in page.text.replace("http://127.0.0.1:7860", "")  # nothing from elsewhere


def test_the_examples_of_the_reference_work() -> None:
    """Each command as it stands on the page, but for the address and the key."""
    with serving(ScriptedEngine("a"), KEYED) as client:
        found = re.findall(r"<pre>(curl .*?)</pre>", client.get("/docs").text, re.DOTALL)
        commands = [shlex.split(html.unescape(one)) for one in found]
        assert len(commands) >= 4
        for command in commands:
            path = urlsplit(command[1]).path
            body = json.loads(command[command.index("-d") + 1])
            answer = client.post(path, json=body, headers=bearer("first-key"))
            assert answer.status_code in (200, 202), answer.text


# --- what an attacker may try ---


def _showing(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": as_uri(data, kind)}}
    return asking([part, {"type": "text", "text": "Hi"}])


_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"messages": [{"role": "user", "content": "a"}] * 10_000}, 413),
        (asking("x" * 300_000), 413),
        (_showing(_SVG, "image/svg+xml"), 415),
        (_showing(_SVG), 415),
        (_showing(b"%PDF-1.7 " + b"x" * 100), 415),
        (_showing(encoded(Image.new("1", (20_000, 20_000)))), 413),
        (_showing(encoded(Image.new("RGB", (4000, 10)))), 400),
        (asking(stop=["x"] * 17), 413),
        (asking(logit_bias={str(i): 1 for i in range(2000)}), 400),
    ],
    ids=[
        *("10,000 messages", "long text", "svg", "svg named png", "pdf named png", "bomb"),
        *("too long a picture", "many stops", "many biases"),
    ],
)
def test_attacks_are_refused(body: dict[str, Any], status: int) -> None:
    engine = ScriptedEngine("a")
    with serving(engine, Settings()) as client:
        response = client.post(CHAT, json=body)
        assert client.post(CHAT, json=asking()).status_code == 200  # it goes on
    assert response.status_code == status, response.text
    assert_error(response.json(), CODES[status])
    assert len(engine.requests) == 1


def test_a_picture_is_what_its_pixels_are() -> None:
    """Neither a wrong name nor what is hidden behind the picture comes through."""
    engine = ScriptedEngine("a")
    picture = noise(16, 8).convert("RGB")
    jpeg = encoded(picture, "JPEG")
    with serving(engine, Settings()) as client:
        client.post(CHAT, json=_showing(jpeg, "image/png"))
        client.post(CHAT, json=_showing(encoded(picture) + b"<script>alert(1)</script>PK\x03"))
    lied, polyglot = (messages[0].images[0].image for messages, _ in engine.requests)
    assert lied.size == polyglot.size == (16, 8)
    assert polyglot.tobytes() == picture.tobytes()
    assert not polyglot.info


@pytest.mark.parametrize(
    "text", ["\u202e\u0000\ufeff", "👩‍👩‍👧‍👦 " * 50, "Z" + "\u0300" * 500, "\U000e0041"]
)
def test_odd_unicode_goes_through_unchanged(text: str) -> None:
    engine = ScriptedEngine("a")
    with serving(engine, Settings()) as client:
        assert client.post(CHAT, json=asking(f"a{text}")).status_code == 200
    assert engine.requests[0][0][0].text == f"a{text}"
