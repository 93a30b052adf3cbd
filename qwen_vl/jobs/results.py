"""Jobs that have ended: kept for a while, and shared fairly between those who asked.

Knows finished jobs, their owners and the file that they are kept in; knows nothing of engines or
threads: whoever uses it holds a lock.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

from qwen_vl.errors import Busy, ShuttingDown
from qwen_vl.jobs.file import Job
from qwen_vl.jobs.store import JobStore

LOST = "The server stopped before this job was finished: send it again."


class Results:
    """At most `most` jobs, unfinished ones included, and each for `keep_s` seconds.

    Room is made by forgetting the oldest result of the owner who keeps the most jobs, so that
    nobody loses a result to somebody who keeps as many or more.
    """

    def __init__(self, store: JobStore, keep_s: float, most: int) -> None:
        self._store, self._keep_s, self._most = store, keep_s, most
        self._jobs: dict[str, tuple[str, Job]] = {}  # by id, the oldest first
        found = store.load()
        for owner, job in [item for item in found if item[1].finished_s is not None]:
            self._jobs[job.job_id] = (owner, job)
        for owner, job in [item for item in found if item[1].finished_s is None]:
            now_s, code = time.time(), ShuttingDown.code
            self.add(
                owner, replace(job, status="failed", finished_s=now_s, error_code=code, error=LOST)
            )
        while len(self._jobs) > most:
            self._forget(self._next_to_go("", Counter()))

    def add(self, owner: str, job: Job) -> None:
        """Keeps a job that has just ended."""
        self._jobs[job.job_id] = (owner, job)
        self._store.put(owner, job)

    def get(self, job_id: str, owner: str) -> Job | None:
        """None for what is unknown, has expired or is somebody else's."""
        self.forget_expired()
        whose, job = self._jobs.get(job_id, (None, None))
        return job if whose == owner else None

    def make_room(self, owner: str, unfinished: Counter[str]) -> None:
        """For one more job of `owner`; `unfinished` counts the jobs of each owner that go on.

        Raises Busy when only those could give way who keep no more than `owner` does.
        """
        self.forget_expired()
        while unfinished.total() + len(self._jobs) >= self._most:
            counts = self._counts(unfinished)
            goes = self._next_to_go(owner, unfinished) if self._jobs else ""
            whose = self._jobs[goes][0] if goes else ""
            if not goes or (whose != owner and counts[whose] <= counts[owner]):
                raise Busy("All places for jobs are taken: try again later.")
            self._forget(goes)

    def forget_expired(self) -> None:
        """Drops what has been kept for long enough."""
        before_s = time.time() - self._keep_s
        for job_id, (_, job) in list(self._jobs.items()):
            if (job.finished_s or 0.0) < before_s:
                self._forget(job_id)

    def _counts(self, unfinished: Counter[str]) -> Counter[str]:
        return Counter(owner for owner, _ in self._jobs.values()) + unfinished

    def _next_to_go(self, owner: str, unfinished: Counter[str]) -> str:
        """The oldest result of the owner with the most jobs; `owner` itself on a tie."""
        counts = self._counts(unfinished)

        def rank(job_id: str) -> tuple[int, bool]:
            whose, _ = self._jobs[job_id]
            return counts[whose], whose == owner

        return max(self._jobs, key=rank)

    def _forget(self, job_id: str) -> None:
        del self._jobs[job_id]
        self._store.forget(job_id)
