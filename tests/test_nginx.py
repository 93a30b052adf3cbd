"""Behind Debian's nginx, with the block in deploy/: page, upload, stream, cancel, a root path."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support.browser_app import Tab, chromium
from support.gated import soon, whole_app
from support.ports import free_port
from support.running_app import ROOT
from support.scripted_engine import ScriptedEngine

from qwen_vl.config import Settings

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
NAME = "demo.localhost"  # browsers find it on this machine
KEY = "a-key"

pytestmark = [
    pytest.mark.beyond,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]


@dataclass
class Proxied:
    engine: ScriptedEngine
    held: threading.Event
    port: int  # nginx's
    root_path: str

    @property
    def url(self) -> str:
        return f"http://{NAME}:{self.port}{self.root_path}"

    def client(self) -> httpx.Client:
        headers = {"Host": f"{NAME}:{self.port}", "Authorization": f"Bearer {KEY}"}
        url = f"http://127.0.0.1:{self.port}{self.root_path}/"
        return httpx.Client(base_url=url, headers=headers, timeout=60)


def block(root_path: str, port: int, app: str) -> str:
    """The block in deploy/, for these addresses and this path."""
    text = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("server_name demo.example.com;", f"server_name {NAME};"),
        ("location / {", f"location {root_path}/ {{"),
        ("proxy_pass http://127.0.0.1:7860;", f"proxy_pass {app}{'/' if root_path else ''};"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(params=["", "/demo"], ids=["a name", "a path"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxied]:
    held = threading.Event()
    engine = ScriptedEngine("Begun. ", held, "Ended.")
    settings = Settings(
        host="127.0.0.1",
        trusted_proxy=("127.0.0.1",),
        allowed_host=(NAME,),
        root_path=request.param,
        api_key=(KEY,),
    )
    port = free_port()
    with whole_app(engine, settings) as direct:
        server = block(request.param, port, str(direct.base_url).rstrip("/"))
        folders = "".join(
            f"{kind}_temp_path {tmp_path};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/errors; events {{}}\n"
            f"http {{ access_log off; {folders}\n{server}}}\n"
        )
        process = subprocess.Popen([NGINX, "-c", tmp_path / "nginx.conf"])
        try:
            assert soon(lambda: _is_there(port)), (tmp_path / "errors").read_text()
            yield Proxied(engine, held, port, request.param)
        finally:
            held.set()
            process.terminate()
            process.wait(20)


def _is_there(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_page_takes_a_picture_streams_and_stops(proxied: Proxied) -> None:
    with chromium() as browser:
        page = browser.new_page()
        failed: list[str] = []
        page.on("response", lambda got: failed.append(got.url) if got.status >= 400 else None)
        tab = Tab(page, f"{proxied.url}/").open()
        picture = ROOT / "examples" / "images" / "scene.png"
        page.set_input_files("#chat-box input[type=file]", picture)
        page.wait_for_selector("#chat-box .thumbnail-item")
        tab.ask("What is this?")
        tab.wait_text("#chat .bot", "Begun.")  # the rest is held: this has come by itself
        tab.stop()
        tab.wait_idle()
        assert soon(lambda: proxied.engine.answers[-1].cancelled)
        assert "Ended." not in tab.text()
        assert failed == []


def test_the_api_streams_and_a_closed_stream_ends_the_work(proxied: Proxied) -> None:
    asked = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
    with (
        proxied.client() as client,
        client.stream("POST", "v1/chat/completions", json=asked) as reply,
    ):
        assert reply.status_code == 200
        assert any("Begun." in line for line in reply.iter_lines())
    assert soon(lambda: proxied.engine.answers[-1].cancelled)


def test_a_large_upload_comes_through_and_too_large_a_one_is_told(proxied: Proxied) -> None:
    with proxied.client() as client:
        large = {"files": ("a.bin", b"\0" * 20_000_000)}
        fine = client.post("gradio_api/upload", files=large)
        assert fine.status_code == 200, fine.text
        over = b"\0" * int(1.3 * Settings().max_image_mb * 2**20)
        refused = client.post("v1/chat/completions", files={"image": ("a.png", over)})
        assert refused.status_code == 413
        assert "10 MB" in refused.json()["error"]["message"]
