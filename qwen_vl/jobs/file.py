"""A SQLite file of jobs: made or checked, private to its owner, read, and rows for it.

Knows SQLite and the file system; knows nothing of threads, or of when something is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from qwen_vl.schema import FinishReason, Usage

JobStatus = Literal["processing", "done", "failed", "cancelled"]
Row = tuple[object, ...]

OPEN_S = 5.0  # how long SQLite waits for a lock at the start
BUSY_S = 1.0  # and later, before a try counts as failed

_COLUMNS = (
    *("id", "owner", "status", "created_s", "finished_s"),
    *("text", "finish_reason", "usage", "error_code", "error"),
)
_TABLE = """
create table if not exists jobs (
    id text primary key,
    owner text not null,
    status text not null,
    created_s real not null,
    finished_s real,
    text text not null default '',
    finish_reason text,
    usage text,
    error_code text,
    error text
)"""
_SELECT = f"select {', '.join(_COLUMNS)} from jobs order by finished_s"
REPLACE = (
    f"insert or replace into jobs ({', '.join(_COLUMNS)}) values ({', '.join('?' * len(_COLUMNS))})"
)


class BadJobFile(ValueError):
    """The file cannot keep jobs; the message is one line that says why and what to do."""


@dataclass(frozen=True)
class Job:
    """A job as it is now. `position` counts from 1 in the queue, 0 means that it is being answered.

    `created_s` and `finished_s` are Unix times.
    """

    job_id: str
    status: JobStatus
    created_s: float
    finished_s: float | None = None
    position: int = 0
    text: str = ""  # so far, or all of it
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error_code: str | None = None
    error: str | None = None


def opened(file: str) -> sqlite3.Connection:
    """A connection, for any thread, to a sound file of jobs that only its owner can read.

    Raises BadJobFile.
    """
    path = Path(file)
    if not file.strip():
        raise BadJobFile("--job-file needs the name of a file, or :memory:.")
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a file"
        raise BadJobFile(f"--job-file {file} is {kind}: name a file.")
    if not path.parent.is_dir():
        raise BadJobFile(f"--job-file {file}: there is no folder {path.parent}. Make it first.")
    with _in_words(file):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(path, OPEN_S, check_same_thread=False, isolation_level=None)
        try:
            _check(db, file)
            for name in (path, *(Path(f"{file}-{kind}") for kind in ("journal", "wal", "shm"))):
                if name.exists():
                    name.chmod(0o600)
            db.execute(_TABLE)
            db.execute("pragma user_version = 1")  # writes, so that a read-only folder shows here
            db.execute(f"pragma busy_timeout = {BUSY_S * 1000:.0f}")
        except BaseException:
            db.close()
            raise
    return db


def _check(db: sqlite3.Connection, file: str) -> None:
    """Raises BadJobFile for a damaged file and for one of something else."""
    columns = {row[1] for row in db.execute("pragma table_info(jobs)")}
    if columns and columns != set(_COLUMNS):
        raise BadJobFile(f"--job-file {file} holds a table 'jobs' of something else: name another.")
    ((said, *_), *_) = db.execute("pragma integrity_check(1)")
    if said != "ok":
        raise _damaged(file)


@contextlib.contextmanager
def _in_words(file: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise BadJobFile(
                f"--job-file {file} is locked by another program: stop that, or name another file."
            ) from error
        raise BadJobFile(
            f"--job-file {file} cannot be used: {error}. Name another file."
        ) from error
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise BadJobFile(
                f"--job-file {file} is not a SQLite file: name another, or a new one."
            ) from error
        raise _damaged(file) from error
    except OSError as error:
        raise BadJobFile(
            f"--job-file {file} cannot be used: {error.strerror or error}. Name another file."
        ) from error


def _damaged(file: str) -> BadJobFile:
    return BadJobFile(f"--job-file {file} is damaged: move it away, a new one will be made.")


def row_of(owner: str, job: Job) -> Row:
    """A job in the order of `_COLUMNS`; SQLite refuses half a surrogate pair: it becomes '?'."""
    usage = json.dumps(asdict(job.usage)) if job.usage else None
    row = (
        *(job.job_id, owner, job.status, job.created_s, job.finished_s),
        *(job.text, job.finish_reason, usage, job.error_code, job.error),
    )
    return tuple(v.encode(errors="replace").decode() if isinstance(v, str) else v for v in row)


def jobs_in(db: sqlite3.Connection, file: str) -> list[tuple[str, Job]]:
    """(owner, job) of each row, in the order in which they finished. Raises BadJobFile."""
    with _in_words(file):
        try:
            return [_job_of(row) for row in db.execute(_SELECT)]
        except (TypeError, ValueError) as error:
            raise _damaged(file) from error


def _job_of(row: Row) -> tuple[str, Job]:
    """A row -> (owner, job). Raises TypeError or ValueError for a row that is no job."""
    job_id, owner, status, created_s, finished_s, text, reason, usage, code, error = row
    if status not in get_args(JobStatus) or reason not in (None, *get_args(FinishReason)):
        raise ValueError(status, reason)
    if not all(isinstance(value, str) for value in (job_id, owner, text)):
        raise TypeError(job_id)
    if not all(isinstance(value, float) for value in (created_s, finished_s or 0.0)):
        raise TypeError(created_s)
    figures = Usage(**json.loads(usage)) if usage else None  # type: ignore[arg-type]
    view = Job(
        *(job_id, status, created_s, finished_s, 0),  # type: ignore[arg-type]
        *(text, reason, figures, code, error),  # type: ignore[arg-type]
    )
    return owner, view  # type: ignore[return-value]
