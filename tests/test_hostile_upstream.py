"""A hostile server behind this one ends its own answer with words, and nothing else."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from support.hostile_upstream import (
    ANSWERED,
    ANSWERS,
    LISTS,
    STOP,
    Handler,
    Hostile,
    choice,
    encoded,
    endless,
    hostile_upstream,
    listed,
    replying,
    saying,
)
from support.scripted_engine import ScriptedEngine
from test_api import CHAT, serving
from test_api import asking as asked

from qwen_vl.config import Settings
from qwen_vl.engine import Engine, bridge, open_engine
from qwen_vl.engine.remote import engine as remote
from qwen_vl.errors import BadRequest, Busy, TooLarge, UserError
from qwen_vl.jobs import Jobs
from qwen_vl.metrics import Measured, Metrics
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, ImagePart, Message, TextPart

HELLO = [Message("user", (TextPart("my private question"),))]
PARAMS = SamplingParams(max_new_tokens=8)
PATIENCE_S = 20
MOST_BYTES = 40_000_000  # with what fills the buffers of two sockets; all others send far more


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "BACKOFF_S", 0.01)
    monkeypatch.setattr(remote, "CHECK_S", 0.1)


@pytest.fixture
def server() -> Iterator[Hostile]:
    with hostile_upstream() as state:
        yield state


@contextlib.contextmanager
def engine_over(*urls: str, **more: Any) -> Iterator[Engine]:
    engine = open_engine(Settings(engine="remote", base_url=urls, **more))
    try:
        until(lambda: engine.status().state != "loading")
        yield engine
    finally:
        engine.close()


def until(true: Any) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s, "it does not come to be"
        time.sleep(0.01)


def said(engine: Engine, text: str = "my private question", **more: Any) -> list[Chunk]:
    params = SamplingParams(**{"max_new_tokens": 8, "top_k": 7, **more})
    return list(engine.stream([Message("user", (TextPart(text),))], params))


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


# --- what it answers ---


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none_ends_with_words(
    name: str, server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_over(server.url) as engine:
        plain, server.answer = server.answer, ANSWERS[name]
        with pytest.raises(UserError) as refusal:
            said(engine)
        assert len(str(refusal.value)) < 500
        assert server.sent_bytes < MOST_BYTES
        server.answer = plain
        until(lambda: engine.status().answers)
        assert text_of(said(engine)) == "Fine"
    assert "Traceback" not in caplog.text
    assert "my private question" not in caplog.text


@pytest.mark.parametrize("name", ANSWERED)
def test_what_is_odd_beside_an_answer_does_not_cost_it(name: str, server: Hostile) -> None:
    server.answer, text = ANSWERED[name]
    with engine_over(server.url) as engine:
        chunks = said(engine)
    assert text_of(chunks) == text
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage.prompt_tokens == 0
    assert chunks[-1].usage.completion_tokens > 0


def test_an_answer_that_goes_on_after_its_tokens_is_cut(server: Hostile) -> None:
    server.answer = endless(b"data: %s\n\n" % encoded(choice({"content": "word "})))
    with engine_over(server.url) as engine:
        chunks = said(engine)
    assert chunks[-1].finish_reason == "length"
    assert 8 <= len(text_of(chunks)) < 2000


def test_silence_ends_with_the_time(server: Hostile) -> None:
    gate = threading.Event()
    server.answer = lambda handler: (handler.events(choice({"content": "Half"})), gate.wait())
    with engine_over(server.url, max_seconds=1) as engine:
        chunks = said(engine)
    gate.set()
    assert (text_of(chunks), chunks[-1].finish_reason) == ("Half", "timeout")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_follows_a_redirect(status: int, server: Hostile) -> None:
    with hostile_upstream() as thief:
        server.answer = replying(status, location=thief.url + "/chat/completions")
        with (
            engine_over(server.url, remote_key="the-key") as engine,
            pytest.raises(UserError, match="--base-url"),
        ):
            said(engine)
        assert thief.asked == []
    assert len(server.asked) == 1


def test_no_cookie_is_kept_for_the_next_question(server: Hostile) -> None:
    def answer(handler: Handler) -> None:
        handler.head(kind="text/event-stream", set_cookie="visitor=1; Path=/")
        handler.data(b"data: %s\n\n" % encoded(choice({"content": "a"}, "stop")))

    server.answer = answer
    with engine_over(server.url) as engine:
        said(engine)
        said(engine)
    assert len(server.asked) == 2
    assert not any("cookie" in headers for _, headers, _ in server.asked)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_is_none_never_ends_the_watch(
    name: str, server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_over(server.url) as engine:
        server.models = LISTS[name]
        until(lambda: engine.status().state == "failed")
        assert len(engine.status().detail) < 600
        server.models = listed
        until(lambda: engine.status().state == "ready")
        assert text_of(said(engine)) == "Fine"
    assert "Traceback" not in caplog.text


def test_a_bug_while_looking_is_logged_and_the_next_look_comes(
    server: Hostile, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen_vl.engine.remote import upstream as remote_upstream

    plain = remote_upstream.models_of
    with engine_over(server.url) as engine:
        monkeypatch.setattr(remote_upstream, "models_of", lambda _: 1 / 0)
        until(lambda: engine.status().state == "failed")
        monkeypatch.setattr(remote_upstream, "models_of", plain)
        until(lambda: engine.status().state == "ready")
    assert "ZeroDivisionError" in caplog.text


# --- what nobody may see ---


def test_credentials_are_sent_and_never_shown(
    server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="qwen_vl")
    url = server.url.replace("http://", "http://us%20er:hun%2Fter2@") + "?token=tok123"
    pair = base64.b64encode(b"us er:hun/ter2").decode()
    told = f"no entry for {pair}, hun/ter2, hun%2Fter2, the-key, sk-SOMEBODYS and {url}"
    server.answer = replying(401, encoded({"error": {"message": told}}), "application/json")
    settings = Settings(engine="remote", base_url=(url,), remote_key="the-key")
    engine = open_engine(settings)
    metrics = Metrics()
    with serving(Measured(engine, metrics), settings) as client:
        until(lambda: engine.status().answers)
        shown = [client.get("/health").text, client.get("/metrics").text]
        shown.append(client.post(CHAT, json=asked()).text)
        server.models = server.answer
        until(lambda: engine.status().state == "failed")
        shown += [client.get("/health").text, client.get("/v1/models").text]
    engine.close()
    path, headers, _ = server.asked[0]
    assert headers["authorization"] == f"Basic {pair}"
    assert path == "/v1/chat/completions?token=tok123"
    shown += [
        repr(settings),
        repr(engine),
        repr(vars(engine)),
        caplog.text,
        metrics.text().decode(),
    ]
    assert "no entry for" in shown[2]
    for text in shown:
        for secret in ("hun/ter2", "hun%2Fter2", "tok123", "the-key", "SOMEBODYS", pair):
            assert secret not in text


def test_a_key_is_sent_where_there_is_no_password(server: Hostile) -> None:
    with engine_over(server.url, remote_key="the-key") as engine:
        said(engine)
    _, headers, _ = server.asked[0]
    assert headers["authorization"] == "Bearer the-key"
    assert headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("field", ["remote_key", "base_url", "auth", "api_key"])
def test_settings_show_no_secret(field: str) -> None:
    values = {
        "engine": "remote",
        "base_url": ("http://user:SECRET@a/v1",),
        "remote_key": "SECRET",
        "auth": "me:SECRET",
        "api_key": ("SECRET",),
    }
    assert field in values
    assert "SECRET" not in repr(Settings(**values))


@pytest.mark.parametrize(
    ("id", "shown"),
    [
        ("/models/llava/x-Q4.gguf", "x-Q4.gguf"),
        ("models/x.gguf", "x.gguf"),
        ("C:\\models\\x.gguf", "x.gguf"),
        ("/home/ann/Qwen3-VL-2B/", "Qwen3-VL-2B"),
        ("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-2B-Instruct"),
        ("gpt-4.1", "gpt-4.1"),
    ],
)
def test_a_model_that_is_a_file_is_shown_by_its_name(id: str, shown: str, server: Hostile) -> None:
    server.models = replying(200, encoded({"data": [{"id": id}]}), "application/json")
    with engine_over(server.url) as engine:
        assert engine.model_id == shown
        assert engine.status().model_id == shown
        said(engine)
    assert server.asked[0][2]["model"] == id
    with engine_over(server.url, remote_model="another") as engine:
        assert f"it serves {shown} and not another" in engine.status().detail


# --- fields that it refuses ---


def refusing(body: Any, when: Any, status: int = 400) -> Any:
    """Refuses what `when` holds for, else answers."""

    def write(handler: Handler) -> None:
        asked = handler.state.asked[-1][2]
        if when(asked):
            replying(status, encoded(body), "application/json")(handler)
        else:
            saying(choice({"content": "Fine"}), STOP)(handler)

    return write


IN_WORDS = "Invalid input: 'what does unknown field top_k mean?'"


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ({"error": {"message": "no", "param": "top_k"}}, False),
        ({"detail": [{"loc": ["body", "top_k"], "type": "extra_forbidden", "msg": "x"}]}, False),
        ({"error": {"message": "Unrecognized request argument supplied: top_k"}}, False),
        ({"message": "[{'type': 'extra_forbidden', 'loc': ('body', 'top_k')}]"}, False),
        ({"detail": "Unexpected fields in the request: {'top_k'}"}, False),
        ({"error": {"message": "top_k must be below 5", "param": "top_k"}}, True),
        ({"detail": [{"loc": ["body", "top_k"], "type": "less_than", "msg": "x"}]}, True),
    ],
)
def test_a_field_is_switched_off_where_it_is_not_known(
    body: Any, kept: bool, server: Hostile
) -> None:
    server.answer = refusing(body, lambda asked: asked.get("top_k") == 7)
    with engine_over(server.url) as engine:
        assert text_of(said(engine)) == "Fine"
        said(engine, top_k=3)
    assert ("top_k" in server.asked[-1][2]) == kept


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": IN_WORDS}},
        {"error": {"message": IN_WORDS, "param": None}},
        {"error": {"message": IN_WORDS, "param": "messages"}},
        {"detail": [{"loc": ["body", "messages"], "msg": IN_WORDS, "input": {"param": "x"}}]},
        {"detail": IN_WORDS},
    ],
)
@pytest.mark.parametrize("lasting", [True, False])
def test_words_in_a_question_switch_nothing_off(body: Any, lasting: bool, server: Hostile) -> None:
    def when(asked: dict[str, Any]) -> bool:
        return "top_k" in asked["messages"][0]["content"] and (lasting or "top_k" in asked)

    server.answer = refusing(body, when)
    with engine_over(server.url) as engine:
        with contextlib.suppress(BadRequest):
            said(engine, "what does unknown field top_k mean?")
        said(engine)
    assert server.asked[-1][2]["top_k"] == 7


def test_a_field_stays_where_leaving_it_out_does_not_help(server: Hostile) -> None:
    body = {"error": {"message": "unknown field top_k", "param": "top_k"}}
    server.answer = refusing(body, lambda asked: asked["messages"][0]["content"] == "bad")
    with engine_over(server.url) as engine:
        with pytest.raises(BadRequest):
            said(engine, "bad")
        said(engine)
    assert server.asked[-1][2]["top_k"] == 7


def test_scopes_have_salts_that_tell_nothing(server: Hostile) -> None:
    with engine_over(server.url) as engine:
        for scope in ("ann", "ann", "bob", ""):
            list(engine.stream(HELLO, PARAMS, scope))
    with engine_over(server.url) as engine:
        list(engine.stream(HELLO, PARAMS, "ann"))
    first, again, other, none, elsewhere = (body.get("cache_salt") for *_, body in server.asked)
    assert first == again
    assert none is None
    assert len({first, other, elsewhere}) == 3
    assert not any("ann" in salt or "bob" in salt for salt in (first, other, elsewhere))


# --- thoughts, pictures, time ---


def test_thoughts_and_texts_are_told_apart(server: Hostile) -> None:
    server.answer = saying(
        choice({"reasoning": "Hm.", "content": "Yes"}),
        choice({"content": ", but"}),
        choice({"reasoning_content": "Wait."}),
        choice({"reasoning": " Oh.", "content": "no"}),
        STOP,
    )
    with engine_over(server.url) as engine:
        chunks = said(engine)
    assert text_of(chunks) == "Yes, butno"
    assert "".join(chunk.thought for chunk in chunks) == "Hm.Wait. Oh."


class Undecoded:
    """A picture in a file that counts how often it is decoded; decoding waits for `gate`."""

    size, key = (64, 32), "a picture"

    def __init__(self, gate: threading.Event | None = None, error: UserError | None = None) -> None:
        self.gate, self.error = gate, error
        self.begun, self.abandoned, self.decoded = threading.Event(), threading.Event(), 0

    def decode(self) -> Image.Image:
        self.begun.set()
        while self.gate and not self.gate.is_set() and not self.abandoned.is_set():
            time.sleep(0.005)
        if self.error:
            raise self.error
        self.decoded += 1
        return Image.new("RGB", self.size, "red")

    def abandon(self) -> None:
        self.abandoned.set()


def showing(picture: Undecoded) -> list[Message]:
    return [Message("user", (ImagePart(picture), TextPart("What is this?")))]


def test_a_picture_is_encoded_once_for_all_tries_and_questions(server: Hostile) -> None:
    picture, tries = Undecoded(), []

    def answer(handler: Handler) -> None:
        tries.append(1)
        if len(tries) < 3:
            return replying(429, b"{}", "application/json")(handler)
        return saying(choice({"content": "Red"}), STOP)(handler)

    server.answer = answer
    with engine_over(server.url) as engine:
        for _ in range(2):
            assert text_of(list(engine.stream(showing(picture), PARAMS, "ann"))) == "Red"
        assert picture.decoded == 1
        list(engine.stream(showing(picture), PARAMS, "bob"))  # nothing of one reaches another
        assert picture.decoded == 2


def test_a_job_that_waits_for_busy_servers_encodes_once(
    server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen_vl import jobs as tasks

    monkeypatch.setattr(tasks, "RETRY_S", 0.01)
    server.answer, plain = replying(429, b"{}", "application/json"), server.answer
    picture = Undecoded()
    with engine_over(server.url) as engine:
        jobs = Jobs(engine, file=":memory:", keep_s=60, most=5)
        job = jobs.submit(showing(picture), PARAMS)
        until(lambda: len(server.asked) > 3 * bridge.TRIES)
        server.answer = plain
        until(lambda: jobs.get(job.job_id).status == "done")
        jobs.close()
    assert picture.decoded == 1


def test_the_time_to_the_first_token_counts_the_pictures(server: Hostile) -> None:
    gate = threading.Event()
    picture = Undecoded(gate)
    with engine_over(server.url) as engine:
        started_s = time.monotonic()
        answer = engine.stream(showing(picture), PARAMS)  # comes back at once
        assert picture.begun.wait(PATIENCE_S)
        assert text_of(said(engine)) == "Fine"  # a question without pictures does not wait
        waited_s = time.monotonic() - started_s
        gate.set()
        usage = list(answer)[-1].usage
    assert usage.ttft_s >= waited_s


def test_a_picture_that_cannot_be_decoded_is_the_answers_error(server: Hostile) -> None:
    with (
        engine_over(server.url) as engine,
        pytest.raises(TooLarge, match="too many pixels"),
    ):
        list(engine.stream(showing(Undecoded(error=TooLarge("too many pixels"))), PARAMS))
    assert server.asked == []


def test_closing_an_answer_ends_the_decoding_of_its_pictures(server: Hostile) -> None:
    picture = Undecoded(threading.Event())
    with engine_over(server.url) as engine:
        answer = engine.stream(showing(picture), PARAMS)
        assert picture.begun.wait(PATIENCE_S)
        answer.close()
        assert list(answer)[-1].finish_reason == "cancelled"
        assert picture.abandoned.wait(PATIENCE_S)
    assert server.asked == []


# --- bugs are counted ---


def test_bugs_are_counted_and_refusals_are_not() -> None:
    def bugs(client: Any) -> float:
        lines = client.get("/metrics").text.splitlines()
        return next(float(x.split()[1]) for x in lines if 'errors_total{code="bug"}' in x)

    with serving(ScriptedEngine("a", RuntimeError("a bug"))) as client:
        assert bugs(client) == 0
        assert client.post(CHAT, json=asked()).status_code == 500
        assert bugs(client) == 1
        client.post(CHAT, json=asked(stream=True))
        assert bugs(client) == 2
    with serving(ScriptedEngine(refusal=Busy("Full."))) as client:
        client.post(CHAT, json=asked())
        assert bugs(client) == 0
