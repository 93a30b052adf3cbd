"""Which model runs and why not: local folders, a hub over real HTTP, no network at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import opened
from support.hub import hub

from qwen_vl.config import Settings
from qwen_vl.engine.model import checkpoint
from qwen_vl.errors import ModelUnavailable

_FIND = """
import json, sys
from qwen_vl.config import Settings
from qwen_vl.engine.model import checkpoint
from qwen_vl.errors import ModelUnavailable
reports, weighed = [], []
settings = Settings(model=json.loads(sys.argv[1]), hub=sys.argv[2])
try:
    found = checkpoint.find(
        settings,
        lambda detail, progress: reports.append([detail, progress]),
        lambda size_bytes: weighed.append([size_bytes, [detail for detail, _ in reports]]),
    )
    result = {"folder": str(found.folder), "model_id": found.model_id, "notice": found.notice}
except ModelUnavailable as error:
    result = {"error": str(error)}
print(json.dumps({**result, "reports": reports, "weighed": weighed}))
"""


def find(model: str | None, tmp_path: Path, *, source: str = "huggingface", **env: str) -> dict:
    """`checkpoint.find` in a process of its own, because the hub's client reads its environment."""
    environ = {
        **os.environ,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        **env,
    }
    done = subprocess.run(
        [sys.executable, "-c", _FIND, json.dumps(model), source],
        capture_output=True,
        text=True,
        env=environ,
        cwd=Path(__file__).parents[1],
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


UNREACHABLE = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # the discard port: refused at once


def test_download_with_progress_then_from_the_cache(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with hub({"acme/tiny": tiny_checkpoints["qwen3_vl"]}) as address:
        found = find("acme/tiny", tmp_path, HF_ENDPOINT=address)
    assert found.get("model_id") == "acme/tiny", found
    downloads = [(d, p) for d, p in found["reports"] if d.startswith("Downloading")]
    assert downloads, found["reports"]
    shares = [share for _, share in downloads if share is not None]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    original = (tiny_checkpoints["qwen3_vl"] / "model.safetensors").read_bytes()
    assert (Path(found["folder"]) / "model.safetensors").read_bytes() == original
    offline = find("acme/tiny", tmp_path, **UNREACHABLE)  # now without any network
    assert offline["folder"] == found["folder"]
    ((size_bytes, told_before),) = found["weighed"]
    assert size_bytes == len(original)
    assert not any(told.startswith("Downloading") for told in told_before)
    assert offline["weighed"] == [[len(original), []]]


def test_not_found_and_gated(tmp_path: Path) -> None:
    with hub({}) as address:
        assert "was not found" in find("acme/none", tmp_path, HF_ENDPOINT=address)["error"]
        assert "gated" in find("acme/gated", tmp_path, HF_ENDPOINT=address)["error"]


def test_disk_full_is_seen_before_the_download(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with hub({"acme/huge": tiny_checkpoints["qwen3_vl"]}, claimed_bytes=10**18) as address:
        error = find("acme/huge", tmp_path, HF_ENDPOINT=address)["error"]
    assert "disk is full" in error
    assert "HF_HOME" in error


def test_a_download_that_breaks_off_is_explained(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with hub({"acme/tiny": tiny_checkpoints["qwen3_vl"]}, breaks_off=True) as address:
        error = find("acme/tiny", tmp_path, HF_ENDPOINT=address)["error"]
    assert "acme/tiny could not be downloaded" in error
    assert "Start again" in error


@pytest.mark.parametrize("index", ['{"weight_map"', "{}", "[]"])
def test_a_damaged_index_is_an_incomplete_model(index: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert not checkpoint.complete(tmp_path)


def test_explicit_model_without_network_is_never_replaced(tmp_path: Path) -> None:
    found = find("Qwen/Qwen3-VL-2B-Instruct", tmp_path, **UNREACHABLE)
    assert "hub cannot be reached" in found["error"]
    assert "--model bundled" in found["error"]


def test_no_model_and_no_network_is_the_bundled_one_and_says_so(tmp_path: Path) -> None:
    found = find(None, tmp_path, **UNREACHABLE)
    assert found["model_id"] == "qwen3-vl-tiny-demo"
    assert "Qwen/Qwen3-VL-2B-Instruct is not on this machine" in found["notice"]
    assert "small demo model" in found["notice"]


def test_a_hub_that_never_answers_counts_as_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name resolution that hangs is bounded too, though no HTTP timeout covers it."""
    forever = threading.Event()
    monkeypatch.setattr(checkpoint.httpx, "head", lambda *_, **__: forever.wait())
    monkeypatch.setattr(checkpoint.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(checkpoint, "REACH_SECONDS", 0.05)
    try:
        assert not checkpoint.reachable("huggingface")
    finally:
        forever.set()


def test_bad_model_ids(tmp_path: Path) -> None:
    assert "no folder" in find("./nowhere", tmp_path, **UNREACHABLE)["error"]
    assert "neither a folder nor a model id" in find("not an id!!", tmp_path)["error"]


def test_modelscope_needs_its_package(tmp_path: Path) -> None:
    found = find("Qwen/any", tmp_path, source="modelscope", HTTPS_PROXY="http://127.0.0.1:9")
    assert "cannot be reached" in found["error"]


def test_modelscope_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "reachable", lambda hub: True)
    monkeypatch.setitem(sys.modules, "modelscope", None)  # what a missing package looks like
    with pytest.raises(ModelUnavailable, match="pip install modelscope"):
        checkpoint.find(Settings(model="Qwen/any", hub="modelscope"), lambda *_: None)


def status_of(folder: Path) -> str:
    engine = opened(Settings(model=str(folder)))
    status = engine.status()
    engine.close()
    assert status.state == "failed"
    return status.detail


def test_incomplete_folder(tmp_path: Path) -> None:
    assert "not a complete model" in status_of(tmp_path)


def test_missing_shard(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not a complete model" in status_of(tmp_path)


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_damaged_weights(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(tiny_checkpoints["qwen3_vl"], tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    assert "damaged or incomplete" in status_of(folder)


def test_not_a_qwen_model(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(tiny_checkpoints["qwen_text"], tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    assert "not a Qwen chat model" in status_of(folder)


def test_no_chat_template(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(tiny_checkpoints["qwen_text"], tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in status_of(folder)


def test_chat_template_beside_the_processor(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Qwen2.5-VL repositories keep it in chat_template.json."""
    folder = copied(tiny_checkpoints["qwen2_5_vl"], tmp_path / "older")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    engine = opened(Settings(model=str(folder)))
    assert engine.status().state == "ready", engine.status().detail
    engine.close()


def test_out_of_memory_while_loading(
    tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen_vl.engine.model import load as model

    def exhausted(*args: object, **kwargs: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    monkeypatch.setattr(model.AutoModelForImageTextToText, "from_pretrained", exhausted)
    assert "not enough memory" in status_of(tiny_checkpoints["qwen3_vl"])
