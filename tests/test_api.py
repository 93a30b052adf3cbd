"""The HTTP API over real HTTP: a server on a free port, before an engine that plays steps."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI
from openai import OpenAI
from PIL import Image, ImageDraw
from support.pictures import as_uri, encoded, noise
from support.ports import free_port
from support.scripted_engine import READY, SEEING, TEXT_ONLY, ScriptedEngine
from support.until import PATIENCE_S, until

from qwen_vl import __version__, api
from qwen_vl.api import answers
from qwen_vl.config import Settings, load_settings
from qwen_vl.engine import Engine, open_engine
from qwen_vl.errors import (
    Busy,
    EngineFailed,
    ModelUnavailable,
    StillLoading,
    TooLarge,
    Unsupported,
    UserError,
)
from qwen_vl.jobs import Jobs
from qwen_vl.metrics import Measured, Metrics
from qwen_vl.schema import EngineStatus, Usage

CHAT = "/v1/chat/completions"
SMALL = Settings(
    max_image_mb=0.25,
    max_image_megapixels=1.0,
    max_images=2,
    max_messages=4,
    max_prompt_chars=200,
    max_new_tokens=50,
)
SECRET = "the-secret-of-this-prompt"


@contextlib.contextmanager
def serving(
    engine: Engine, settings: Settings = SMALL, *, closes_engine: bool = True
) -> Iterator[httpx.Client]:
    """A server with the API routes and nothing else, and a client for it."""
    metrics = Metrics()
    measured = Measured(engine, metrics)
    jobs = Jobs(measured, file=settings.job_file, keep_s=3600, most=settings.max_jobs)
    routes = api.build_router(measured, settings, jobs, metrics).routes
    app = FastAPI(routes=routes, openapi_url=None, docs_url=None, redoc_url=None)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert server.started
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            yield client
    finally:
        jobs.close()
        if closes_engine:
            engine.close()
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server still waits for a request"


def asking(content: Any = "Hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


def showing(*urls: str) -> list[dict[str, Any]]:
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"type": "text", "text": "What is this?"}, *pictures]


def events(response: httpx.Response) -> Iterator[Any]:
    """The data of every server-sent event, read as JSON where it is JSON."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def said(pieces: list[Any]) -> str:
    choices = [choice for piece in pieces if piece != "[DONE]" for choice in piece["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def assert_error(body: Any, code: str) -> str:
    """The OpenAI error shape; returns its message."""
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"].strip()
    return error["message"]


# --- health and models ---


def test_health_is_200_with_all_fields_when_the_model_can_answer() -> None:
    status = EngineStatus("ready", "m", device="cpu", dtype="float32", reason="r", notice="n")
    with serving(ScriptedEngine(status=status)) as client:
        response = client.get("/health")
        assert client.head("/health").status_code == 200
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "model": "m",
        "device": "cpu",
        "dtype": "float32",
        "reason": "r",
        "progress": None,
        "detail": "",
        "notice": "n",
        "family": "",
        "most_image_tokens": None,
        "image_tokens": 1280,
        "context_tokens": None,
        "accepts_images": True,
        "live": True,
        "ready": True,
        "version": __version__,
    }


@pytest.mark.parametrize(
    "status",
    [
        EngineStatus("loading", "m", detail="Downloading", progress=0.25),
        EngineStatus("failed", "m", detail="The disk is full: free some space."),
    ],
    ids=lambda status: status.state,
)
def test_health_is_503_with_the_same_fields_until_then(status: EngineStatus) -> None:
    with serving(ScriptedEngine(status=status)) as client:
        response = client.get("/health")
    assert response.status_code == 503
    told = response.json()
    assert (told["status"], told["detail"], told["progress"]) == (
        status.state,
        status.detail,
        status.progress,
    )


def test_models_lists_the_one_model_that_answers() -> None:
    with serving(ScriptedEngine()) as client:
        listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [READY.model_id]


# --- answers ---


def test_a_whole_answer_has_text_usage_and_the_model_that_answered() -> None:
    usage = Usage(7, 0, 5, ttft_s=0.5, tokens_per_s=20.0, accepted_tokens=4, rejected_tokens=6)
    engine = ScriptedEngine("Good ", "morning", ".", usage=usage)
    with serving(engine) as client:
        response = client.post(CHAT, json=asking(model="gpt-4o", user="u", tools=[], n=1))
    assert response.status_code == 200
    answer = response.json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == engine.model_id
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Good morning."}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 4,
            "rejected_prediction_tokens": 6,
        },
        "ttft_s": 0.5,
        "tokens_per_s": 20.0,
    }


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_says_the_same_as_a_whole_answer(include_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    with serving(ScriptedEngine("Good ", "morning", ".")) as client:
        whole = client.post(CHAT, json=asking()).json()
        with client.stream("POST", CHAT, json=asking(stream=True, **options)) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            *pieces, done = events(response)
    assert done == "[DONE]"
    assert said(pieces) == whole["choices"][0]["message"]["content"]
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}
    assert len({piece["id"] for piece in pieces}) == 1
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    ends = [choice["finish_reason"] for piece in pieces for choice in piece["choices"]]
    assert ends == [None] * (len(ends) - 1) + ["stop"]
    if include_usage:
        assert pieces[-1]["choices"] == []
        assert pieces[-1]["usage"] == whole["usage"]
        assert [piece["usage"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    else:
        assert not any("usage" in piece for piece in pieces)


def test_a_delta_is_sent_before_the_next_one_exists() -> None:
    rest = threading.Event()
    with (
        serving(ScriptedEngine("first", rest, "second")) as client,
        client.stream("POST", CHAT, json=asking(stream=True)) as response,
    ):
        pieces = events(response)
        assert said([next(pieces), next(pieces)]) == "first"
        rest.set()
        assert said(list(pieces)) == "second"


@pytest.mark.parametrize("stream", [False, True])
def test_text_of_any_script_arrives_unchanged_both_ways(stream: bool) -> None:
    text = '图里有什么？\u2028\x85 مرحبا 👩‍👩‍👧 ½ \t\\ "</s>" <|im_end|> \x00'
    engine = ScriptedEngine(*text)
    with serving(engine) as client:
        response = client.post(CHAT, json=asking(text, stream=stream))
    asked, _ = engine.requests[0]
    assert asked[-1].text == text
    if stream:
        assert said(list(events(response))) == text
    else:
        assert response.json()["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("reason", "told"),
    [("stop", "stop"), ("length", "length"), ("repetition", "length"), ("cancelled", "length")],
)
def test_an_answer_cut_short_never_looks_complete(reason: Any, told: str) -> None:
    with serving(ScriptedEngine("a", finish_reason=reason)) as client:
        choice = client.post(CHAT, json=asking()).json()["choices"][0]
        streamed = list(events(client.post(CHAT, json=asking(stream=True))))[-2]["choices"][0]
    for end in (choice, streamed):
        assert end["finish_reason"] == told
        assert end["native_finish_reason"] == reason


def test_out_of_time_is_a_length_with_the_text_so_far_and_504_without_any() -> None:
    with serving(ScriptedEngine("Once ", "upon", finish_reason="timeout")) as client:
        response = client.post(CHAT, json=asking())
        (choice,) = response.json()["choices"]
        streamed = list(events(client.post(CHAT, json=asking(stream=True))))
    assert response.status_code == 200
    assert choice["message"]["content"] == "Once upon"
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("length", "timeout")
    assert said(streamed) == "Once upon"
    assert streamed[-2]["choices"][0]["native_finish_reason"] == "timeout"
    with serving(ScriptedEngine("", finish_reason="timeout")) as client:
        response = client.post(CHAT, json=asking())
    assert response.status_code == 504
    assert response.headers["x-should-retry"] == "false"  # OpenAI's clients would ask twice more
    assert_error(response.json(), "timeout")


def test_parameters_reach_the_engine_over_the_presets_of_its_model() -> None:
    engine = ScriptedEngine("a")
    settings = Settings(image_tokens=300)
    with serving(engine, settings) as client:
        client.post(CHAT, json=asking())
        client.post(CHAT, json=asking(showing(as_uri(encoded(noise(8, 8))))))
        client.post(CHAT, json=asking(temperature=0, seed=3, stop="x", max_completion_tokens=9))
    text, picture, own = (params for _, params in engine.requests)
    preset = SEEING.preset(has_images=False)
    assert (text.temperature, text.presence_penalty) == (
        preset.temperature,
        preset.presence_penalty,
    )
    assert text.max_image_tokens == 300
    preset = SEEING.preset(has_images=True)
    assert (picture.temperature, picture.top_k) == (preset.temperature, preset.top_k)
    assert (own.temperature, own.seed, own.stop, own.max_new_tokens) == (0, 3, ("x",), 9)


def test_pictures_arrive_in_their_places_as_upright_rgb() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    lossless = noise(6, 4)
    clear = Image.new("RGBA", (3, 3), (0, 0, 0, 0))
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    content = [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": as_uri(encoded(lossless, exif=exif))}},
        {"type": "text", "text": "two"},
        {"type": "image_url", "image_url": as_uri(encoded(clear))},
        {"type": "image_url", "image_url": {"url": as_uri(animation, "image/gif")}},
        {"type": "image_url", "image_url": {"url": as_uri(encoded(noise(1, 1)))}},
    ]
    engine = ScriptedEngine("a")
    with serving(engine, Settings()) as client:
        assert client.post(CHAT, json=asking(content)).status_code == 200
    (message,) = engine.requests[0][0]
    assert [part.text for part in message.parts if hasattr(part, "text")] == ["one", "two"]
    assert [hasattr(part, "text") for part in message.parts] == [True, False, True] + [False] * 3
    rotated, flattened, first, dot = (part.image for part in message.images)
    assert {image.mode for image in (rotated, flattened, first, dot)} == {"RGB"}
    assert rotated.tobytes() == lossless.transpose(Image.Transpose.ROTATE_270).tobytes()
    assert flattened.getcolors() == [(9, (255, 255, 255))]
    assert first.getcolors() == [(25, (255, 0, 0))]
    assert dot.size == (1, 1)


# --- refusals ---

_PNG = encoded(noise(16, 16))
_JPEG = encoded(noise(64, 64), "JPEG")
_MP4 = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(200)
_TURN = {"role": "user", "content": "Hello"}


def _picture(url: str) -> dict[str, Any]:
    return asking(showing(url))


BAD = {
    "no messages": ({}, 400, "bad_request"),
    "messages are text": ({"messages": "Hello"}, 400, "bad_request"),
    "messages are empty": ({"messages": []}, 400, "bad_request"),
    "a message is text": ({"messages": ["Hello"]}, 400, "bad_request"),
    "unknown role": ({"messages": [{"role": "root", "content": "a"}]}, 400, "bad_request"),
    "no role": ({"messages": [{"content": "a"}]}, 400, "bad_request"),
    "role is a list": ({"messages": [{"role": [], "content": "a"}]}, 400, "bad_request"),
    "no content": ({"messages": [{"role": "user"}]}, 400, "bad_request"),
    "content is a number": (asking(5), 400, "bad_request"),
    "content is blank": (asking("  \n"), 400, "bad_request"),
    "content has no parts": (asking([]), 400, "bad_request"),
    "a part is text": (asking(["Hello"]), 400, "bad_request"),
    "a part of another type": (asking([{"type": "input_audio"}]), 400, "bad_request"),
    "a part of a type that is a list": (asking([{"type": []}]), 400, "bad_request"),
    "text is a number": (asking([{"type": "text", "text": 5}]), 400, "bad_request"),
    "half a surrogate pair": (asking("\ud83d"), 400, "bad_request"),
    "no url": (asking([{"type": "image_url"}]), 400, "bad_request"),
    "url is a number": (
        asking([{"type": "image_url", "image_url": {"url": 5}}]),
        400,
        "bad_request",
    ),
    "an assistant's picture": (
        {"messages": [{"role": "assistant", "content": showing(as_uri(_PNG))}, _TURN]},
        400,
        "bad_request",
    ),
    "file url": (_picture("file:///etc/hostname"), 400, "bad_request"),
    "path": (_picture("/etc/hostname"), 400, "bad_request"),
    "http url": (_picture("http://127.0.0.1:1/a.png"), 422, "unsupported"),
    "https url": (_picture("https://example.com/a.png"), 422, "unsupported"),
    "text as data": (_picture("data:text/plain;base64,SGVsbG8="), 415, "unsupported_media"),
    "broken base64": (_picture("data:image/png;base64,@@@@"), 400, "bad_request"),
    "cut base64": (_picture("data:image/png;base64,iVBOR"), 400, "bad_request"),
    "zero bytes": (_picture(as_uri(b"")), 400, "bad_request"),
    "truncated JPEG": (_picture(as_uri(_JPEG[: len(_JPEG) // 2])), 400, "bad_request"),
    "text named png": (_picture(as_uri(b"Hello, I am a picture.")), 415, "unsupported_media"),
    "mp4 named png": (_picture(as_uri(_MP4)), 415, "unsupported_media"),
    "20000x10": (_picture(as_uri(encoded(Image.new("L", (20_000, 10))))), 400, "bad_request"),
    "too many pixels": (
        _picture(as_uri(encoded(Image.new("L", (1001, 1000))))),
        413,
        "too_large",
    ),
    "too many bytes": (_picture(as_uri(encoded(noise(400, 400)))), 413, "too_large"),
    "too many pictures": (asking(showing(*[as_uri(_PNG)] * 3)), 413, "too_large"),
    "too many messages": ({"messages": [_TURN] * 5}, 413, "too_large"),
    "too many characters": (asking("a" * 201), 413, "too_large"),
    "too many stops": (asking(stop=["a"] * 17), 413, "too_large"),
    "no tokens": (asking(max_tokens=0), 400, "bad_request"),
    "hot": (asking(temperature=2.5), 400, "bad_request"),
    "temperature is text": (asking(temperature="0.5"), 400, "bad_request"),
    "a number without end": (asking(top_k=10**400), 400, "bad_request"),
    "too many answers": (asking(n=9), 400, "bad_request"),
    "stream is text": (asking(stream="yes"), 400, "bad_request"),
    "stream options are a list": (asking(stream_options=[1]), 400, "bad_request"),
}


@pytest.fixture(scope="module")
def refusing() -> Iterator[httpx.Client]:
    """A server for many requests that must never reach its engine."""
    engine = ScriptedEngine("This must not be said.")
    with serving(engine) as client:
        yield client
        assert engine.requests == []


@pytest.mark.parametrize(("body", "status", "code"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_bad_input_is_refused_in_words(
    refusing: httpx.Client, body: dict[str, Any], status: int, code: str, stream: bool
) -> None:
    response = refusing.post(CHAT, content=json.dumps({"stream": stream, **body}))
    assert response.status_code == status, response.text
    assert_error(response.json(), code)


@pytest.mark.parametrize(
    "body",
    [b"", b"Hello", b'{"messages": ', b"\xff\xfe", b"[" * 100_000, b"5", b"null", b"[]"],
    ids=["empty", "text", "cut", "not UTF-8", "deep", "number", "null", "list"],
)
def test_a_body_that_is_no_json_object_is_refused(refusing: httpx.Client, body: bytes) -> None:
    response = refusing.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert_error(response.json(), "bad_request")


def test_a_body_that_announces_too_much_is_refused_unread(refusing: httpx.Client) -> None:
    connection = http.client.HTTPConnection(
        refusing.base_url.host, refusing.base_url.port, timeout=PATIENCE_S
    )
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()  # and not one byte of a body
    response = connection.getresponse()
    assert response.status == 413
    assert_error(json.loads(response.read()), "too_large")


def test_a_body_that_grows_too_much_is_refused_on_its_way(refusing: httpx.Client) -> None:
    address = (refusing.base_url.host, refusing.base_url.port)
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"  # one chunk of 64 KiB
    answer = b""
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n".encode())
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        connection.settimeout(0.001)
        for _ in range(10_000):  # far more than any limit, if nobody stops it
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65536)
                break
            connection.settimeout(PATIENCE_S)
            connection.sendall(piece)
            connection.settimeout(0.001)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_the_largest_pictures_that_are_allowed_fit_into_a_request() -> None:
    settings = Settings(max_image_mb=0.25, max_images=2)
    data = encoded(noise(200, 200), "BMP")
    data += bytes(int(settings.max_image_mb * 2**20) - len(data))  # readers skip what follows
    engine = ScriptedEngine("a")
    with serving(engine, settings) as client:
        response = client.post(CHAT, json=asking(showing(*[as_uri(data)] * 2)))
    assert response.status_code == 200, response.text
    assert len(engine.requests[0][0][0].images) == 2


def test_a_picture_for_a_text_only_model_is_422() -> None:
    engine = ScriptedEngine("a", status=EngineStatus("ready", "m", family=TEXT_ONLY))
    with serving(engine) as client:
        response = client.post(CHAT, json=_picture(as_uri(_PNG)))
        assert client.post(CHAT, json=asking()).status_code == 200
    assert response.status_code == 422
    assert_error(response.json(), "unsupported")


# --- errors of the engine ---


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "error",
    [
        Busy("Three wait."),
        StillLoading("Half way."),
        ModelUnavailable("Gone."),
        Unsupported("No."),
        TooLarge("Long."),
        EngineFailed("Out of memory."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_before_the_first_text_has_its_own_status(error: UserError, stream: bool) -> None:
    with serving(ScriptedEngine(refusal=error)) as at_once, serving(ScriptedEngine(error)) as later:
        responses = [client.post(CHAT, json=asking(stream=stream)) for client in (at_once, later)]
    for response in responses:
        assert response.status_code == error.status
        assert assert_error(response.json(), error.code) == str(error)
        wait = error.retry_after_s
        assert response.headers.get("retry-after") == (None if wait is None else str(wait))


def test_an_error_midway_is_the_last_event_of_a_stream() -> None:
    with serving(ScriptedEngine("Half", EngineFailed("Out of memory."))) as client:
        *pieces, last = events(client.post(CHAT, json=asking(stream=True)))
        whole = client.post(CHAT, json=asking())
    assert said(pieces) == "Half"
    assert assert_error(last, "engine_failed") == "Out of memory."
    assert whole.status_code == 500


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("before", [(), ("Half",)], ids=["at the start", "midway"])
def test_a_bug_is_logged_and_not_shown(
    before: tuple[str, ...], stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(ScriptedEngine(*before, KeyError("inner detail"))) as client:
        response = client.post(CHAT, json=asking(SECRET, stream=stream))
    if before and stream:
        assert_error(list(events(response))[-1], "internal_error")
    else:
        assert response.status_code == 500
        assert_error(response.json(), "internal_error")
    assert "inner detail" not in response.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    assert SECRET not in caplog.text


def test_nothing_of_a_conversation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(ScriptedEngine(SECRET)) as client:
        client.post(CHAT, json=asking(SECRET))
        client.post(CHAT, json=asking([{"type": SECRET}]))
        client.post(CHAT, json=asking(SECRET, stream=True, temperature=SECRET))
    ours = [record for record in caplog.records if record.name.startswith(("qwen_vl", "uvicorn"))]
    assert not any(SECRET in record.getMessage() for record in ours)


# --- clients that leave ---


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("before", [(), ("Once upon ",)], ids=["in prefill", "midway"])
def test_a_client_that_leaves_frees_its_place_and_nobody_elses(
    before: tuple[str, ...], stream: bool
) -> None:
    gate = threading.Event()
    engine = ScriptedEngine(*before, gate, "the end")
    with serving(engine) as client:
        others: list[httpx.Response] = []
        other = threading.Thread(target=lambda: others.append(client.post(CHAT, json=asking())))
        other.start()
        until_waiting(engine, 0)
        with sending(client, json.dumps(asking(stream=stream)).encode()):
            until_waiting(engine, 1)
        assert engine.answers[1].closed.wait(PATIENCE_S)
        assert not engine.answers[0].closed.is_set()
        gate.set()
        other.join(PATIENCE_S)
    assert others[0].json()["choices"][0]["message"]["content"] == "".join([*before, "the end"])


@contextlib.contextmanager
def sending(client: httpx.Client, body: bytes, length: int | None = None) -> Iterator[None]:
    """A bare connection that sends a request with this body, and is cut at the end."""
    address = (client.base_url.host, client.base_url.port)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: {length or len(body)}\r\n\r\n"
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        connection.sendall(head.encode() + body)
        yield


def until_waiting(engine: ScriptedEngine, index: int) -> None:
    """Returns when the answer of that number is under way and waits for its event."""
    until(lambda: len(engine.answers) > index and engine.answers[index].waiting.is_set())


def test_a_client_that_leaves_while_it_still_sends_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine("a")
    with serving(engine) as client:
        with sending(client, b"{", length=100):
            pass
        assert client.get("/health").status_code == 200
    assert engine.requests == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_answer_is_closed_in_the_end() -> None:
    engine = ScriptedEngine("a")
    with serving(engine) as client:
        client.post(CHAT, json=asking())
        client.post(CHAT, json=asking(stream=True))
        assert [answer.closed.wait(PATIENCE_S) for answer in engine.answers] == [True, True]


def test_a_silent_stream_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEEP_ALIVE_S", 0.02)
    gate = threading.Event()
    with (
        serving(ScriptedEngine(gate, "done")) as client,
        client.stream("POST", CHAT, json=asking(stream=True)) as response,
    ):
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":"))
        gate.set()
        assert '"done"' in "".join(lines)


def test_an_answer_without_a_last_chunk_is_a_bug_and_no_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(ScriptedEngine("a", finish_reason=None)) as client:
        assert client.post(CHAT, json=asking()).status_code == 500
    assert "last chunk" in caplog.text


# --- beside the page ---


@contextlib.contextmanager
def beside_a_page(engine: Engine, settings: Settings) -> Iterator[str]:
    """The routes on Gradio's own server, joined as `app.py` joins them. Gives its address."""
    import gradio as gr

    jobs = Jobs(engine, file=settings.job_file, keep_s=3600, most=settings.max_jobs)
    with gr.Blocks() as page:
        gr.Markdown("A page.")
    _, url, _ = page.launch(
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        app_kwargs={"routes": api.build_router(engine, settings, jobs, Metrics()).routes},
    )
    try:
        yield url.rstrip("/")
    finally:
        jobs.close()
        page.close(verbose=False)


def test_the_routes_share_a_port_with_the_page() -> None:
    gate = threading.Event()
    engine = ScriptedEngine("Hi", gate)
    with beside_a_page(engine, SMALL) as url, httpx.Client(base_url=url) as client:
        assert "gradio" in client.get("/").text
        assert client.get("/health").json()["status"] == "ready"
        bad = client.post(CHAT, json=asking(max_tokens=0))
        assert_error(bad.json(), "bad_request")
        with client.stream("POST", CHAT, json=asking(stream=True)) as response:
            assert next(events(response))["model"] == engine.model_id
        assert engine.answers[0].closed.wait(PATIENCE_S)
        gate.set()


# --- the official client ---


def official(base_url: Any) -> OpenAI:
    return OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S * 3)


def test_the_official_client_understands_answers_errors_and_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "KEEP_ALIVE_S", 0.02)
    gate = threading.Event()
    engine = ScriptedEngine("Good ", gate, "morning", EngineFailed("Out of memory."))
    with serving(engine) as http_client:
        client = official(str(http_client.base_url).rstrip("/"))
        threading.Timer(0.2, gate.set).start()
        got = []
        stream = client.chat.completions.create(**asking(), model="any", stream=True)
        with pytest.raises(openai.APIError, match=r"Out of memory\."):
            got.extend(chunk.choices[0].delta.content for chunk in stream)
        assert "".join(got) == "Good morning"
        with pytest.raises(openai.BadRequestError) as refusal:
            client.chat.completions.create(**asking(""), model="any")
        assert refusal.value.code == "bad_request"
        assert [model.id for model in client.models.list()] == [engine.model_id]


def test_the_official_async_client_too() -> None:
    engine = ScriptedEngine("Good ", "morning")

    async def talk(url: str) -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0
        ) as client:
            whole = await client.chat.completions.create(**asking(), model="any")
            assert whole.choices[0].message.content == "Good morning"
            assert whole.usage is not None
            assert whole.usage.completion_tokens == 2
            stream = await client.chat.completions.create(**asking(), model="any", stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert "".join(pieces) == "Good morning"
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(**asking(""), model="any")
            stream = await client.chat.completions.create(**asking(), model="any", stream=True)
            async for _ in stream:  # and this one leaves midway
                break
            await stream.close()

    with serving(engine) as http_client:
        anyio.run(talk, str(http_client.base_url).rstrip("/"))
        assert engine.answers[-1].closed.wait(PATIENCE_S)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/embeddings", 404, "not_found"),
        ("POST", "/v1/completions/more", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("PUT", "/result/abc", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_here_is_refused_in_the_same_shape(
    method: str, path: str, status: int, code: str
) -> None:
    with serving(ScriptedEngine()) as client:
        response = client.request(method, path)
    assert response.status_code == status
    assert_error(response.json(), code)


@contextlib.contextmanager
def running_app(*flags: str) -> Iterator[str]:
    """`python app.py` with these flags, in this process. Gives its address once it can answer."""
    import app

    port = free_port()
    settings, stop = load_settings([*flags, "--port", str(port)]), threading.Event()
    serving_it = (settings, open_engine(settings), stop)
    thread = threading.Thread(target=app.serve, args=serving_it, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: is_ready(url) or not thread.is_alive())
        assert thread.is_alive(), "the app has ended"
        yield url
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def is_ready(url: str) -> bool:
    try:
        health = httpx.get(f"{url}/health").json()
    except httpx.TransportError:
        return False
    assert health["status"] != "failed", health["detail"]
    return health["status"] == "ready"


def test_the_official_client_talks_to_the_app() -> None:
    picture = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(picture).ellipse((24, 24, 72, 72), fill="red")
    question = asking(showing(as_uri(encoded(picture))), model="any", max_tokens=40, temperature=0)
    with running_app("--model", "bundled") as url:
        client = official(url)
        (model,) = client.models.list()
        whole = client.chat.completions.create(**question)
        *pieces, last = client.chat.completions.create(
            **question, stream=True, stream_options={"include_usage": True}
        )
    assert whole.model == model.id
    answer = whole.choices[0].message.content
    assert answer
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == answer
    assert whole.choices[0].finish_reason == pieces[-1].choices[0].finish_reason
    assert whole.usage is not None
    assert last.usage is not None
    assert whole.usage.completion_tokens == last.usage.completion_tokens > 0
    assert whole.usage.prompt_tokens == last.usage.prompt_tokens > 9  # the picture takes nine
