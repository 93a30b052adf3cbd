"""What is on this disk already is neither looked for on a network nor counted as missing."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from support.hub import hub
from test_checkpoint import UNREACHABLE, find

from qwen_vl.engine.model.hub_cache import cached

NO_NETWORK = {**UNREACHABLE, "HTTPS_PROXY": "http://127.0.0.1:9"}
_LITTLE_SPACE = """
import os, shutil
plain = shutil.disk_usage
shutil.disk_usage = lambda path: plain(path)._replace(free=int(os.environ["FREE_BYTES"]))
"""


@pytest.mark.parametrize(
    "folder",
    [
        "models/acme--tiny-v1.5/snapshots/master",
        "models/acme--tiny-v1.5/snapshots/v2",
        "models/acme/tiny-v1___5",
        "hub/models/acme/tiny-v1___5",
        "hub/acme/tiny-v1___5",
        "acme/tiny-v1.5",
    ],
)
def test_every_layout_of_modelscopes_cache_is_known(
    folder: str,
    tiny_checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MODELSCOPE_CACHE", raising=False)
    place = tmp_path / ".cache" / "modelscope" / folder
    shutil.copytree(tiny_checkpoints["qwen3_vl"], place)
    assert cached("acme/tiny-v1.5", "modelscope") == place
    assert cached("acme/tiny-v1.5", "huggingface") is None
    assert cached("acme/tiny-v15", "modelscope") is None
    (place / "model.safetensors").rename(place / "model.safetensors.incomplete")
    assert cached("acme/tiny-v1.5", "modelscope") is None


def test_modelscopes_cache_needs_neither_network_nor_package(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    place = tmp_path / "elsewhere" / "models" / "acme" / "tiny"
    shutil.copytree(tiny_checkpoints["qwen3_vl"], place)
    env = {"MODELSCOPE_CACHE": str(tmp_path / "elsewhere"), **NO_NETWORK}
    found = find("acme/tiny", tmp_path, source="modelscope", **env)
    assert (found.get("folder"), found.get("model_id")) == (str(place), "acme/tiny"), found


@pytest.mark.parametrize("left", ["{}", "{}.0123abcd.incomplete"])
def test_only_the_missing_bytes_need_room(
    left: str, tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    source = tiny_checkpoints["qwen3_vl"]
    weights = (source / "model.safetensors").read_bytes()
    sizes = [file.stat().st_size for file in source.iterdir()]
    blobs = tmp_path / "cache" / "hub" / "models--acme--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / left.format(hashlib.sha256(weights).hexdigest())).write_bytes(weights)
    (blobs / "of-an-older-version").write_bytes(b"0" * 1000)
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "sitecustomize.py").write_text(_LITTLE_SPACE)
    missing = sum(sizes) - len(weights)
    env = {"PYTHONPATH": str(tmp_path / "patches")}
    with hub({"acme/tiny": source}) as address:
        env["HF_ENDPOINT"] = address
        error = find("acme/tiny", tmp_path, FREE_BYTES=str(missing - 1), **env)["error"]
        found = find("acme/tiny", tmp_path, FREE_BYTES=str(missing), **env)
    assert f"{missing} bytes are needed" in error
    assert found.get("model_id") == "acme/tiny", found
