"""A server that answers like no honest one: real HTTP on this machine, one way to misbehave each.

`ANSWERS` are ways to answer a question, `LISTS` ways to list models. Each writes what it likes to
the connection; a client that hangs up ends it. What it managed to send is counted.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

Write = Callable[["Handler"], None]


class Hostile:
    """What the server does now, and what it has seen."""

    def __init__(self) -> None:
        self.answer: Write = fine
        self.models: Write = listed
        self.sent_bytes = 0  # since the last question
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []  # path, headers, body
        self.url = ""


class Handler(http.server.BaseHTTPRequestHandler):
    """`data` and `events` are what ways to misbehave are made of."""

    state: Hostile

    def do_GET(self) -> None:
        self._play(self.state.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.state.asked.append((self.path, headers, body))
        self.state.sent_bytes = 0
        self._play(self.state.answer)

    def _play(self, write: Write) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client has hung up
            write(self)

    def head(self, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def data(self, data: bytes, times: int = 1) -> None:
        for _ in range(times):
            self.wfile.write(data)
            self.state.sent_bytes += len(data)

    def events(self, *events: object) -> None:
        self.head(kind="text/event-stream")
        for event in events:
            self.data(event if isinstance(event, bytes) else b"data: %s\n\n" % encoded(event))

    def log_message(self, *_: Any) -> None:
        pass


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def choice(delta: object, finish: object = None, **more: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


STOP = choice({}, "stop")
USED = {"prompt_tokens": 5, "completion_tokens": 1}


def fine(handler: Handler) -> None:
    handler.events(choice({"content": "Fine"}), STOP)


def listed(handler: Handler) -> None:
    handler.head()
    handler.data(encoded({"object": "list", "data": [{"id": "m", "object": "model"}]}))


def saying(*events: object) -> Write:
    return lambda handler: handler.events(*events)


def replying(status: int, body: bytes = b"", kind: str = "text/html", **headers: str) -> Write:
    def write(handler: Handler) -> None:
        handler.head(status, kind, **headers)
        handler.data(body)

    return write


def endless(piece: bytes, start: bytes = b"") -> Write:
    def write(handler: Handler) -> None:
        handler.events(start)
        handler.data(piece * 100, times=10_000)

    return write


def raw(data: bytes) -> Write:
    return lambda handler: handler.data(data)


def broken_off(handler: Handler) -> None:
    handler.head(kind="text/event-stream", content_length="100000")
    handler.data(b"data: %s\n\n" % encoded(choice({"content": "Half"})))


DEEP = b"[" * 200_000
BOMB = gzip.compress(b" " * 50_000_000)

# Each ends its answer with an error in words.
ANSWERS: dict[str, Write] = {
    "nested deeply": saying(b"data: " + DEEP + b"\n\n"),
    "objects nested deeply": saying(b"data: " + b'{"a":' * 100_000 + b"\n\n"),
    "a line without end": endless(b"a" * 1000, b'data: {"x": "'),
    "lines of one event without end": endless(b"data: aaaaaaaaaa\n"),
    "comments without end": endless(b": ping\n\n"),
    "events without words, for ever": endless(b'data: {"choices": []}\n\n'),
    "a token of 20 MB": saying(choice({"content": "a" * 20_000_000}), STOP),
    "a compressed bomb": replying(200, BOMB, "text/event-stream", content_encoding="gzip"),
    "headers of 2 MB": raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n"),
    "no HTTP": raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "a status of its own": raw(b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n"),
    "no JSON": saying(b"data: {not json\n\n"),
    "no text": saying(b"data: \xff\xfe\x00\n\n"),
    "a number with 10,000 digits": saying(b'data: {"choices": %s}\n\n' % (b"1" * 10_000)),
    "a list": saying([1, 2]),
    "a number": saying(5),
    "choices that are a text": saying({"choices": "abc"}, STOP),
    "choices that are a number": saying({"choices": 5}, STOP),
    "a choice that is a text": saying({"choices": ["abc"]}, STOP),
    "a delta that is a list": saying(choice(["a"]), STOP),
    "a delta that is a text": saying(choice("abc"), STOP),
    "content that is a list": saying(choice({"content": ["a", "b"]}), STOP),
    "content that is a number": saying(choice({"content": 5}), STOP),
    "content that is an object": saying(choice({"content": {"a": 1}}), STOP),
    "a thought that is an object": saying(choice({"reasoning_content": {"a": 1}}), STOP),
    "a reason that is a number": saying(choice({"content": "a"}), choice({}, 5)),
    "a reason that is a list": saying(choice({"content": "a"}), choice({}, ["stop"])),
    "an error in words": saying(choice({"content": "a"}), {"error": {"message": "on fire"}}),
    "an error without words": saying({"error": {"message": {"deep": [DEEP.decode()[:500]]}}}),
    "nothing": saying(),
    "only its end": saying(b"data: [DONE]\n\n"),
    "half an answer": saying(choice({"content": "Half"})),
    "a broken connection": broken_off,
    "a web page": replying(200, b"<html>log in</html>"),
    "an error of 5 MB": replying(500, b"<h1>" + b"x" * 5_000_000),
    "an error nested deeply": replying(400, DEEP[:60_000], "application/json"),
    "an error that is a list": replying(400, encoded([{"error": 5}, "x"]), "application/json"),
    "come back in 30 years": replying(429, b"{}", "application/json", retry_after="1000000000"),
    "to itself, for ever": replying(307, location="/v1/chat/completions"),
    "to a file": replying(302, location="file:///etc/passwd"),
}

# Each gives an answer all the same: what is odd is not the answer's text.
ANSWERED: dict[str, tuple[Write, str]] = {
    "choices that are null": (saying({"choices": None}, choice({"content": "a"}), STOP), "a"),
    "a delta that is null": (saying(choice(None), choice({"content": "a"}), STOP), "a"),
    "no delta": (saying({"choices": [{}]}, choice({"content": "a"}), STOP), "a"),
    "figures that are texts": (
        saying(choice({"content": "a"}), {**STOP, "usage": {"prompt_tokens": "x"}}),
        "a",
    ),
    "figures below zero": (
        saying(choice({"content": "a"}), {**STOP, "usage": {**USED, "prompt_tokens": -5}}),
        "a",
    ),
    "figures beyond all bounds": (
        saying(choice({"content": "a"}), {**STOP, "usage": {**USED, "prompt_tokens": 10**30}}),
        "a",
    ),
    "figures that are a list": (saying(choice({"content": "a"}), {**STOP, "usage": [1]}), "a"),
    "half a surrogate pair": (
        saying(choice({"content": "\ud800 x"}), choice({"content": "\ud83d"}),
               choice({"content": "\ude00"}), STOP),
        "? x😀",
    ),
    "an end without [DONE]": (fine, "Fine"),
}  # fmt: skip

# Each is told as a server that does not work; good lists make it work again.
LISTS: dict[str, Write] = {
    "a web page": replying(200, b"<html>hi</html>"),
    "null": replying(200, b"null", "application/json"),
    "a number": replying(200, b'{"data": 5}', "application/json"),
    "nested deeply": replying(200, DEEP, "application/json"),
    "a compressed bomb": replying(200, BOMB, "application/json", content_encoding="gzip"),
    "300,000 models": replying(200, encoded({"data": [{"id": "m" * 20}] * 300_000})),
    "without end": endless(b" " * 1000),
    "an error of 5 MB": replying(500, b"<h1>" + b"x" * 5_000_000),
    "somewhere else": replying(302, location="http://127.0.0.1:9/models"),
}


@contextlib.contextmanager
def hostile_upstream() -> Iterator[Hostile]:
    """Runs it; what it does can be exchanged at any time."""
    state = Hostile()
    handler = type("Bound", (Handler,), {"state": state})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
