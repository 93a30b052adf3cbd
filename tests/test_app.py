"""`python app.py` as a user starts and stops it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from support.running_app import PATIENCE_S, ROOT, drain, started


def long_question(tokens: int) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": tokens,
        "temperature": 2,
        "top_p": 1,
        "top_k": 0,
        "seed": 3,
        "stream": True,
        "logit_bias": {str(token): -100 for token in range(1036, 1050)},  # no end of turn
    }


def test_a_stopped_server_finishes_what_it_has_begun() -> None:
    with started("--max-new-tokens", "4000") as (process, client):
        refused: list[int] = []

        def ask_again() -> None:
            process.send_signal(signal.SIGTERM)
            end_s = time.monotonic() + PATIENCE_S
            while time.monotonic() < end_s and 503 not in refused:
                with contextlib.suppress(httpx.TransportError), httpx.Client() as other:
                    url = f"{client.base_url}/v1/chat/completions"
                    refused.append(other.post(url, json=long_question(1)).status_code)

        with client.stream("POST", "/v1/chat/completions", json=long_question(300)) as response:
            lines = response.iter_lines()
            next(lines)
            asker = threading.Thread(target=ask_again)
            asker.start()
            rest = list(lines)
        asker.join(PATIENCE_S)
        assert rest[-2:] == ["data: [DONE]", ""] or rest[-1] == "data: [DONE]"
        ended = [json.loads(line[6:]) for line in rest if '"native_finish_reason"' in line]
        assert ended[0]["choices"][0]["native_finish_reason"] in ("length", "repetition")
        assert 503 in refused
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_0_is_a_free_one_and_the_log_tells_where_the_seconds_went(host: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "app.py", "--model", "bundled", "--port", "0", "--host", host],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
    )
    try:
        told = ""
        for awaited in ("Running on local URL", "the page is up", "model loaded"):
            while awaited not in told:
                said = process.stdout.readline()
                assert said, "the app ended"
                told += said
        address = re.search(r"Running on local URL: +(http://\S+)", told)[1]
        assert httpx.get(f"{address.rstrip('/')}/v1/models", timeout=PATIENCE_S).status_code == 200
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_uploads_are_there_after_a_restart_where_a_folder_is_named(tmp_path: Path) -> None:
    flags = ("--upload-folder", str(tmp_path / "uploads"))
    picture = (ROOT / "examples" / "images" / "chart.png").read_bytes()
    with started(*flags) as (process, client):
        drain(process)
        sent = client.post("/gradio_api/upload", files={"files": ("a.png", picture)})
        (path,) = sent.json()
        process.terminate()
        process.wait(PATIENCE_S)
    with started(*flags) as (_, client):
        assert client.get(f"/gradio_api/file={path}").content == picture


def test_a_stopped_server_waits_no_longer_than_told() -> None:
    with started("--max-new-tokens", "4000", "--shutdown-seconds", "0.2") as (process, client):
        with client.stream("POST", "/v1/chat/completions", json=long_question(4000)) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(httpx.TransportError):
                list(lines)
        assert process.wait(PATIENCE_S) == 0
