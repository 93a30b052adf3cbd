"""Answers that are written by asynchronous code, for readers on any thread.

One thread runs an event loop with a task for each answer, so that closing an answer cancels its
task in any phase. Knows answers and time; knows nothing of who writes them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from qwen_vl.engine.answer import Answer, written
from qwen_vl.errors import Busy, ShuttingDown, UserError

log = logging.getLogger(__name__)

TRIES = 4  # of one question, before its first token
BACKOFF_S = 0.25  # doubled with every try
CLOSE_S = 5.0


class TryAgain(Exception):
    """The answer has not begun. The user reads `told` if nobody else can answer either."""

    def __init__(self, told: UserError) -> None:
        super().__init__(str(told))
        self.told = told


async def until_begun(attempt: Callable[[], Awaitable[None]]) -> None:
    """Repeats what ends with TryAgain, a little later each time; raises its `told` in the end."""
    for tried in range(TRIES):
        try:
            return await attempt()
        except TryAgain as failed:
            if tried == TRIES - 1:
                raise failed.told from failed
        await asyncio.sleep(BACKOFF_S * 2**tried)


class Bridge:
    """An event loop in a thread of its own; at most `most` answers, each of `limit_s` seconds."""

    def __init__(self, name: str, most: int, limit_s: float) -> None:
        self._most, self._limit_s = most, limit_s
        self._lock = threading.Lock()
        self._answers: dict[Answer, Future[None]] = {}
        self._draining = self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return len(self._answers)

    def start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Runs something on the loop; any thread may wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def answer(self, write: Callable[[Answer], Awaitable[None]]) -> Answer:
        """A new answer that `write` emits and finishes. Raises Busy, and ShuttingDown at the end.

        A UserError that `write` raises is the answer's; so is the end of its time.
        """
        answer = Answer(0, self._limit_s, self._on_close)
        with self._lock:
            if self._draining or self._closed:
                raise ShuttingDown
            if len(self._answers) >= self._most:
                raise Busy(f"{len(self._answers)} answers are being written: try again later.")
            self._answers[answer] = self.start(self._run(answer, write))
        return answer

    def drain(self, seconds: float) -> None:
        """Takes no more, and waits at most `seconds` for the others to end."""
        self._draining = True
        end_s = time.monotonic() + seconds
        while self._answers and time.monotonic() < end_s:
            time.sleep(0.05)

    def close(self, last: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ends answers as cancelled and every other task, then runs `last`. Idempotent."""
        with self._lock:  # no answer is begun after the last look
            if self._closed:
                return
            self._closed = True
            answers = list(self._answers)
        for answer in answers:
            answer.close()
        try:
            self.start(self._end_all(last)).result(CLOSE_S)
        except (concurrent.futures.TimeoutError, TimeoutError):
            log.warning("not everything could be ended in %.0f seconds", CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self._loop.close()

    async def _end_all(self, last: Callable[[], Awaitable[None]] | None) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        if last is not None:
            await last()

    def _on_close(self, answer: Answer) -> None:
        with self._lock:
            task = self._answers.get(answer)
        if task is not None:
            task.cancel()

    async def _run(self, answer: Answer, write: Callable[[Answer], Awaitable[None]]) -> None:
        answer.start()
        try:
            with written(answer):
                try:
                    await asyncio.wait_for(write(answer), self._limit_s)
                except (asyncio.TimeoutError, TimeoutError):
                    answer.finish("timeout")
        except asyncio.CancelledError:  # whoever did that has closed the answer, or all of them
            answer.finish("cancelled")
        finally:
            with self._lock:
                self._answers.pop(answer, None)
