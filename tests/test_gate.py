"""What comes through the gate: for names of this server, and by no web page of another site."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.gated import answer, gated, head, whole_app, wire
from support.scripted_engine import ScriptedEngine
from test_api import CHAT, asking, assert_error

from qwen_vl import api
from qwen_vl.api import guards
from qwen_vl.config import Settings, load_settings
from qwen_vl.gate import Gate, is_api
from qwen_vl.gate.hosts import Hosts, host_name
from qwen_vl.gate.proxies import Proxies
from qwen_vl.jobs import Jobs
from qwen_vl.metrics import Metrics

EVIL = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
KEY = {"Authorization": "Bearer the-key"}
KEYED = Settings(api_key=("the-key",))


@pytest.fixture(scope="module")
def page() -> Iterator[httpx.Client]:
    """The whole app as it starts without any flag."""
    with whole_app(ScriptedEngine("a"), Settings(port=0)) as client:
        yield client


# --- names ---


@pytest.mark.parametrize("path", ["/", "/config", "/v1/models", "/health", "/gradio_api/info"])
def test_a_name_that_is_not_this_servers_is_refused_everywhere(
    page: httpx.Client, path: str
) -> None:
    port = page.base_url.port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.com"):
        response = page.get(path, headers={"Host": host, "Origin": f"http://{host}"})
        assert response.status_code == 421
        assert "--allowed-host" in assert_error(response.json(), "wrong_host")
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "demo.localhost", "127.0.0.1", "[::1]", "10.1.2.3", "me"]
)
def test_local_names_and_addresses_are_this_server(
    page: httpx.Client, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host == "me":
        host = socket.gethostname()
    assert page.get("/v1/models", headers={"Host": f"{host}:7860"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["[", "[::1", "a b", "@@", "127.0.0.1:x", "x" * 9000, "[::g]", "", ".", "ä"]
)
def test_what_is_no_name_is_refused_without_a_trace(
    page: httpx.Client, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        for method, path in (("GET", "/health"), ("PUT", "/v1/models"), ("GET", "/config")):
            with wire(page) as connection:
                connection.sendall(head(path, "Connection: close", method=method, host=host))
                assert answer(connection).startswith(b"HTTP/1.1 4")
    assert not caplog.records


def test_names_can_be_added() -> None:
    settings = Settings(allowed_host=("demo.example.com", "*.lab.example"), host="gpu-box")
    hosts = Hosts(settings)
    hosts.share("https://abc.gradio.live/")
    for name in ("demo.example.com", "a.lab.example", "gpu-box", "abc.gradio.live"):
        assert hosts.allow(name)
    for name in ("example.com", "a.demo.example.com", "lab.example", "abd.gradio.live"):
        assert not hosts.allow(name)
    assert not hosts.is_ours("a.lab.example")  # another's page may live there
    assert Hosts(Settings(allowed_host=("*",))).allow("any.example")
    assert host_name("[::1]:80") == "::1"


def test_a_space_is_called_by_its_own_name() -> None:
    environ = {"SPACE_ID": "me/demo", "SPACE_HOST": "me-demo.hf.space"}
    settings = load_settings([], environ)
    assert Hosts(settings).allow("me-demo.hf.space")
    assert Proxies(settings.trusted_proxy).trust("10.20.30.40")


# --- pages of other sites ---


@pytest.mark.parametrize(
    ("path", "send"),
    [
        (CHAT, {"json": asking()}),
        (CHAT, {"content": '{"messages": []}', "headers": {"Content-Type": "text/plain"}}),
        (CHAT, {"files": {"image": b"x"}, "data": {"prompt": "Hi"}}),
        ("/inference", {"content": '{"text": "Hi"}'}),
        ("/stream_chat", {"content": '{"text": "Hi"}'}),
        ("/gradio_api/upload", {"files": {"files": b"x"}}),
        ("/gradio_api/queue/join", {"content": '{"data": [], "fn_index": 0, "session_hash": "a"}'}),
        ("/login", {"data": {"username": "a", "password": "b"}}),
    ],
)
@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=["evil", "null", "another local app", "no origin"],
)
def test_pages_of_other_sites_run_nothing(
    page: httpx.Client, path: str, send: dict[str, Any], origin: dict[str, str]
) -> None:
    headers = {**send.get("headers", {}), **origin}
    response = page.post(path, **{**send, "headers": headers})
    assert response.status_code == 403
    assert "--cors-origin" in assert_error(response.json(), "forbidden")


def test_and_may_read_nothing(page: httpx.Client) -> None:
    for path in ("/v1/models", "/config", "/health", "/gradio_api/info"):
        for origin in ("http://localhost:3000", "http://evil.example", "null"):
            headers = page.get(path, headers={"Origin": origin}).headers
            assert not [name for name in headers if name.startswith("access-control")]
    asks = {**EVIL, "Access-Control-Request-Method": "POST"}
    for path in (CHAT, "/gradio_api/queue/join"):
        response = page.options(path, headers=asks)
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers


def test_the_servers_own_page_and_programs_pass(page: httpx.Client) -> None:
    own = {"Origin": str(page.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    for headers in ({}, own):
        assert page.post(CHAT, json=asking(), headers=headers).status_code == 200
        sent = page.post("/gradio_api/upload", files={"files": ("a.txt", b"a")}, headers=headers)
        assert sent.status_code == 200


def test_a_page_behind_a_proxy_that_hides_its_name() -> None:
    settings = Settings(allowed_host=("demo.example.com",))
    with gated(ScriptedEngine("a"), settings) as client:
        own = {"Origin": "https://demo.example.com"}
        assert client.post(CHAT, json=asking(), headers=own).status_code == 200
        assert client.post(CHAT, json=asking(), headers=EVIL).status_code == 403


def asks_first(origin: str) -> dict[str, str]:
    """What a browser sends before it sends a page's request."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    }


