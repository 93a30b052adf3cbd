"""Asynchronous jobs: questions that are answered in the background and picked up later.

Jobs wait in a queue of their own and are answered a few at a time. What has finished is kept in a
SQLite database until it expires, so that it survives a restart where that database is a file; jobs
that a dead server left unfinished come back as failed. Knows the engine's interface and nothing of
HTTP.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from qwen_vl.engine import AnswerStream, Engine
from qwen_vl.errors import Busy, EngineFailed, ShuttingDown, StillLoading, UserError
from qwen_vl.schema import FinishReason, Message, SamplingParams, Usage, picture_bytes

log = logging.getLogger(__name__)

JobStatus = Literal["processing", "done", "failed", "cancelled"]

AT_ONCE = 4  # jobs that are answered at the same time: pages and calls need rows of the batch too
PICTURE_BYTES = 2**30  # of all jobs that have not finished
RETRY_S = 0.5  # how long a job waits when the engine has no place for it
PATIENCE_S = 600.0  # how long it waits for a model that nothing says will come back
_BROKEN = "Something broke inside the server; its log has the details."
_LOST = "The server stopped before this job was finished: send it again."

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


@dataclass(frozen=True)
class JobView:
    """A job as it is now. `position` counts from 1 in the queue, 0 means that it is being answered.

    `created_s` and `finished_s` are Unix times.
    """

    task_id: str
    status: JobStatus
    created_s: float
    finished_s: float | None = None
    position: int = 0
    text: str = ""  # so far, or all of it
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error_code: str | None = None
    error: str | None = None


@dataclass(eq=False)
class _Job:
    """One that has not finished yet."""

    task_id: str
    owner: str
    created_s: float
    messages: Sequence[Message]
    params: SamplingParams
    text: str = ""
    answer: AnswerStream | None = None
    cancelled: bool = False


class Jobs:
    """Takes jobs in, answers them, keeps their results for a while.

    `file` is a SQLite file, or ":memory:". At most `most` jobs are kept, and finished ones for
    `keep_s` seconds. `owner` tells clients apart: nobody sees the jobs of others.
    """

    def __init__(self, engine: Engine, *, file: str, keep_s: float, most: int) -> None:
        self._engine = engine
        self._keep_s = keep_s
        self._most = most
        self._lock = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._unfinished: dict[str, _Job] = {}
        self._refusing = self._closing = False
        self._store = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._store.execute(_TABLE)
        self._store.execute(
            "update jobs set status = 'failed', finished_s = ?, error_code = ?, error = ? "
            "where status = 'processing'",
            (time.time(), ShuttingDown.code, _LOST),
        )
        self._workers = [
            threading.Thread(target=self._work, name=f"job-{i}", daemon=True)
            for i in range(AT_ONCE)
        ]
        for worker in self._workers:
            worker.start()

    def submit(
        self, messages: Sequence[Message], params: SamplingParams, owner: str = ""
    ) -> JobView:
        """Raises Busy when unfinished jobs take all places or memory, ShuttingDown at the end."""
        job = _Job(secrets.token_urlsafe(16), owner, time.time(), messages, params)
        with self._lock:
            if self._refusing or self._closing:
                raise ShuttingDown
            if len(self._unfinished) >= self._most:
                raise Busy(f"{len(self._unfinished)} jobs are waiting already: try again later.")
            used = sum(picture_bytes(other.messages) for other in self._unfinished.values())
            more = picture_bytes(messages)
            if used and more and used + more > PICTURE_BYTES:
                raise Busy("The pictures of waiting jobs take all the memory: try again later.")
            self._forget_old(room=1)
            self._store.execute(
                "insert into jobs (id, owner, status, created_s) values (?, ?, 'processing', ?)",
                (job.task_id, owner, job.created_s),
            )
            self._unfinished[job.task_id] = job
            self._waiting.append(job)
            self._lock.notify()
            return self._view(job)

    def get(self, task_id: str, owner: str = "") -> JobView | None:
        """None for a job that is unknown, has expired or is somebody else's."""
        with self._lock:
            self._forget_old(room=0)
            job = self._unfinished.get(task_id)
            if job is not None:
                return self._view(job) if job.owner == owner else None
            row = self._store.execute(
                "select id, status, created_s, finished_s, 0, text, finish_reason, usage, "
                "error_code, error from jobs where id = ? and owner = ?",
                (task_id, owner),
            ).fetchone()
        if row is None:
            return None
        view = JobView(*row)
        usage = Usage(**json.loads(row[7])) if row[7] else None
        return JobView(**{**asdict(view), "usage": usage})

    def cancel(self, task_id: str, owner: str = "") -> JobView | None:
        """Ends a job that has not finished; one that has stays as it is."""
        with self._lock:
            job = self._unfinished.get(task_id)
            if job is not None and job.owner == owner:
                job.cancelled = True
                if job in self._waiting:
                    self._waiting.remove(job)
                    self._finish(job, "cancelled")
                elif job.answer is not None:
                    job.answer.close()
        return self.get(task_id, owner)

    def counts(self) -> tuple[int, int]:
        """(waiting, being answered)."""
        with self._lock:
            return len(self._waiting), len(self._unfinished) - len(self._waiting)

    def refuse_more(self) -> None:
        """Takes no more; those that are here go on."""
        self._refusing = True

    def close(self) -> None:
        """Takes no more; those that wait fail, those under way are cancelled. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            for job in list(self._waiting):
                self._finish(job, "failed", error=ShuttingDown(_LOST))
            self._waiting.clear()
            running = [job.answer for job in self._unfinished.values() if job.answer is not None]
            self._lock.notify_all()
        for answer in running:
            answer.close()
        for worker in self._workers:
            worker.join(timeout=10)
        with self._lock:
            self._store.close()

    # --- the workers ---

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closing:
                    self._lock.wait()
                if self._closing:
                    return
                job = self._waiting.popleft()
            try:
                self._answer(job)
            except sqlite3.Error:  # a full disk, a lock: this worker goes on to the next job
                log.exception("the result of a job could not be kept")
                job.messages = ()
            del job  # and its pictures, while there is no other

    def _answer(self, job: _Job) -> None:
        """Asks until the engine has a place for it, and no server behind it sends it back."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._ask(job)
                return
            except UserError as error:
                passes = error.retry_after_s is not None and not job.text
                expected = isinstance(error, (Busy, StillLoading))
                if not passes or not (expected or time.monotonic() < until_s):
                    self._finish(job, "failed", error=error)
                    return
            except sqlite3.Error:
                raise
            except Exception:  # a bug: logged whole here; the other jobs go on
                log.exception("a job broke off")
                self._finish(job, "failed", error=EngineFailed(_BROKEN))
                return
            time.sleep(RETRY_S)

    def _ask(self, job: _Job) -> None:
        with self._lock:
            if job.cancelled:
                self._finish(job, "cancelled")
                return
            if self._closing:
                raise ShuttingDown(_LOST)
        answer = self._engine.stream(job.messages, job.params, job.owner)
        with self._lock:
            job.answer = answer
            if job.cancelled or self._closing:
                answer.close()
        for chunk in answer:
            job.text += chunk.text
            if chunk.finish_reason is not None:
                ended: JobStatus = "cancelled" if job.cancelled else "done"
                if chunk.finish_reason == "cancelled" and not job.cancelled:
                    raise ShuttingDown(_LOST)
                self._finish(job, ended, reason=chunk.finish_reason, usage=chunk.usage)

    def _finish(
        self,
        job: _Job,
        status: JobStatus,
        *,
        reason: FinishReason | None = None,
        usage: Usage | None = None,
        error: UserError | None = None,
    ) -> None:
        with self._lock:
            self._store.execute(
                "update jobs set status = ?, finished_s = ?, text = ?, finish_reason = ?, "
                "usage = ?, error_code = ?, error = ? where id = ?",
                (
                    status,
                    time.time(),
                    # A server behind this one may send half of a surrogate pair.
                    job.text.encode(errors="replace").decode(),
                    reason,
                    json.dumps(asdict(usage)) if usage else None,
                    error.code if error else None,
                    str(error) if error else None,
                    job.task_id,
                ),
            )
            self._unfinished.pop(job.task_id, None)

    # --- under the lock ---

    def _forget_old(self, room: int) -> None:
        """Drops what has expired, and the oldest finished jobs that are over the bound."""
        self._store.execute("delete from jobs where finished_s < ?", (time.time() - self._keep_s,))
        self._store.execute(
            "delete from jobs where id in (select id from jobs where finished_s is not null "
            "order by finished_s desc limit -1 offset ?)",
            (max(0, self._most - len(self._unfinished) - room),),
        )

    def _view(self, job: _Job) -> JobView:
        position = self._waiting.index(job) + 1 if job in self._waiting else 0
        return JobView(job.task_id, "processing", job.created_s, position=position, text=job.text)
