"""Asynchronous jobs: questions that are answered in the background and picked up later.

Jobs wait in a queue of their own and are answered a few at a time. All of them are kept in memory
until they expire. `store` keeps them in a file that survives a restart; jobs that a dead server
left unfinished come back as failed. Every job ends, whatever its answer or the disk does. Knows the
engine's interface and nothing of HTTP.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qwen_vl.engine import Answer, Engine
from qwen_vl.errors import Bug, Busy, ShuttingDown, StillLoading, UserError
from qwen_vl.jobs.file import BadJobFile, Job, JobStatus
from qwen_vl.jobs.results import LOST, Results
from qwen_vl.jobs.store import JobStore, check_file
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import FinishReason, Message, Usage, abandon_pictures, held_bytes

__all__ = ["JOBS_AT_ONCE", "PICTURE_BYTES", "BadJobFile", "Job", "JobStatus", "Jobs", "check_file"]

log = logging.getLogger(__name__)

JOBS_AT_ONCE = (
    4  # jobs that are answered at the same time: pages and calls need rows of the batch too
)
PICTURE_BYTES = 2**30  # of all jobs that have not finished
RETRY_S = 0.5  # how long a job waits when the engine has no place for it, doubled up to
RETRY_MOST_S = 8.0
PATIENCE_S = 600.0  # how long it waits for a model that nothing says will come back
WRITE_S = 1.0  # how long a call that sends a job waits for its row in the file
CANCEL_S = 1.0  # how long a call that cancels a job waits for its last chunk
CLOSE_S = 10.0  # how long closing waits for the workers


@dataclass(eq=False)
class _Unfinished:
    """One that has not finished yet."""

    job_id: str
    owner: str
    created_s: float
    messages: Sequence[Message]
    params: SamplingParams
    picture_bytes: int
    text: str = ""
    answer: Answer | None = None
    cancelled: bool = False


class Jobs:
    """Takes jobs in, answers them, keeps their results for a while.

    `file` is a SQLite file, or ":memory:"; raises BadJobFile if it is not fit. At most `most` jobs
    are kept, and finished ones for `keep_s` seconds. `owner` tells clients apart: nobody sees the
    jobs of others. Where there are several (`shared`), one with a name (an API key) holds at most
    half of the places, and of the memory for pictures, that unfinished jobs of others leave; see
    `results` for the rest.
    """

    def __init__(
        self, engine: Engine, *, file: str, keep_s: float, most: int, shared: bool = True
    ) -> None:
        self._engine = engine
        self._shared = shared
        self._most = most
        self._lock = threading.Condition()
        self._waiting: deque[_Unfinished] = deque()
        self._unfinished: dict[str, _Unfinished] = {}
        self._refusing = self._closing = False
        self._store = JobStore(file)
        self._results = Results(self._store, keep_s, most)
        self._workers = [
            threading.Thread(target=self._work, name=f"job-{i}", daemon=True)
            for i in range(JOBS_AT_ONCE)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, messages: Sequence[Message], params: SamplingParams, owner: str = "") -> Job:
        """Raises Busy when unfinished jobs take all places or memory, ShuttingDown at the end.

        When this returns the job is in the file, unless that cannot be written just now.
        """
        size = held_bytes(messages)
        job = _Unfinished(secrets.token_urlsafe(16), owner, time.time(), messages, params, size)
        with self._lock:
            if self._refusing or self._closing:
                raise ShuttingDown
            self._check_share(job)
            self._results.make_room(owner, Counter(j.owner for j in self._unfinished.values()))
            self._unfinished[job.job_id] = job
            self._waiting.append(job)
            view = self._view(job)
            self._store.put(owner, view)
            self._lock.notify_all()
        self._store.wait(job.job_id, WRITE_S)
        return view

    def get(self, job_id: str, owner: str = "") -> Job | None:
        """None for a job that is unknown, has expired or is somebody else's. Waits for nothing."""
        with self._lock:
            job = self._unfinished.get(job_id)
            if job is not None:
                return self._view(job) if job.owner == owner else None
            return self._results.get(job_id, owner)

    def cancel(self, job_id: str, owner: str = "") -> Job | None:
        """Ends a job that has not finished; one that has stays as it is."""
        with self._lock:
            job = self._unfinished.get(job_id)
            if job is None or job.owner != owner:
                return self.get(job_id, owner)
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._finish(job, "cancelled")
            answer = job.answer
            self._lock.notify_all()  # it may be waiting for the engine to have a place
        if answer is not None:
            _close(answer)
        with self._lock:  # its last chunk has the figures, but it ends without one too
            self._lock.wait_for(lambda: job_id not in self._unfinished, CANCEL_S)
            self._finish(job, "cancelled")
        return self.get(job_id, owner)

    def refuse_more(self) -> None:
        """Takes no more; those that are here go on."""
        self._refusing = True

    def close(self) -> None:
        """Takes no more; those that wait fail, those under way are cancelled.

        Never raises. Idempotent.
        """
        with self._lock:
            if self._closing:
                return
            self._closing = True
            for job in self._waiting:
                self._finish(job, "failed", error=ShuttingDown(LOST))
            self._waiting.clear()
            running = [job.answer for job in self._unfinished.values() if job.answer is not None]
            self._lock.notify_all()
        for answer in running:
            _close(answer)
        end_s = time.monotonic() + CLOSE_S
        for worker in self._workers:
            worker.join(max(0.0, end_s - time.monotonic()))
        with self._lock:
            for job in list(self._unfinished.values()):
                self._finish(job, "failed", error=ShuttingDown(LOST))
        self._store.close()

    # --- the workers ---

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._answer(job)
            except Exception:  # a bug: logged whole here; the other jobs go on
                log.exception("a job broke off")
            finally:
                self._finish(job, "failed", error=Bug())  # if nothing else has
            del job  # and its pictures, while there is no other

    def _next(self) -> _Unfinished | None:
        with self._lock:
            self._lock.wait_for(lambda: self._waiting or self._closing)
            return None if self._closing else self._waiting.popleft()

    def _answer(self, job: _Unfinished) -> None:
        """Asks until the engine has a place for it, and no server behind it sends it back."""
        until_s, pause_s = time.monotonic() + PATIENCE_S, RETRY_S
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
            with self._lock:
                self._lock.wait_for(lambda: job.cancelled or self._closing, pause_s)
            pause_s = min(2 * pause_s, RETRY_MOST_S)

    def _ask(self, job: _Unfinished) -> None:
        with self._lock:
            if job.cancelled:
                self._finish(job, "cancelled")
                return
            if self._closing:
                raise ShuttingDown(LOST)
        answer = self._engine.stream(job.messages, job.params, job.owner)
        with self._lock:
            job.answer = answer
            unwanted = job.cancelled or self._closing
        if unwanted:
            _close(answer)
        try:
            for chunk in answer:
                job.text += chunk.text
                reason, usage = chunk.finish_reason, chunk.usage
        except BaseException:
            _close(answer)
            raise
        if reason == "cancelled" and not job.cancelled:
            raise ShuttingDown(LOST)
        self._finish(job, "cancelled" if job.cancelled else "done", reason=reason, usage=usage)

    # --- under the lock ---

    def _finish(
        self,
        job: _Unfinished,
        status: JobStatus,
        *,
        reason: FinishReason | None = None,
        usage: Usage | None = None,
        error: UserError | None = None,
    ) -> None:
        """Gives a job's place back; the first end that it is given counts."""
        with self._lock:
            if self._unfinished.pop(job.job_id, None) is None:
                return
            view = replace(
                self._view(job),
                status=status,
                finished_s=time.time(),
                # A server behind this one may send half of a surrogate pair.
                text=job.text.encode(errors="replace").decode(),
                position=0,
                finish_reason=reason,
                usage=usage,
                error_code=error.code if error else None,
                error=str(error) if error else None,
            )
            self._results.add(job.owner, view)
            messages, job.messages = job.messages, ()
            self._lock.notify_all()
        if status != "done":
            abandon_pictures(messages)

    def _check_share(self, job: _Unfinished) -> None:
        """Raises Busy when a job would take more than its owner's share."""
        mine = [other for other in self._unfinished.values() if other.owner == job.owner]
        others = [other for other in self._unfinished.values() if other.owner != job.owner]
        if len(mine) >= self._share(self._most - len(others), job.owner):
            raise Busy(f"{len(mine)} jobs are waiting already: try again later.")
        my_bytes = sum(other.picture_bytes for other in mine)
        room = PICTURE_BYTES - sum(other.picture_bytes for other in others)
        alone = room == PICTURE_BYTES and not my_bytes  # then even a large one is taken
        wanted = my_bytes + job.picture_bytes
        if job.picture_bytes and not alone and wanted > self._share(room, job.owner):
            raise Busy("The pictures of waiting jobs take all the memory: try again later.")

    def _share(self, left: int, owner: str) -> int:
        """How much of what others leave one owner may take; a single owner may take all of it."""
        return (left + 1) // 2 if owner and self._shared else left

    def _view(self, job: _Unfinished) -> Job:
        position = self._waiting.index(job) + 1 if job in self._waiting else 0
        return Job(job.job_id, "processing", job.created_s, position=position, text=job.text)


def _close(answer: Answer) -> None:
    """Ends an answer; one that cannot even be ended must not keep its job."""
    try:
        answer.close()
    except Exception:
        log.exception("an answer could not be closed")
