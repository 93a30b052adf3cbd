"""Writes jobs to a SQLite file in the background, so that they survive a restart.

A thread of its own writes, so that nobody waits for a disk or a lock. What cannot be written now is
kept and tried again after growing pauses. Knows nothing of engines, queues or limits.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time

from qwen_vl.jobs.file import BUSY_S, REPLACE, Job, Row, jobs_in, opened, row_of

log = logging.getLogger(__name__)

MEMORY = ":memory:"  # no file at all
RETRY_S = 0.5  # to the next try, doubled with every failure up to
RETRY_MOST_S = 5.0
CLOSE_S = 5.0  # for the last tries

_FORGOTTEN: Row = ()


class JobStore:
    """Keeps jobs in `file`; with ":memory:" it keeps nothing. Raises BadJobFile at the start only.

    What waits to be written is bounded by the jobs that its user keeps: one row for each.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._lock = threading.Condition()
        self._unwritten: dict[str, Row] = {}
        self._in_file: set[str] = set()  # ids that may have a row
        self._failing = False
        self._close_by_s: float | None = None  # on the monotonic clock, once it is closing
        self._found: list[tuple[str, Job]] = []
        self._writer: threading.Thread | None = None
        if file == MEMORY:
            return
        self._db = opened(file)
        self._found = jobs_in(self._db, file)
        self._in_file = {view.job_id for _, view in self._found}
        self._writer = threading.Thread(target=self._write_on, name="job-store", daemon=True)
        self._writer.start()

    def load(self) -> list[tuple[str, Job]]:
        """(owner, job) of everything in the file at the start, first finished first."""
        found, self._found = self._found, []
        return found

    def put(self, owner: str, job: Job) -> None:
        """Keeps a job as it is now. Never waits and never raises."""
        self._change(job.job_id, row_of(owner, job))

    def forget(self, job_id: str) -> None:
        """Drops a job. Never waits and never raises."""
        self._change(job_id, _FORGOTTEN)

    def wait(self, job_id: str, seconds: float) -> bool:
        """Waits until a job is written, or until writing fails. Returns whether it is written."""
        with self._lock:
            self._lock.wait_for(lambda: job_id not in self._unwritten or self._failing, seconds)
            return job_id not in self._unwritten

    def close(self) -> None:
        """Writes what is left if that can be done in CLOSE_S. Never raises. Idempotent."""
        with self._lock:
            if self._writer is None or self._close_by_s is not None:
                return
            self._close_by_s = time.monotonic() + CLOSE_S
            self._lock.notify_all()
        self._writer.join(CLOSE_S + 2 * BUSY_S)
        if self._unwritten:
            log.error("%d jobs could not be written to %s", len(self._unwritten), self._file)

    # --- the writer ---

    def _change(self, job_id: str, row: Row) -> None:
        with self._lock:
            if self._writer is None or self._close_by_s is not None:
                return
            if row == _FORGOTTEN and job_id not in self._in_file:
                self._unwritten.pop(job_id, None)
            else:
                self._unwritten[job_id] = row
            self._lock.notify_all()

    def _write_on(self) -> None:
        pause_s = RETRY_S
        while batch := self._next_batch():
            error = self._write(batch)
            if error is None:
                self._wrote(batch)
                pause_s = RETRY_S
            elif self._wait_for_better(error, pause_s):
                pause_s = min(2 * pause_s, RETRY_MOST_S)
            else:
                break
        self._db.close()

    def _next_batch(self) -> dict[str, Row]:
        """All that is to be written, once there is something; nothing at the end."""
        with self._lock:
            self._lock.wait_for(lambda: self._unwritten or self._close_by_s is not None)
            self._in_file.update(self._unwritten)
            return dict(self._unwritten)

    def _write(self, batch: dict[str, Row]) -> sqlite3.Error | None:
        """One transaction: all of it or nothing."""
        try:
            self._db.execute("begin immediate")
            forgotten = [(job_id,) for job_id, row in batch.items() if row == _FORGOTTEN]
            self._db.executemany("delete from jobs where id = ?", forgotten)
            self._db.executemany(REPLACE, (row for row in batch.values() if row != _FORGOTTEN))
            self._db.execute("commit")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):  # there may be no transaction to take back
                self._db.execute("rollback")
            return error
        return None

    def _wrote(self, batch: dict[str, Row]) -> None:
        with self._lock:
            for job_id, row in batch.items():
                if self._unwritten.get(job_id) is row:  # else it has changed again meanwhile
                    del self._unwritten[job_id]
                    if row == _FORGOTTEN:
                        self._in_file.discard(job_id)
            if self._failing:
                log.info("%s can be written again", self._file)
            self._failing = False
            self._lock.notify_all()

    def _wait_for_better(self, error: sqlite3.Error, pause_s: float) -> bool:
        """Whether to try once more. While the store is being closed the next try comes soon."""
        with self._lock:
            if not self._failing:
                text = "%s cannot be written (%s): jobs are kept in memory and written later"
                log.warning(text, self._file, error)
            self._failing = True
            self._lock.notify_all()
            if self._close_by_s is None:
                self._lock.wait_for(lambda: self._close_by_s is not None, pause_s)
                return True
            self._lock.wait(RETRY_S)
            return time.monotonic() < self._close_by_s


def check_file(file: str) -> None:
    """Raises BadJobFile if `file` could not keep jobs; makes it if it is not there."""
    if file != MEMORY:
        with contextlib.closing(opened(file)) as db:
            jobs_in(db, file)
