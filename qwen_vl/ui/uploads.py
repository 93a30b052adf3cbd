"""The folder of uploads and drawings: one for each process, bounded, removed at its end or kept.

Gradio writes there. This module gives it the folder, removes the rest of broken uploads, keeps the
sum within a limit, and removes the folders of killed processes. Knows files; knows nothing of HTTP
or handlers.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from gradio.utils import get_upload_folder

from qwen_vl.config import Settings, keep_uploads_in

try:
    import fcntl
except ImportError:  # Windows: folders go at the end of their process alone
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

MB = 1024 * 1024
PREFIX = "qwen-vl-"
LOCK = ".lock"
KEPT_AT_LEAST_S = 600.0  # younger files are not removed to make room: somebody is using them
KEPT_AT_MOST_S = 7 * 24 * 3600.0  # where uploads outlive the process
STARTING_S = 60.0  # a folder this young may not be locked yet
FILE_BYTES = 64 * 1024  # what a small file counts at least, so that there are not too many
WRITE_S = 1.0  # how far a file's time of writing may lie before the clock's


def own_folder(kept: str = "") -> Path:
    """This process's folder, made the first time it is asked for, which Gradio uses from then on.

    `kept` names one that outlives the process, so that what chats show comes back after a restart.
    Without it, or where another process has it, the folder stands where Gradio would keep uploads,
    and is removed when the process ends; folders of dead processes are removed now.
    """
    base = Path(get_upload_folder())
    if base in _OWN:
        return base
    folder, lock = _kept(Path(kept)) if kept else (None, None)
    if folder is None:
        folder = _of_process(base)
        lock = _locked(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    else:
        _KEPT.add(folder)
    _OWN[folder] = lock
    keep_uploads_in(folder)
    return folder


def outlives(folder: Path) -> bool:
    """Whether this folder of uploads stays when the process ends."""
    return folder in _KEPT


def _kept(folder: Path) -> tuple[Path | None, IO[str] | None]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()) and not (folder / LOCK).exists():
            log.warning("uploads are not kept: there are other files in %s", folder)
            return None, None
        (folder / LOCK).touch()
    except OSError as error:
        log.warning("uploads are not kept: %s", error)
        return None, None
    lock = _locked(folder)
    if lock is None and fcntl is not None:
        log.warning("uploads are not kept: another process uses %s", folder)
        return None, None
    return folder.resolve(), lock


def _of_process(base: Path) -> Path:
    base.mkdir(parents=True, exist_ok=True)
    for left in base.glob(f"{PREFIX}*"):
        settled = left.is_dir() and left.stat().st_mtime < time.time() - STARTING_S
        if settled and (lock := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            lock.close()
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=base)).resolve()


_OWN: dict[Path, IO[str] | None] = {}  # folder -> its lock, held as long as the process runs
_KEPT: set[Path] = set()  # those of _OWN that stay


def _locked(folder: Path) -> IO[str] | None:
    """The folder's lock file, locked; None where another process holds it."""
    if fcntl is None:
        return None
    try:
        lock = open(folder / LOCK, "w")  # noqa: SIM115 - it stays open
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, another user's, or removed a moment ago
        return None
    return lock


def own_uploads(settings: Settings) -> Uploads:
    """What lies in this process's folder: the same object for all who ask."""
    with _LOCK:
        most_bytes = int(settings.max_upload_mb * MB)
        folder = own_folder(settings.upload_folder)
        uploads = _UPLOADS.setdefault(folder, Uploads(folder, most_bytes))
        uploads.most_bytes = most_bytes
        return uploads


_LOCK = threading.Lock()
_UPLOADS: dict[Path, Uploads] = {}


class Uploads:
    """The uploads of all browsers, in `folder`, at most `most_bytes` in sum."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._under_way: dict[object, tuple[float, int]] = {}  # began at, bytes announced

    def begin(self, size_bytes: int) -> object | None:
        """A ticket for an upload of that size; None where there is no room, even without old files.

        Removes files older than KEPT_AT_MOST_S. Removes the oldest to make room, too, but none that
        is younger than KEPT_AT_LEAST_S.
        """
        with self._lock:
            self._sweep()
            announced = sum(size for _, size in self._under_way.values())
            files = sorted(self._files())
            while files and files[0][0] < time.time() - KEPT_AT_MOST_S:
                files.pop(0)[2].unlink(missing_ok=True)
            too_many = sum(size for _, size, _ in files) + announced + size_bytes - self.most_bytes
            for written, size, path in files:
                if too_many <= 0 or written > time.time() - KEPT_AT_LEAST_S:
                    break
                path.unlink(missing_ok=True)
                too_many -= size
            if too_many > 0:
                return None
            ticket = object()
            self._under_way[ticket] = time.time(), size_bytes
            return ticket

    def end(self, ticket: object) -> None:
        """The upload has ended. Removes what it left unfinished."""
        with self._lock:
            self._under_way.pop(ticket, None)
            self._sweep()

    def _sweep(self) -> None:
        """Gradio writes to files in the folder itself, and moves what is whole to a subfolder."""
        began = min((at for at, _ in self._under_way.values()), default=time.time() + 2 * WRITE_S)
        for item in os.scandir(self.folder):
            unfinished = item.is_file(follow_symlinks=False) and item.name != LOCK
            if unfinished and item.stat().st_mtime < began - WRITE_S:
                Path(item.path).unlink(missing_ok=True)

    def _files(self) -> list[tuple[float, int, Path]]:
        """(time of writing, bytes as counted, path) of every file that is whole."""
        found = []
        for parent, _, names in os.walk(self.folder):
            for name in names if Path(parent) != self.folder else ():
                path = Path(parent, name)
                try:
                    known = path.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.append((known.st_mtime, max(known.st_size, FILE_BYTES), path))
        return found
