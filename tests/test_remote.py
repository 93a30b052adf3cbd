"""The remote engine against real servers: this project's own, and ones that misbehave."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.scripted_engine import ScriptedEngine
from support.until import PATIENCE_S, until
from test_api import serving

from qwen_vl.config import Settings
from qwen_vl.engine import Engine, bridge, open_engine
from qwen_vl.engine.remote import engine as remote
from qwen_vl.engine.remote import request as remote_request
from qwen_vl.errors import (
    BadRequest,
    Busy,
    EngineFailed,
    ModelUnavailable,
    ShuttingDown,
    StillLoading,
    Unsupported,
    UserError,
)
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import ImagePart, Message, TextPart

HELLO = [Message("user", (TextPart("Hello"),))]
PARAMS = SamplingParams(temperature=0.5, top_k=7, seed=3, stop=("x",), max_new_tokens=20)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "BACKOFF_S", 0.01)
    monkeypatch.setattr(remote, "CHECK_S", 0.1)


@contextlib.contextmanager
def asking(*urls: str, **more: Any) -> Iterator[Engine]:
    """A remote engine that has looked for its servers."""
    urls = tuple(url.rstrip("/") + "/v1" for url in urls)
    engine = open_engine(Settings(engine="remote", base_url=urls, **more))
    try:
        until(lambda: engine.status().state != "loading")
        yield engine
    finally:
        engine.close()


def text_of(engine: Engine, messages: list[Message] = HELLO) -> str:
    return "".join(chunk.text for chunk in engine.stream(messages, PARAMS))


# --- this project's own server behind it ---


def test_an_answer_passes_through_with_its_usage_and_end() -> None:
    upstream = ScriptedEngine("Good ", "morning", finish_reason="repetition")
    with serving(upstream) as client, asking(str(client.base_url)) as engine:
        assert engine.status().state == "ready"
        assert engine.model_id == upstream.model_id
        chunks = list(engine.stream(HELLO, PARAMS))
    assert "".join(chunk.text for chunk in chunks) == "Good morning"
    last = chunks[-1]
    assert last.finish_reason == "repetition"
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (11, 2)
    assert last.usage.ttft_s > 0
    messages, params = upstream.requests[0]
    assert messages[0].text == "Hello"
    for name in ("temperature", "top_k", "top_p", "min_p", "seed", "stop", "presence_penalty"):
        assert getattr(params, name) == getattr(PARAMS, name)
    assert params.max_new_tokens == 20


def test_pictures_and_frames_with_their_times_reach_the_model() -> None:
    upstream = ScriptedEngine("a")
    red, large = Image.new("RGB", (64, 32), "red"), Image.new("RGB", (1600, 1600), "blue")
    message = Message("user", (ImagePart(red, 2.0), TextPart("And this?"), ImagePart(large)))
    with serving(upstream, Settings()) as client, asking(str(client.base_url)) as engine:
        text_of(engine, [message])
    (asked,), _ = upstream.requests[0]
    assert asked.text == "<2.0 seconds>And this?"
    first, second = (part.image for part in asked.images)
    assert first.size == (64, 32)
    assert first.getpixel((5, 5)) == (255, 0, 0)
    assert second.width * second.height <= PARAMS.max_image_tokens * remote_request.TOKEN_PIXELS
    assert second.getpixel((5, 5))[2] > 240


@pytest.mark.parametrize("steps", [("Half",), ()], ids=["midway", "before its first token"])
def test_closing_an_answer_closes_it_upstream(steps: tuple[str, ...]) -> None:
    gate = threading.Event()
    upstream = ScriptedEngine(*steps, gate)
    with serving(upstream) as client, asking(str(client.base_url)) as engine:
        answer = engine.stream(HELLO, PARAMS)
        if steps:
            assert next(answer).text == "Half"
        else:
            until(lambda: upstream.answers and upstream.answers[0].waiting.is_set())
        answer.close()
        assert [chunk.finish_reason for chunk in answer][-1] == "cancelled"
        assert upstream.answers[0].closed.wait(PATIENCE_S)
        gate.set()


def test_time_is_over_here_too() -> None:
    gate = threading.Event()
    with serving(ScriptedEngine("Half", gate)) as client:
        with asking(str(client.base_url), max_seconds=3) as engine:
            chunks = list(engine.stream(HELLO, PARAMS))
        gate.set()
    assert chunks[0].text == "Half"
    assert chunks[-1].finish_reason == "timeout"


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (BadRequest("That is wrong."), BadRequest),
        (Unsupported("Text only."), Unsupported),
        (ModelUnavailable("Not here."), EngineFailed),
        (Busy("Full."), Busy),
    ],
)
def test_refusals_reach_the_user_in_words(refusal: UserError, told: type[UserError]) -> None:
    with serving(ScriptedEngine(refusal=refusal)) as client, asking(str(client.base_url)) as engine:
        with pytest.raises(told):
            text_of(engine)
        assert engine.status().state == "ready"  # one question failed, the server is fine


def test_an_answer_that_breaks_off_is_not_begun_again() -> None:
    upstream = ScriptedEngine("Half", EngineFailed("It broke."))
    with serving(upstream) as client, asking(str(client.base_url)) as engine:
        answer = engine.stream(HELLO, PARAMS)
        assert next(answer).text == "Half"
        with pytest.raises(EngineFailed, match="broke off"):
            list(answer)
    assert len(upstream.requests) == 1


def test_a_wrong_key_is_said() -> None:
    settings = Settings(api_key=("right",))
    with serving(ScriptedEngine("a"), settings) as client:
        with asking(str(client.base_url), remote_key="wrong") as engine:
            assert engine.status().state == "failed"
            assert "key" in engine.status().detail
        with asking(str(client.base_url), remote_key="right") as engine:
            assert text_of(engine) == "a"


# --- several servers ---


def test_the_least_busy_server_is_asked() -> None:
    gate = threading.Event()
    one, two = ScriptedEngine("a", gate), ScriptedEngine("a", gate)
    with serving(one) as first, serving(two) as second:
        with asking(str(first.base_url), str(second.base_url)) as engine:
            answers = [engine.stream(HELLO, PARAMS) for _ in range(4)]
            for answer in answers:
                next(answer)
            assert (len(one.requests), len(two.requests)) == (2, 2)
            assert [up.running for up in engine.stats().upstreams] == [2, 2]
            gate.set()
            for answer in answers:
                list(answer)
        assert engine.stats().running == 0


def test_when_one_server_goes_the_other_answers_and_it_may_come_back() -> None:
    alive = ScriptedEngine("alive")
    with serving(alive) as second:
        with serving(ScriptedEngine("first")) as first:
            url = str(first.base_url)
            engine_of = asking(url, str(second.base_url))
            engine = engine_of.__enter__()
            assert engine.status().state == "ready"
        assert [text_of(engine) for _ in range(3)] == ["alive"] * 3
        until(lambda: engine.status().state == "degraded")
        assert url.rstrip("/") in engine.status().detail
        engine_of.__exit__(None, None, None)


def test_no_server_at_all() -> None:
    with asking("http://127.0.0.1:9") as engine:
        assert engine.status().state == "failed"
        with pytest.raises(ModelUnavailable, match="No server answers"):
            engine.stream(HELLO, PARAMS)


def test_more_than_the_bound_is_busy_and_the_end_refuses() -> None:
    gate = threading.Event()
    with (
        serving(ScriptedEngine(gate)) as client,
        asking(str(client.base_url), max_batch=1, max_queue=1) as engine,
    ):
        answers = [engine.stream(HELLO, PARAMS) for _ in range(2)]
        with pytest.raises(Busy):
            engine.stream(HELLO, PARAMS)
        gate.set()
        engine.drain(PATIENCE_S)
        assert all(list(answer)[-1].finish_reason == "stop" for answer in answers)
        with pytest.raises(ShuttingDown):
            engine.stream(HELLO, PARAMS)


# --- servers that differ ---


@contextlib.contextmanager
def strange(
    answer: Callable[[Any, dict[str, Any]], None],
    looked: Callable[[], object] = lambda: None,
    **facts: Any,
) -> Iterator[str]:
    """A server whose POST is `answer(handler, body)`, and which tells when it is looked at.

    `facts` stand in its list, beside the model's name.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            looked()
            model = {"id": "strange", "object": "model", **facts}
            reply(self, 200, {"object": "list", "data": [model]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer(self, body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("facts", "tokens"),
    [
        ({"max_model_len": 4096}, 4096),  # vLLM, SGLang
        ({"context_length": 8192}, 8192),  # OpenRouter
        ({"meta": {"n_ctx_train": 2048, "n_params": 7}}, 2048),  # llama.cpp's server
        ({"max_model_len": None, "meta": None}, None),
        ({"max_model_len": "many", "context_length": True, "meta": []}, None),
        ({"max_model_len": -1}, None),
    ],
)
def test_the_context_is_what_the_server_tells(facts: dict[str, Any], tokens: int | None) -> None:
    with strange(lambda *_: None, **facts) as url, asking(url) as engine:
        assert engine.status().context_tokens == tokens
        assert engine.count(HELLO, PARAMS) is None  # it has no tokenizer of that model


def reply(handler: Any, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def send_events(handler: Any, *deltas: dict[str, Any], end: str | None = "stop") -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.end_headers()
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    if end:
        choices.append({"index": 0, "delta": {}, "finish_reason": end})
    for choice in choices:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "strange"}
        handler.wfile.write(f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n".encode())
    if end:
        handler.wfile.write(b"data: [DONE]\n\n")


def test_fields_that_a_server_refuses_are_left_out_from_then_on() -> None:
    seen: list[set[str]] = []

    def answer(handler: Any, body: dict[str, Any]) -> None:
        seen.append(set(body))
        for name in ("top_k", "stream_options"):
            if name in body:
                return reply(handler, 400, {"error": {"message": f"unknown field: {name}"}})
        return send_events(handler, {"content": "Fine"})

    with strange(answer) as url, asking(url) as engine:
        chunks = list(engine.stream(HELLO, PARAMS))
        assert text_of(engine) == "Fine"
    assert chunks[0].text == "Fine"
    assert chunks[-1].usage.completion_tokens == 1  # counted here, as the server tells none
    assert len(seen) == 4
    assert not {"top_k", "stream_options"} & seen[-1]


def test_a_value_that_a_server_refuses_is_left_out_once() -> None:
    seen: list[Any] = []

    def answer(handler: Any, body: dict[str, Any]) -> None:
        seen.append(body.get("top_k"))
        if body.get("top_k") == 0:
            return reply(handler, 400, {"error": {"message": "top_k must be -1 or at least 1"}})
        return send_events(handler, {"content": "Fine"})

    off = SamplingParams(top_k=0)
    with strange(answer) as url, asking(url) as engine:
        chunks = list(engine.stream(HELLO, off))
        assert chunks[0].text == "Fine"
        assert text_of(engine) == "Fine"
    assert seen == [0, None, PARAMS.top_k]


def test_an_error_in_the_middle_of_one_answer_leaves_the_server_to_the_others() -> None:
    def answer(handler: Any, _: Any) -> None:
        send_events(handler, {"content": "Half"}, end=None)
        handler.wfile.write(b'data: {"error": {"message": "out of memory"}}\n\n')

    with strange(answer) as url, asking(url) as engine:
        with pytest.raises(EngineFailed, match="out of memory"):
            text_of(engine)
        assert engine.status().state == "ready"


def test_a_server_that_is_not_ready_says_when_to_come_back() -> None:
    def answer(handler: Any, _: Any) -> None:
        handler.send_response(503)
        handler.send_header("retry-after", "5")
        handler.send_header("content-length", "0")
        handler.end_headers()

    with strange(answer) as url, asking(url) as engine:
        with pytest.raises(StillLoading) as refusal:
            text_of(engine)
        assert refusal.value.retry_after_s
        assert engine.status().state == "ready"


def test_a_server_that_writes_is_asked_nothing_else() -> None:
    """It is left alone while the other server is looked at again and again."""
    gate, writing = threading.Event(), []
    looks: Counter[str] = Counter()

    def writes(name: str) -> Callable[[Any, Any], None]:
        def answer(handler: Any, _: Any) -> None:
            writing.append(name)
            send_events(handler, {"content": "Half"}, end=None)
            gate.wait(PATIENCE_S)

        return answer

    with (
        strange(writes("one"), lambda: looks.update(["one"])) as one,
        strange(writes("two"), lambda: looks.update(["two"])) as two,
        asking(one, two) as engine,
    ):
        answer = engine.stream(HELLO, PARAMS)
        assert next(answer).text == "Half"
        before = looks.copy()
        other = "two" if writing == ["one"] else "one"
        until(lambda: looks[other] >= before[other] + 4)
        assert looks[writing[0]] <= before[writing[0]] + 1  # one may have been under way
        answer.close()
        gate.set()


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_come_under_either_name(field: str) -> None:
    def answer(handler: Any, _: Any) -> None:
        send_events(handler, {field: "Hm."}, {"content": "Yes"}, {"content": "."})

    with strange(answer) as url, asking(url) as engine:
        chunks = list(engine.stream(HELLO, PARAMS))
    assert [chunk.thought for chunk in chunks if chunk.thought] == ["Hm."]
    assert "".join(chunk.text for chunk in chunks) == "Yes."


def test_a_server_that_parts_nothing_is_helped() -> None:
    def answer(handler: Any, _: Any) -> None:
        pieces = ("<thi", "nk>\nHm", ".\n</think", ">\n\nYes.")
        send_events(handler, *({"content": piece} for piece in pieces))

    with strange(answer) as url, asking(url) as engine:
        chunks = list(engine.stream(HELLO, PARAMS))
    assert "".join(chunk.thought for chunk in chunks) == "Hm."
    assert "".join(chunk.text for chunk in chunks) == "Yes."


def test_what_fails_before_the_first_token_is_tried_again() -> None:
    tries: list[int] = []

    def answer(handler: Any, _: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            return reply(handler, 500, {"error": {"message": "a hiccup"}})
        if len(tries) == 2:
            return reply(handler, 429, {"error": {"message": "slow down"}})
        return send_events(handler, {"content": "Third time"})

    with strange(answer) as url, asking(url) as engine:
        assert text_of(engine) == "Third time"


@pytest.mark.parametrize(
    ("deltas", "words"), [([{"content": "Half"}], "broke off"), ([], "No server")]
)
def test_an_answer_without_an_end_is_no_answer(deltas: list[dict[str, Any]], words: str) -> None:
    with (
        strange(lambda h, _: send_events(h, *deltas, end=None)) as url,
        asking(url) as engine,
        pytest.raises(EngineFailed, match=words),
    ):
        text_of(engine)


def test_a_model_that_the_server_does_not_have() -> None:
    with strange(lambda h, _: None) as url, asking(url, remote_model="other") as engine:
        assert engine.status().state == "failed"
        assert "it serves strange and not other" in engine.status().detail


@pytest.mark.parametrize("body", [b"<html>a page</html>", b"[]", b'{"data": 5}'])
def test_a_server_of_something_else(body: bytes) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header(
                "content-type", "application/json" if body[:1] != b"<" else "text/html"
            )
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with asking(f"http://127.0.0.1:{server.server_port}") as engine:
        assert engine.status().state == "failed"
        assert "not like an OpenAI server" in engine.status().detail
    server.shutdown()
    server.server_close()


def test_torch_is_never_imported() -> None:
    code = (
        "import sys, app; from qwen_vl.config import Settings; "
        "from qwen_vl.engine import open_engine; "
        "e = open_engine(Settings(engine='remote', base_url=('http://127.0.0.1:9/v1',))); "
        "e.close(); print('torch' in sys.modules, 'openai' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    "fields",
    [
        {"engine": "remote"},
        {"base_url": ("http://a/v1",)},
        {"engine": "remote", "base_url": ("a",)},
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--base-url"):
        Settings(**fields)
