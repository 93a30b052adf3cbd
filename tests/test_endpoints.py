"""What programs call besides the HTTP API: the page's named endpoints, and the tools for agents."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from support.gated import whole_app
from support.pictures import as_uri, encoded, noise
from support.running_app import ROOT
from support.scripted_engine import ScriptedEngine
from test_api import serving

from qwen_vl.config import Settings

CLIP = ROOT / "examples/clip.webm"


def test_gradios_client_asks_and_takes_keyframes(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    noise(64, 64).save(picture)
    with whole_app(ScriptedEngine(), Settings(port=0)) as http:
        client = Client(str(http.base_url), verbose=False, download_files=str(tmp_path))
        named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
        assert set(named) == {"/ask", "/keyframes"}
        told = client.predict("What is it?", [handle_file(str(picture))], api_name="/ask")
        assert told == "You said: What is it? [1 pictures, 1 messages]"
        with pytest.raises(AppError, match="write a question"):
            client.predict("", [], api_name="/ask")
        frames = client.predict(handle_file(str(CLIP)), "even", 3, api_name="/keyframes")
        assert len(frames) == 3
        assert all(frame["caption"].endswith(" s") for frame in frames)
        assert Image.open(frames[0]["image"]).width > 100


# --- agents ---


def call(client: httpx.Client, method: str, **params: Any) -> Any:
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    response = client.post("/mcp", json=body, headers={"Accept": "application/json"})
    assert response.status_code == 200
    assert response.json()["id"] == 7
    return response.json()


def tool(client: httpx.Client, name: str, **arguments: Any) -> Any:
    return call(client, "tools/call", name=name, arguments=arguments)["result"]


@pytest.fixture(scope="module")
def agent() -> Any:
    with serving(ScriptedEngine(), Settings(mcp=True)) as client:
        yield client


def test_it_is_off_by_default_and_says_so() -> None:
    with serving(ScriptedEngine()) as client:
        response = client.post("/mcp", json={})
    assert response.status_code == 404
    assert "--mcp" in response.json()["error"]["message"]


def test_a_client_is_greeted_and_finds_the_tools(agent: httpx.Client) -> None:
    for asked, told in (("2025-03-26", "2025-03-26"), ("1999-01-01", "2025-06-18")):
        greeting = call(agent, "initialize", protocolVersion=asked)["result"]
        assert greeting["protocolVersion"] == told
        assert greeting["capabilities"] == {"tools": {}}
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert agent.post("/mcp", json=note).status_code == 202
    assert agent.get("/mcp").status_code == 405  # no stream is offered
    assert call(agent, "ping")["result"] == {}
    tools = call(agent, "tools/list")["result"]["tools"]
    assert [one["name"] for one in tools] == ["ask", "keyframes"]


def test_pictures_go_in_and_come_out(agent: httpx.Client) -> None:
    picture = as_uri(encoded(noise(64, 64)))
    said = tool(agent, "ask", question="What is it?", pictures=[picture])
    assert said["content"] == [
        {"type": "text", "text": "You said: What is it? [1 pictures, 1 messages]"}
    ]
    clip = as_uri(CLIP.read_bytes(), "video/webm")
    taken = tool(agent, "keyframes", clip=clip, method="even", count=2)["content"]
    assert [one["type"] for one in taken] == ["text", "image", "text", "image"]
    frame = Image.open(BytesIO(base64.b64decode(taken[1]["data"])))
    assert taken[1]["mimeType"] == Image.MIME[frame.format]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("ask", {}, "'question'"),
        ("ask", {"question": " "}, "empty"),
        ("ask", {"question": "a", "pictures": ["file:///etc/passwd"]}, "data:"),
        ("keyframes", {}, "clip.video_url"),
        ("keyframes", {"clip": "data:video/mp4;base64,AAAA"}, "video"),
        ("keyframes", {"clip": "data:video/mp4;base64,AAAA", "count": 0}, "clip.count"),
    ],
)
def test_what_a_tool_refuses_is_its_result(
    agent: httpx.Client, name: str, arguments: dict[str, Any], told: str
) -> None:
    result = tool(agent, name, **arguments)
    assert result["isError"] is True
    assert told in result["content"][0]["text"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"id": 1, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "no/such"}, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "rm"}}, -32602),
    ],
)
def test_what_is_no_call_is_an_error(agent: httpx.Client, body: dict[str, Any], code: int) -> None:
    assert agent.post("/mcp", json=body).json()["error"]["code"] == code
