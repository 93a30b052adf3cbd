"""A model with rounded weights: mapped from what an earlier start has kept, or rounded and kept.

An entry is a folder as transformers reads it: `model.safetensors` with the rounded layers' own
tensors, and the configuration beside it. It is mapped, not read: processes share it, and the system
may drop pages of it. `rounding` does the rounding, `start_cache` the files' safety.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwen_vl.engine.model.checkpoint import Checkpoint, Report
from qwen_vl.engine.model.hub_cache import WEIGHTS
from qwen_vl.engine.model.int4 import Importance
from qwen_vl.engine.model.machine import Choice, release_memory
from qwen_vl.engine.model.progress import reporting
from qwen_vl.engine.model.quantize import quantize
from qwen_vl.engine.model.rounding import Outdated, Rounding
from qwen_vl.start_cache import StartCache

FORMAT = "2"  # of an entry; a change of layers alone needs no new one
_MODEL, _EXTRAS = f"model{WEIGHTS}", f"extras{WEIGHTS}"
_CONFIGS = ("config.json", "generation_config.json")

log = logging.getLogger(__name__)


def load_rounded(
    model_class: Any,
    checkpoint: Checkpoint,
    choice: Choice,
    cache: StartCache | None,
    report: Report,
    judge: Callable[[], Importance] | None = None,
) -> Any:
    """The model of `checkpoint` with the weights that `choice.quantize` names.

    `model_class` is one of transformers' Auto classes. `judge` finds out what int4 goes by; it is
    called where weights are to be rounded, and before they are read.
    """
    if cache is None:
        return _round(model_class, checkpoint.folder, choice, report, judge)
    name = entry_name(checkpoint, choice.quantize)
    if (model := _map(model_class, cache.entry(name), choice, report)) is not None:
        return model
    with cache.alone(name, lambda: report("Another start is rounding the same weights", None)):
        model = _map(model_class, cache.entry(name), choice, report)  # what that one has kept
        if model is None:
            model = _round(model_class, checkpoint.folder, choice, report, judge)
            report("Keeping the rounded weights for the next start", None)
            tensors = model.state_dict()
            size_bytes = sum(tensor.nbytes for tensor in tensors.values())
            cache.keep(
                name,
                "rounded weights",
                size_bytes,
                lambda entry: write(entry, checkpoint.folder, tensors, {}),
            )
    return model


def write(entry: Path, source: Path, tensors: dict[str, Tensor], extras: dict[str, Tensor]) -> None:
    """Fills the folder `entry` with a rounded model's tensors and the configuration in `source`.

    `extras` are tensors that were found out about the model and are no part of it. Raises OSError.
    """
    try:
        save_file(tensors, entry / _MODEL, metadata={"format": "pt"})
        if extras:
            save_file(extras, entry / _EXTRAS)
    except SafetensorError as error:  # its word for a full disk, too
        raise OSError(str(error)) from error
    for config in _CONFIGS:
        if (source / config).is_file():
            shutil.copyfile(source / config, entry / config)


def read_extras(entry: Path) -> dict[str, Tensor]:
    """The `extras` of `write`. Raises OSError or SafetensorError."""
    file = entry / _EXTRAS
    return load_file(file) if file.is_file() else {}


def entry_name(checkpoint: Checkpoint, scheme: str) -> str:
    """A name that changes with all that the rounded weights depend on.

    That is the checkpoint's files, the scheme, the libraries, and the instructions that this CPU's
    kernels are chosen by: int4 weights lie as those want them.
    """
    versions = (FORMAT, torch.__version__, transformers.__version__)
    parts = (*versions, torch.backends.cpu.get_cpu_capability(), *_identity(checkpoint.folder))
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    shown = re.sub(r"[^A-Za-z0-9._-]+", "-", checkpoint.model_id)[-60:]
    return f"{shown}.{scheme}.{digest}"


def _identity(folder: Path) -> Iterator[str]:
    """What tells one checkpoint from another, without reading its weights.

    A hub's cache names files by their content. Elsewhere size and time of change have to do.
    """
    for file in sorted(folder.glob(f"*{WEIGHTS}")):
        real = file.resolve()
        status = real.stat()
        told = real.name if real.parent.name == "blobs" else str(status.st_mtime_ns)
        yield f"{file.name} {status.st_size} {told}"
    for config in (*_CONFIGS, f"{_MODEL}.index.json"):
        if (folder / config).is_file():
            yield (folder / config).read_text(encoding="utf-8")


def _round(
    model_class: Any,
    folder: Path,
    choice: Choice,
    report: Report,
    judge: Callable[[], Importance] | None,
) -> Any:
    importance = None
    if judge is not None and choice.quantize == "int4":
        importance = judge()
        release_memory()
    with reporting(report, f"Rounding the weights to {choice.quantize}"):
        model = _from_pretrained(model_class, folder, choice, None, importance)
    release_memory()  # what was read, or it stays with this process
    return model


def _map(model_class: Any, entry: Path, choice: Choice, report: Report) -> Any | None:
    stored = entry / _MODEL
    if not stored.is_file():
        return None
    _read_ahead(stored)
    try:
        with reporting(report, "Loading the rounded weights"):
            return _from_pretrained(model_class, entry, choice, stored)
    except (Outdated, SafetensorError, OSError, ValueError, KeyError) as error:
        log.warning("%s is made again: %s", entry, error)
        return None


def _from_pretrained(
    model_class: Any,
    folder: Path,
    choice: Choice,
    stored: Path | None,
    importance: Importance | None = None,
) -> Any:
    how = Rounding(choice.quantize, choice.wide, stored, importance)
    options: dict[str, Any] = {
        "dtype": "auto",  # as it is stored, in half the memory of float32
        "device_map": {"": choice.device},
        "local_files_only": True,
    }
    if "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        # Fewer bits already, in somebody else's form: what comes out of that is rounded.
        model = model_class.from_pretrained(folder, **options)
        quantize(model, choice.quantize, choice.wide, importance)
        return model
    try:
        return model_class.from_pretrained(folder, quantization_config=how, **options)
    except RuntimeError as error:
        if how.failure is None:
            raise
        raise how.failure from error


def _read_ahead(file: Path) -> None:
    """Has the system read a file from the disk in the background."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
