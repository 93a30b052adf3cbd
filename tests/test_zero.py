"""On ZeroGPU: the app as it runs there, with a stand-in for `spaces` that enforces its rules."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gated import soon
from support.pictures import as_uri
from support.running_app import ROOT, started

from qwen_vl.config import load_settings

SCENE = (ROOT / "examples" / "images" / "scene.png").read_bytes()
SEEN: list[dict[str, Any]] = [
    {"type": "text", "text": "Describe the image."},
    {"type": "image_url", "image_url": {"url": as_uri(SCENE)}},
]


@dataclass
class Zero:
    client: httpx.Client
    file: Path  # of the stand-in

    def tell(self, **what: float) -> None:
        self.file.write_text(json.dumps(what))

    def told(self) -> dict[str, Any]:
        return json.loads(self.file.read_text())

    def ask(self, content: Any, **more: Any) -> httpx.Response:
        asked = {"messages": [{"role": "user", "content": content}], "temperature": 0, **more}
        return self.client.post("/v1/chat/completions", json=asked)

    def running(self) -> str:
        (line,) = (
            line
            for line in self.client.get("/metrics").text.splitlines()
            if line.startswith("qwen_vl_batch_rows ")
        )
        return line.partition(" ")[2]


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zero]:
    file = tmp_path_factory.mktemp("zero") / "told.json"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests" / "support" / "zero"),
        "SPACE_ID": "someone/demo",
        "SPACES_ZERO_GPU": "true",
        "STAND_IN": str(file),
        "QWEN_VL_API": "on",
        "QWEN_VL_DTYPE": "float32",
    }
    with started(env=environment) as (_, client):
        yield Zero(client, file)


def test_only_a_zerogpu_space_takes_this_engine_by_itself() -> None:
    space = {"SPACE_ID": "someone/demo", "SPACES_ZERO_GPU": "true"}
    assert load_settings([], space).engine == "zero"
    assert load_settings([], {"SPACE_ID": "someone/demo"}).engine == "local"
    assert load_settings(["--engine", "local"], space).engine == "local"


@pytest.mark.parametrize("flags", [["--quantize", "int8"], ["--device", "cpu"]])
def test_what_zerogpu_cannot_do_is_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        load_settings(["--engine", "zero", *flags], {})


def test_an_answer_about_a_picture_is_written_in_the_call(zero: Zero) -> None:
    zero.tell()
    told = zero.ask(SEEN, max_tokens=40)
    assert told.status_code == 200, told.text
    assert "triangle" in told.json()["choices"][0]["message"]["content"]
    usage = told.json()["usage"]
    assert 1 < usage["completion_tokens"] <= 40
    few_s = zero.told()["asked_s"]
    assert zero.ask(SEEN, max_tokens=2000).status_code == 200
    assert few_s < zero.told()["asked_s"] <= 120  # more tokens, more seconds, within bounds


def test_it_streams_and_a_closed_stream_ends_the_call(zero: Zero) -> None:
    zero.tell()
    asked = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
    with zero.client.stream("POST", "/v1/chat/completions", json=asked) as reply:
        pieces = [line for line in reply.iter_lines() if '"content"' in line]
        assert len(pieces) > 3
    with zero.client.stream("POST", "/v1/chat/completions", json=asked) as reply:
        next(reply.iter_lines())
    assert soon(lambda: zero.running() == "0.0")


def test_a_quota_that_is_used_up_is_told_in_words(zero: Zero) -> None:
    zero.tell(left_s=3)
    refused = zero.ask("Hello")
    assert refused.status_code == 429
    assert "3s left" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) > 5


def test_a_call_that_is_killed_ends_one_answer_and_nothing_else(zero: Zero) -> None:
    zero.tell(kill_s=0)
    broken = zero.ask("Hello")
    assert broken.status_code == 500
    assert "taken back" in broken.json()["error"]["message"]
    zero.tell()
    assert zero.ask("Hello").status_code == 200


def test_what_is_too_large_asks_for_no_gpu(zero: Zero) -> None:
    zero.tell()
    assert zero.ask("word " * 39_000).status_code == 400
    assert "asked_s" not in zero.told()