def test_a_key_alone_opens_nothing_to_pages_of_other_sites() -> None:
    with gated(ScriptedEngine("a"), KEYED) as client:
        for response in (
            client.options(CHAT, headers=asks_first(EVIL["Origin"])),
            client.post(CHAT, json=asking(), headers={**EVIL, **KEY}),
        ):
            assert response.status_code == 403
            assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("keys", [(), ("the-key",)], ids=["open", "with a key"])
def test_named_pages_use_the_api_and_nothing_else(keys: tuple[str, ...]) -> None:
    chat, notes = "https://chat.example.com", "app://notes"
    settings = Settings(cors_origin=(f"{chat}/", notes), api_key=keys)
    with gated(ScriptedEngine("a"), settings) as client:
        for origin in (chat, notes):
            yes = client.options(CHAT, headers=asks_first(origin))
            assert yes.status_code == 204  # browsers send no key with it
            assert "x-stainless-os" in yes.headers["access-control-allow-headers"]
            good = client.post(CHAT, json=asking(), headers={"Origin": origin, **KEY})
            bad = client.post(CHAT, json=asking(temperature=9), headers={"Origin": origin, **KEY})
            read = client.get("/v1/models", headers={"Origin": origin})
            assert (good.status_code, bad.status_code) == (200, 400)
            assert read.status_code == (401 if keys else 200)
            for response in (yes, good, bad, read):
                assert response.headers["access-control-allow-origin"] == origin
                assert "origin" in response.headers["vary"].lower()
                assert "access-control-allow-credentials" not in response.headers
        for origin in (EVIL["Origin"], "https://chat.example.com.evil.example", "null"):
            no = client.options(CHAT, headers=asks_first(origin))
            denied = client.post(CHAT, json=asking(), headers={"Origin": origin, **KEY})
            assert (no.status_code, denied.status_code) == (403, 403)
            read = client.get("/v1/models", headers={"Origin": origin, **KEY})
            for response in (no, denied, read):
                assert "access-control-allow-origin" not in response.headers
        for path in ("/gradio_api/upload", "/login"):
            refused = client.post(path, files={"files": b"x"}, headers={"Origin": chat, **KEY})
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers


def test_all_pages_can_be_let_in() -> None:
    with gated(ScriptedEngine("a"), Settings(cors_origin=("*",))) as client:
        for origin in (EVIL["Origin"], "null"):
            assert client.options(CHAT, headers=asks_first(origin)).status_code == 204
            answered = client.post(CHAT, json=asking(), headers={"Origin": origin})
            assert answered.status_code == 200
            assert answered.headers["access-control-allow-origin"] == "*"


def test_a_name_of_others_leads_here_with_a_key_only() -> None:
    strange = {"Host": "evil.example"}
    with gated(ScriptedEngine("a"), KEYED) as client:
        assert client.get("/v1/models", headers=strange).status_code == 401
        assert client.get("/v1/models", headers={**strange, **KEY}).status_code == 200
        assert client.get("/config", headers={**strange, **KEY}).status_code == 421


def test_every_route_of_the_api_is_known_as_one() -> None:
    engine, settings, metrics = ScriptedEngine(), Settings(), Metrics()
    jobs = Jobs(engine, file=":memory:", keep_s=1, most=1)
    try:
        for route in api.build_router(engine, settings, jobs, metrics).routes:
            assert is_api(route.path), route.path
    finally:
        jobs.close()


