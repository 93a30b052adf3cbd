"""Which checkpoint runs, and how it gets onto this disk.

Knows hubs and folders; what is here already is for `hub_cache`. Knows nothing of torch or of how a
model is loaded. Every way a model can be missing becomes one `ModelUnavailable` that names the
cause and the next step.
"""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2  # what huggingface_hub runs on
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import tqdm as hub_tqdm
from huggingface_hub.utils import validate_repo_id

from qwen_vl import EXAMPLES
from qwen_vl.config import BUNDLED_MODEL, BUNDLED_MODEL_ID, DEFAULT_MODEL, Settings
from qwen_vl.engine.model.hub_cache import WEIGHTS, bytes_here, cached, complete, weights_bytes
from qwen_vl.errors import ModelUnavailable

BUNDLED_FOLDER = EXAMPLES / "tiny_model" / "model"
REACH_SECONDS = 3.0  # how long the hub may take to answer before it counts as unreachable

_DOWNLOADED = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
_BUNDLED_NOTICE = (
    f"This is {BUNDLED_MODEL_ID}, a small demo model that comes with the app. It was trained on "
    "simple shapes, printed text, charts, invoices and app screens, is sometimes wrong even there, "
    "and knows nothing else."
)

Report = Callable[[str, float | None], None]  # what is being done, and how far (0..1) if known
Weigh = Callable[[int], None]


@dataclass(frozen=True)
class Checkpoint:
    """A complete model folder, the name to show for it, and what users must know about it."""

    folder: Path
    model_id: str
    notice: str = ""


def find(settings: Settings, report: Report, weigh: Weigh = lambda size_bytes: None) -> Checkpoint:
    """The checkpoint that `settings` asks for, downloaded if need be.

    `weigh` gets the size of its weights, before a download begins; not that of the bundled model.

    Without an explicit model: the default one, or the bundled one if that is neither cached nor
    within reach. An explicit model is never replaced. Raises ModelUnavailable.
    """
    wanted = settings.model
    if wanted == BUNDLED_MODEL:
        return _bundled(_BUNDLED_NOTICE)
    if wanted is None:
        if folder := cached(DEFAULT_MODEL, settings.hub):
            weigh(weights_bytes(folder))
            return Checkpoint(folder, DEFAULT_MODEL)
        report("Looking for the model hub", None)
        if not reachable(settings.hub):
            return _bundled(
                f"{DEFAULT_MODEL} is not on this machine and the model hub cannot be reached. "
                + _BUNDLED_NOTICE
            )
        wanted = DEFAULT_MODEL
    if Path(wanted).expanduser().is_dir():
        found = _local(Path(wanted).expanduser())
        weigh(weights_bytes(found.folder))
        return found
    if wanted.startswith((".", "/", "~")):
        raise ModelUnavailable(f"There is no folder {wanted}: check the path given to --model.")
    if folder := cached(wanted, settings.hub):
        weigh(weights_bytes(folder))
        return Checkpoint(folder, wanted)
    return Checkpoint(_download(wanted, settings.hub, report, weigh), wanted)


def reachable(hub: str) -> bool:
    """Whether the hub answers, decided within REACH_SECONDS, name resolution included."""
    if hub == "huggingface" and constants.HF_HUB_OFFLINE:
        return False
    url = constants.ENDPOINT if hub == "huggingface" else "https://modelscope.cn"
    answered = threading.Event()

    def ask() -> None:
        try:
            httpx.head(url, timeout=REACH_SECONDS)
        except httpx.HTTPError:
            return
        answered.set()

    # A thread of its own, because no timeout bounds the resolver.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return answered.is_set()


def _bundled(notice: str) -> Checkpoint:
    if not complete(BUNDLED_FOLDER):
        raise ModelUnavailable(
            f"The bundled model is missing from {BUNDLED_FOLDER}: get a complete copy of this "
            "project, or name another model with --model."
        )
    return Checkpoint(BUNDLED_FOLDER, BUNDLED_MODEL_ID, notice)


def _local(folder: Path) -> Checkpoint:
    if not complete(folder):
        raise ModelUnavailable(
            f"{folder} is not a complete model: it needs config.json and all its .safetensors "
            "files. Download it again."
        )
    if folder.resolve() == BUNDLED_FOLDER.resolve():
        return _bundled(_BUNDLED_NOTICE)
    return Checkpoint(folder, folder.resolve().name)


