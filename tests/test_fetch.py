"""Pictures from the web: only when allowed, only from public servers, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from support.pictures import encoded, noise
from support.scripted_engine import ScriptedEngine
from support.until import until
from test_api import CHAT, asking, serving

from qwen_vl.api import fetch
from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge, Unsupported, UserError

ALLOWED = Settings(allow_image_urls=True, max_image_mb=0.01)


def fetched(url: str, settings: Settings = ALLOWED) -> bytes:
    return anyio.run(fetch.fetch_image, url, settings)


@contextlib.contextmanager
def web(answer: Callable[[Any], None]) -> Iterator[str]:
    """A web server that answers GET with `answer(handler)`. Gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def send(handler: Any, body: bytes = b"", status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    with contextlib.suppress(ConnectionError):
        handler.wfile.write(body)


@pytest.fixture
def here_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets 127.0.0.1 pass as a public server; every other rule stays."""
    really = fetch._is_public
    monkeypatch.setattr(fetch, "_is_public", lambda ip: ip == "127.0.0.1" or really(ip))


def test_nothing_is_fetched_unless_allowed() -> None:
    with pytest.raises(Unsupported, match="--allow-image-urls"):
        fetched("http://example.com/a.png", Settings())


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254"),
        *("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "2130706433", "0x7f000001"),
        *("[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"),
        *("[2002:7f00:1::]", "127.1"),
    ],
)
def test_private_addresses_are_never_called(host: str) -> None:
    with pytest.raises(BadRequest):
        fetched(f"http://{host}/a.png")


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses_are(address: str) -> None:
    assert fetch._is_public(address)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://example.com/a", "http://", "http:a"]
)
def test_only_web_addresses(url: str) -> None:
    with pytest.raises(BadRequest):
        fetched(url)


def test_the_resolver_knows_best_which_address_can_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(*_: Any) -> list[Any]:
        addresses = ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946")
        return [(0, 0, 0, "", (address, 0)) for address in addresses]

    async def ask() -> str:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        return await fetch._public_address("example.com")

    assert anyio.run(ask) == "93.184.216.34"


@pytest.mark.usefixtures("here_is_public")
def test_a_picture_is_fetched_over_redirects() -> None:
    def answer(handler: Any) -> None:
        if handler.path == "/a":
            send(handler, status=302, location="/b")
        else:
            send(handler, handler.headers["Accept-Encoding"].encode())

    with web(answer) as url:
        assert fetched(f"{url}/a") == b"identity"


_BOMB = gzip.compress(bytes(10**6))


@pytest.mark.usefixtures("here_is_public")
@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda h: send(h, status=302, location="http://10.0.0.1/a"), BadRequest, "public"),
        (lambda h: send(h, status=302, location="file:///etc/hostname"), BadRequest, "http"),
        (lambda h: send(h, status=302, location="/again"), BadRequest, "redirects"),
        (lambda h: send(h, status=404), BadRequest, "404"),
        (lambda h: send(h, b"x" * 20_000), TooLarge, "0.01 MB"),
        (lambda h: send(h, content_length="20000"), TooLarge, "0.01 MB"),
        (lambda h: send(h, _BOMB, content_encoding="gzip"), BadRequest, "compresses"),
    ],
    ids=[
        *("to a private server", "to a file", "for ever", "missing", "too much", "announced"),
        "compressed",
    ],
)
def test_what_goes_wrong_is_said(
    answer: Callable[[Any], None], error: type[UserError], words: str
) -> None:
    with web(answer) as url, pytest.raises(error, match=words):
        fetched(f"{url}/a")


@pytest.mark.usefixtures("here_is_public")
def test_a_slow_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_SECONDS", 0.1)
    over = threading.Event()
    with web(lambda _: over.wait(5) and None) as url:
        with pytest.raises(BadRequest):
            fetched(f"{url}/a")
        over.set()


@pytest.mark.usefixtures("here_is_public")
def test_a_chat_with_a_picture_from_the_web() -> None:
    engine = ScriptedEngine("a")
    picture = encoded(noise(16, 8))
    with (
        web(lambda h: send(h, picture)) as url,
        serving(engine, Settings(allow_image_urls=True)) as c,
    ):
        part = {"type": "image_url", "image_url": {"url": f"{url}/a.png"}}
        assert c.post(CHAT, json=asking([part, {"type": "text", "text": "Hi"}])).status_code == 200
    assert engine.requests[0][0][0].images[0].image.size == (16, 8)


@pytest.mark.usefixtures("here_is_public")
@pytest.mark.parametrize("path", ["/stream_chat", "/inference"])
def test_the_simple_calls_take_pictures_from_the_web_too(path: str) -> None:
    engine = ScriptedEngine("a")
    picture = encoded(noise(16, 8))
    with web(lambda h: send(h, picture)) as url:
        body = {"text": "Hi", "image": f"{url}/a.png"}
        with serving(engine, Settings(allow_image_urls=True)) as client:
            assert client.post(path, json=body).status_code in (200, 202)
            until(lambda: engine.requests)
        assert engine.requests[0][0][0].images[0].image.size == (16, 8)
        with serving(engine) as client:  # not allowed by default
            response = client.post(path, json=body)
            assert response.status_code == 422
            assert "--allow-image-urls" in response.json()["error"]["message"]
