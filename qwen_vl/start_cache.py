"""The folder in which one start leaves what later starts need not do again.

Knows files, locks and free space; knows nothing of what lies in the files. Every start works
without the folder: what cannot be read is made again, and what cannot be kept is told once.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

NAME = "qwen_vl"  # beside the hub's cache
ENTRY, PART, LOCK = ".kept", ".part", ".lock"  # how names in the folder end
MEASURED = "measured.json"
MOST_WAIT_S = 600.0  # for another start that makes the same; it is done within a minute
SPARE_BYTES = 500e6  # that stay free on the disk

log = logging.getLogger(__name__)


class StartCache:
    """What is kept in `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told = False

    def recalled(self, key: str, measure: Callable[[], Any]) -> Any:
        """The value that an earlier start has measured under `key`, or else a new one, as JSON."""
        file = self.folder / MEASURED
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or half a file
            known = {}
        if isinstance(known, dict) and key in known:
            return known[key]
        value = measure()
        known = {**(known if isinstance(known, dict) else {}), key: value}
        part = file.with_name(f"{MEASURED}.{os.getpid()}{PART}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(known, indent=1), encoding="utf-8")
            part.replace(file)
        except OSError as error:
            self._tell(error)
        return value

    def entry(self, name: str) -> Path:
        """The folder that holds what is kept under `name`; it is whole, or is not there."""
        return self.folder / f"{name}{ENTRY}"

    @contextmanager
    def alone(self, name: str, waiting: Callable[[], None]) -> Iterator[None]:
        """No other process is in here with the same name. The lock goes with its holder.

        Calls `waiting`, which may raise, twice a second while another one is. Goes on without the
        lock after MOST_WAIT_S, and where the folder cannot be written.
        """
        from huggingface_hub.utils import WeakFileLock  # not to be loaded with the settings

        end_s = time.monotonic() + MOST_WAIT_S
        with ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                while time.monotonic() < end_s:
                    with suppress(TimeoutError):
                        held.enter_context(WeakFileLock(self.folder / f"{name}{LOCK}", timeout=0.5))
                        break
                    waiting()
            except OSError as error:
                self._tell(error)
            yield

    def keep(self, name: str, what: str, size_bytes: int, fill: Callable[[Path], None]) -> bool:
        """Has `fill` write into a new folder, which gets its name when it is whole.

        To be called within `alone`. `what` names it in the log, which tells how much it takes, or
        why nothing is kept. Returns whether the entry is there.
        """
        entry = self.entry(name)
        part = entry.with_name(f"{entry.name}.{os.getpid()}{PART}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f"{entry.name}.*{PART}"):  # its writer was killed
                shutil.rmtree(left, ignore_errors=True)
            free_bytes = shutil.disk_usage(self.folder).free
            if free_bytes < size_bytes + SPARE_BYTES:
                log.warning(
                    "The %s are not kept for the next start: they take %s, and %s are free in %s. "
                    "Choose a larger disk with --cache-folder.",
                    what,
                    _size(size_bytes),
                    _size(free_bytes),
                    self.folder,
                )
                return False
            part.mkdir()
            fill(part)
            for file in part.iterdir():
                _onto_disk(file)
            shutil.rmtree(entry, ignore_errors=True)
            part.rename(entry)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            self._tell(error)
            return False
        others = [other for other in self._entries() if other != entry]
        log.info(
            "The %s are kept for the next start: %s in %s%s",
            what,
            _size(_bytes_in(entry)),
            entry,
            f"; {len(others)} others there take {_size(sum(map(_bytes_in, others)))}, and "
            "--clear-quantized-cache deletes all"
            if others
            else "",
        )
        return True

    def clear(self) -> str:
        """Deletes what starts have left, and nothing else. Returns what to tell."""
        made = [*self._entries(), *self.folder.glob(f"*{PART}"), *self.folder.glob(f"*{LOCK}")]
        made += self.folder.glob(MEASURED)
        freed = sum(map(_bytes_in, made))
        for path in made:
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except OSError as error:
                return f"{path} cannot be deleted: {error}"
        return f"{_size(freed)} deleted from {self.folder}." if made else f"{self.folder} is empty."

    def _entries(self) -> list[Path]:
        return list(self.folder.glob(f"*{ENTRY}"))

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "Nothing is kept for the next start, which will take as long as this one: %s. Name "
                "a folder that can be written with --cache-folder, or start with "
                "--no-quantized-cache.",
                error,
            )


def folder_of(chosen: str) -> Path:
    """The folder that --cache-folder names, or the one beside the hub's cache."""
    from huggingface_hub import constants

    return Path(chosen).expanduser() if chosen else Path(constants.HF_HOME) / NAME


def _onto_disk(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _bytes_in(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:,.1f} MB"