def _download(model_id: str, hub: str, report: Report, weigh: Weigh) -> Path:
    try:
        validate_repo_id(model_id)
    except HFValidationError as error:
        raise ModelUnavailable(
            f"{model_id!r} is neither a folder nor a model id like {DEFAULT_MODEL}: {error}"
        ) from error
    report(f"Looking for {model_id}", None)
    if not reachable(hub):
        raise ModelUnavailable(
            f"{model_id} is not on this machine and the model hub cannot be reached: check the "
            "network connection (and HF_HUB_OFFLINE), download it beforehand, or start with "
            f"--model {BUNDLED_MODEL} for the small demo model that needs no network."
        )
    try:
        if hub == "modelscope":
            return _download_from_modelscope(model_id, report, weigh)
        return _download_from_huggingface(model_id, report, weigh)
    except (OSError, httpx2.HTTPError) as error:
        raise _explained(error, model_id) from error


def _download_from_huggingface(model_id: str, report: Report, weigh: Weigh) -> Path:
    info = HfApi().model_info(model_id, files_metadata=True)
    files = [
        file
        for file in info.siblings or []
        if any(Path(file.rfilename).match(pattern) for pattern in _DOWNLOADED)
    ]
    size_bytes = sum(file.size or 0 for file in files)
    weigh(sum(file.size or 0 for file in files if file.rfilename.endswith(WEIGHTS)))
    _check_disk(size_bytes - bytes_here(model_id, files), Path(constants.HF_HUB_CACHE))
    folder = snapshot_download(
        model_id, allow_patterns=_DOWNLOADED, tqdm_class=_reporting_bar(report, size_bytes)
    )
    return Path(folder)


def _download_from_modelscope(model_id: str, report: Report, weigh: Weigh) -> Path:
    try:
        from modelscope import snapshot_download as download
    except ImportError:
        raise ModelUnavailable(
            "--hub modelscope needs the package modelscope: run 'pip install modelscope'."
        ) from None
    report(f"Downloading {model_id} from ModelScope", None)
    folder = Path(download(model_id, allow_patterns=_DOWNLOADED))
    weigh(weights_bytes(folder))  # its client does not tell sizes beforehand
    return folder


def _check_disk(size_bytes: int, cache: Path) -> None:
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < size_bytes:
        raise OSError(errno.ENOSPC, f"{size_bytes} bytes are needed, {free_bytes} are free")


def _explained(error: OSError | httpx2.HTTPError, model_id: str) -> ModelUnavailable:
    """Turns what a download raises into the cause and the next step."""
    if isinstance(error, GatedRepoError):  # before its parent RepositoryNotFoundError
        return ModelUnavailable(
            f"{model_id} is gated: accept its terms on its model page, then log in with "
            "'hf auth login' or set HF_TOKEN."
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelUnavailable(
            f"{model_id} was not found on the hub: check the spelling, or log in with "
            "'hf auth login' if it is private."
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ModelUnavailable(
            f"The disk is full: {model_id} does not fit ({error.strerror}). Free some space, or "
            "set HF_HOME to a folder on a larger disk."
        )
    if isinstance(error, (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled)):
        return ModelUnavailable(
            f"{model_id} could not be downloaded from the hub: {error}. Start again to go on "
            "where it stopped."
        )
    said = str(error) or type(error).__name__
    return ModelUnavailable(f"{model_id} could not be downloaded: {said}. Start again to go on.")


def _reporting_bar(report: Report, size_bytes: int) -> type[hub_tqdm]:
    """A progress bar class for `snapshot_download` that tells `report` instead of the terminal.

    The hub's client makes several bars; the one over bytes on disk counts. Its own total grows with
    every file it begins, so the size known beforehand takes its place.
    """
    lock = threading.Lock()  # files arrive in several threads, progress must not step back

    class ReportingBar(hub_tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            counts = kwargs.get("name") == "huggingface_hub.snapshot_download"
            self._done_bytes = 0.0 if counts else None
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            with lock:
                if self._done_bytes is not None and size_bytes:
                    self._done_bytes += n or 0
                    done = f"{self._done_bytes / 1e6:,.0f} of {size_bytes / 1e6:,.0f} MB"
                    report(f"Downloading {done}", min(1.0, self._done_bytes / size_bytes))
            return super().update(n)

    return ReportingBar
