"""Connections that send nothing, little or too slowly, read nothing, or come in masses."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.gated import PATIENCE_S, answer, gated, head, soon, wire
from support.scripted_engine import ScriptedEngine
from test_api import CHAT, asking

from qwen_vl.config import Settings
from qwen_vl.errors import Busy
from qwen_vl.gate import bodies, connections, server
from qwen_vl.gate.server import PortTaken, listen

SMALL = Settings(max_prompt_chars=1000, max_image_mb=0.25, max_video_mb=0.25, max_images=1)
ANNOUNCED = 1_200_000  # bytes of a body that fits; two of them fit into memory together
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All time limits in tenths of seconds."""
    for module, name in (
        (connections, "LOOK_S"),
        (connections, "HEAD_S"),
        (connections, "STUCK_S"),
        (bodies, "SILENT_S"),
    ):
        monkeypatch.setattr(module, name, 0.2)
    return


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nX-a: "], ids=["nothing", "half"])
def test_who_sends_no_request_is_cut(sent: bytes) -> None:
    with gated(ScriptedEngine("a")) as client:
        waiting = [wire(client) for _ in range(20)]
        for one in waiting:
            one.sendall(sent)
        assert client.get("/health").status_code == 200
        assert [answer(one) for one in waiting] == [b""] * 20


@pytest.mark.usefixtures("impatient")
def test_a_head_that_drips_is_cut_though_something_comes_all_the_time() -> None:
    with gated(ScriptedEngine("a")) as client, wire(client) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\n")
        end_s = time.monotonic() + PATIENCE_S
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end_s:
                slow.sendall(b"X: y\r\n")
                time.sleep(0.02)
        assert time.monotonic() < end_s


@pytest.mark.usefixtures("impatient")
def test_a_body_that_does_not_come_ends_in_words_and_holds_nobody_up() -> None:
    with gated(ScriptedEngine("a")) as client:
        waiting = [wire(client) for _ in range(20)]
        for one in waiting:
            one.sendall(head(CHAT, "Content-Length: 1000") + b"{")
        assert client.post(CHAT, json=asking()).status_code == 200
        for one in waiting:
            told = answer(one)
            assert told.startswith(b"HTTP/1.1 408 ")
            assert b"request_timeout" in told


def test_a_body_that_drips_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BASE_S", 0.5)
    with gated(ScriptedEngine("a")) as client, wire(client) as slow:
        slow.sendall(head(CHAT, "Content-Length: 100000"))
        end_s = time.monotonic() + PATIENCE_S
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end_s:
                slow.sendall(b" ")
                time.sleep(0.02)
        assert time.monotonic() < end_s


def half_sent(client: httpx.Client) -> socket.socket:
    connection = wire(client)
    connection.sendall(head(CHAT, f"Content-Length: {ANNOUNCED}") + b" " * (ANNOUNCED - 1))
    return connection


def large(client: httpx.Client) -> int:
    return client.post(CHAT, content=b" " * ANNOUNCED).status_code


def test_bodies_are_bounded_in_sum_and_text_gets_in_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "SILENT_S", PATIENCE_S)
    with gated(ScriptedEngine("a"), SMALL) as client:
        assert large(client) == 400  # it is no JSON
        held: list[socket.socket] = []
        while large(client) != 429:  # which of several gives way is up to the network
            held.append(half_sent(client))
            assert len(held) < 200
        assert client.post(CHAT, json=asking()).status_code == 200
        for one in held:
            one.close()
        assert soon(lambda: large(client) == 400)


def test_a_body_that_takes_long_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LATE_S", 0.0)
    with gated(ScriptedEngine("a"), SMALL) as client:
        held = [half_sent(client) for _ in range(3)]
        refused, _, _ = select.select(held, [], [], PATIENCE_S)
        assert b" 429 " in refused[0].recv(100)
        assert soon(lambda: large(client) == 400)  # once what was sent before has come, too
        for one in held:
            one.close()


@pytest.mark.usefixtures("impatient")
def test_who_does_not_read_is_cut_and_its_answer_ends() -> None:
    engine = ScriptedEngine(*["word " * 2000] * 4000)
    with gated(engine) as client, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((client.base_url.host, client.base_url.port))
        body = json.dumps(asking(stream=True)).encode()
        deaf.sendall(head(CHAT, f"Content-Length: {len(body)}") + body)
        assert soon(lambda: bool(engine.answers))
        assert engine.answers[0].closed.wait(PATIENCE_S)


@pytest.mark.usefixtures("impatient")
def test_a_slow_answer_is_not_idle() -> None:
    gate = threading.Event()
    with (
        gated(ScriptedEngine("a", gate, "b")) as client,
        client.stream("POST", CHAT, json=asking(stream=True)) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        time.sleep(0.6)
        gate.set()
        assert '"b"' in "".join(lines)


def test_a_newcomer_takes_the_place_of_who_has_been_idle_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "MOST", 40)
    with gated(ScriptedEngine("a")) as client:
        idle = [wire(client) for _ in range(100)]
        assert client.get("/health").status_code == 200
        cut = [one for one in idle if _is_cut(one)]
        assert cut == idle[: len(cut)]
        assert len(cut) >= 100 - 40


def _is_cut(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_busy_connections_are_not_cut_for_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST", 4)  # three for one address
    gate = threading.Event()
    engine = ScriptedEngine("a", gate, "b")
    with gated(engine) as client:
        body = json.dumps(asking(stream=True)).encode()
        busy = [wire(client) for _ in range(3)]
        for one in busy:
            one.sendall(head(CHAT, f"Content-Length: {len(body)}", "Connection: close") + body)
            one.recv(10)
        with pytest.raises(httpx.TransportError):
            client.get("/health")
        gate.set()
        assert all(b'"b"' in answer(one) for one in busy)
        assert soon(lambda: _answers(client))


def _answers(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/health").status_code == 200
    return False


def test_this_process_may_open_all_the_files_that_it_may() -> None:
    code = (
        "import resource as r; from qwen_vl.gate.connections import raise_file_limit;"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, r.getrlimit(r.RLIMIT_NOFILE)[1]));"
        "print(raise_file_limit() > 64, r.getrlimit(r.RLIMIT_NOFILE)[0] > 64)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_what_is_listened_on() -> None:
    (free,) = listen("127.0.0.1", 0)
    with free, pytest.raises(PortTaken, match="--port"):
        listen("127.0.0.1", free.getsockname()[1])
    with pytest.raises(PortTaken):
        listen("no.such.host.invalid", 0)
    assert Busy.status == 429
