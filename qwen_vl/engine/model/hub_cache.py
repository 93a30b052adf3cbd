"""What the caches of the model hubs hold on this disk; nothing here needs a network.

Knows the folders of Hugging Face's and of ModelScope's client. ModelScope's are found without its
package, which need not be installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoSibling

from qwen_vl.config import modelscope_cache

WEIGHTS = ".safetensors"


def weights_bytes(folder: Path) -> int:
    """The size of all weight files in a folder."""
    return sum(file.stat().st_size for file in folder.glob(f"*{WEIGHTS}"))


def complete(folder: Path) -> bool:
    """Whether `folder` holds a configuration and every weight file that its index names."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError):  # half an index
        return False
    return all((folder / shard).is_file() for shard in shards)


def cached(model_id: str, hub: str) -> Path | None:
    """The complete copy of `model_id` in the cache of `hub`, or else in Hugging Face's."""
    folders = _modelscope_folders(model_id) if hub == "modelscope" else iter(())
    found = next((folder for folder in folders if complete(folder)), None)
    if found is not None:
        return found
    try:
        folder = Path(snapshot_download(model_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if complete(folder) else None


def bytes_here(model_id: str, files: Iterable[RepoSibling]) -> int:
    """How much of `files` Hugging Face's cache holds, what an interrupted download left included.

    Source for the layout: huggingface_hub's guide "Understand caching".
    """
    name = repo_folder_name(repo_id=model_id, repo_type="model")
    blobs = Path(constants.HF_HUB_CACHE) / name / "blobs"
    if not blobs.is_dir():
        return 0
    sizes = [(blob.name, blob.stat().st_size) for blob in blobs.iterdir() if blob.is_file()]
    here = 0
    for file in files:
        etag = file.lfs.sha256 if file.lfs else file.blob_id
        # It goes by its etag, or as "etag.incomplete" or "etag.<process>.incomplete" so far.
        parts = [size for blob, size in sizes if blob.partition(".")[0] == etag]
        here += min(max(parts, default=0), file.size or 0)
    return here


def _modelscope_folders(model_id: str) -> Iterator[Path]:
    """Where ModelScope's client puts a model, newest layout first.

    Source: modelscope 1.40 (`hub.utils.utils`) and modelscope_hub 0.5 (`_download`).
    """
    owner, slash, name = model_id.partition("/")
    if not slash or "/" in name or ".." in model_id:
        return
    cache = modelscope_cache()
    for root in (cache, cache / "hub"):
        snapshots = root / "models" / f"{owner}--{name}" / "snapshots"
        if snapshots.is_dir():
            yield from sorted(snapshots.iterdir(), key=lambda folder: folder.name != "master")
        for base in (root / "models", root):
            yield base / owner / name.replace(".", "___")
            yield base / owner / name