# --- proxies ---


def test_forwarding_headers_are_believed_from_named_proxies_only(page: httpx.Client) -> None:
    forged = {"X-Forwarded-Host": "evil.example", "X-Gradio-Server": "http://evil.example"}
    assert "evil.example" not in page.get("/", headers=forged).text
    named = Settings(
        rate_limit=2, trusted_proxy=("127.0.0.0/8",), allowed_host=("demo.example.com",)
    )

    def codes(client: httpx.Client, *hops: str) -> list[int]:
        calls = [client.get("/v1/models", headers={"X-Forwarded-For": hop}) for hop in hops]
        return [call.status_code for call in calls]

    with gated(ScriptedEngine("a"), Settings(rate_limit=2)) as client:
        assert codes(client, "10.0.0.1", "10.0.0.2", "10.0.0.3") == [200, 200, 429]
    with gated(ScriptedEngine("a"), named) as client:
        assert codes(client, "9.9.9.1", "9.9.9.2", "9.9.9.3") == [200, 200, 200]
        # What a client wrote itself stands before what the proxy saw.
        assert codes(client, "1.1.1.1, 8.8.8.8", "2.2.2.2, 8.8.8.8", "3.3.3.3, 8.8.8.8")[2] == 429
        assert client.get("/v1/models", headers={"X-Forwarded-Host": "evil"}).status_code == 421


# --- keys and passwords ---


def test_wrong_keys_slow_down_and_right_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "WRONG_KEYS_PER_MINUTE", 3)
    wrong = {"Authorization": "Bearer no"}
    with gated(ScriptedEngine("a"), KEYED) as client:
        codes = [client.get("/v1/models", headers=wrong).status_code for _ in range(5)]
        assert codes == [401, 401, 401, 429, 429]
        assert client.get("/v1/models", headers=KEY).status_code == 200


def test_wrong_keys_count_for_the_rate_limit() -> None:
    with gated(ScriptedEngine("a"), Settings(api_key=("k",), rate_limit=2)) as client:
        assert [client.get("/v1/models").status_code for _ in range(3)] == [401, 401, 429]


def test_wrong_passwords_slow_down() -> None:
    def enter(password: str) -> int:
        form = {"username": "me", "password": password}
        return client.post("/login", data=form).status_code

    with whole_app(ScriptedEngine("a"), Settings(auth="me:secret")) as client:
        assert {enter("secret") for _ in range(10)} == {200}  # right ones are free
        codes = [enter(f"guess-{i}") for i in range(8)]
        assert codes[:5] == [400] * 5
        assert set(codes[5:]) == {429}


@pytest.mark.parametrize("key", ["schlüssel", "密钥", " k", "k\n", "k\x00"])
def test_keys_that_no_header_carries_are_refused_at_the_start(key: str) -> None:
    with pytest.raises(ValueError, match="--api-key"):
        Settings(api_key=(key,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"allowed_host": ("http://a",)},
        {"allowed_host": ("a:80",)},
        {"trusted_proxy": ("a",)},
        {"trusted_proxy": ("1.2.3.4/99",)},
        {"cors_origin": ("chat.example.com",)},
        {"cors_origin": ("https://chat.example.com/path",)},
        {"cors_origin": ("https://*.example.com",)},
        {"cors_origin": ("null",)},
    ],
)
def test_names_and_proxies_that_are_none_are_refused_at_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--"):
        Settings(**wrong)


def test_nothing_secret_is_in_the_settings_words() -> None:
    settings = Settings(
        api_key=("s3cret-1",),
        auth="me:s3cret-2",
        engine="remote",
        base_url=("http://user:s3cret-3@gpu/v1",),
        remote_key="s3cret-4",
    )
    assert "s3cret" not in f"{settings} {settings!r}"


def test_compressed_bodies_are_refused_in_words(page: httpx.Client) -> None:
    for path, coding in ((CHAT, "br"), ("/gradio_api/queue/join", "gzip")):
        response = page.post(path, content=b"x", headers={"Content-Encoding": coding})
        assert response.status_code == 415
        assert coding in assert_error(response.json(), "unsupported_media")


def test_a_port_in_use_is_one_line() -> None:
    import app

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            app.main(["--model", "bundled", "--port", str(port)])
    assert f"port {port}" in str(ended.value.code)
    assert "\n" not in str(ended.value.code)


def test_the_gate_lets_nothing_but_http_through() -> None:
    async def never(*_: Any) -> None:
        raise AssertionError

    import anyio

    anyio.run(Gate(never, Settings()), {"type": "websocket"}, never, never)
