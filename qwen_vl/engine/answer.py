"""One answer under way: written by one side, read by the other, ended once.

The writer calls `emit`, and `finish` or `fail`, inside of `written`. The reader iterates, with
`for` on a thread or with `async for` on an event loop, and any thread may `close`. Knows nothing of
models, pages or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from qwen_vl.errors import Bug, EngineFailed, UserError
from qwen_vl.schema import CallPiece, Chunk, FinishReason, Standing, TokenLogprob, Usage

log = logging.getLogger(__name__)

Ending = Callable[["Chunk | UserError"], object]


class Answer:
    """An iterator of chunks; the last one carries finish_reason and usage.

    Iterating raises Busy, TooLarge, EngineFailed and the like from the `errors` family. `on_close`
    is called when the reader has gone. `limit_s` is how long the writing may take. `asked_s`, on
    the monotonic clock, is when the question came, if that was before now.
    """

    def __init__(
        self,
        prompt_tokens: int = 0,
        limit_s: float = float("inf"),
        on_close: Callable[[Answer], None] = lambda _: None,
        asked_s: float | None = None,
    ) -> None:
        self.cached_tokens = 0
        self.drafted_tokens = self.accepted_tokens = 0  # guessed; and right, so part of the answer
        self.standing: Standing | None = None  # until the first words, where the writer tells
        self._prompt_tokens = prompt_tokens
        self._limit_s = limit_s
        self._on_close = on_close
        self._changed = threading.Condition()  # of all that follows
        self._unread: deque[Chunk | UserError] = deque()
        self._wake: Callable[[], object] | None = None  # an event loop's reader
        self._listeners: list[Ending] = []
        self._last: Chunk | UserError | None = None
        self._exhausted = False
        self._asked_s = time.monotonic() if asked_s is None else asked_s
        self._started_s: float | None = None
        self._first_s: float | None = None
        self._last_s = 0.0
        self._tokens = self._thought_tokens = 0

    # --- the reader's side ---

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> Chunk:
        chunk = None if self._exhausted else self.get()
        if chunk is None:
            raise StopIteration
        return chunk

    def get(self, timeout_s: float | None = None) -> Chunk | None:
        """The next chunk; None if none came in time, or after the last one."""
        with self._changed:
            if self._exhausted or not self._changed.wait_for(lambda: self._unread, timeout_s):
                return None
            return self._take()

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Chunk:
        """Cancelling it loses no chunk."""
        while True:
            await self.begun()
            with self._changed:
                if self._unread:
                    return self._take()
                if self._exhausted:
                    raise StopAsyncIteration

    async def begun(self) -> None:
        """Waits until there is something to read, or nothing left, and leaves it there."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        while True:
            with self._changed:
                if self._unread or self._exhausted:
                    return
                woken.clear()
                self._wake = lambda: loop.call_soon_threadsafe(woken.set)
            await woken.wait()

    def _take(self) -> Chunk:
        item = self._unread.popleft()
        self._exhausted = item is self._last
        if isinstance(item, UserError):
            raise item
        return item

    def close(self) -> None:
        """Cancels this answer and nothing else, at once and from any thread.

        What was written so far can still be read, and then a last chunk with what it has cost.
        """
        if self.finish("cancelled"):
            self._on_close(self)

    def when_ended(self, tell: Ending) -> None:
        """Calls `tell` with the last chunk, or the error, as soon as there is one."""
        with self._changed:
            last = self._last
            if last is None:
                self._listeners.append(tell)
        if last is not None:
            tell(last)

    # --- the writer's side ---

    @property
    def wanted(self) -> bool:
        return self._last is None

    def start(self) -> None:
        """Its turn has come: from now on its time counts."""
        self._started_s = time.monotonic()

    @property
    def out_of_time(self) -> bool:
        started_s = self._started_s
        return started_s is not None and time.monotonic() - started_s > self._limit_s

    def count_token(self, is_thought: bool = False) -> None:
        """One more token was generated, whether or not it makes text yet."""
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        self._tokens += 1
        self._thought_tokens += is_thought

    def emit(
        self,
        text: str,
        thought: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
        calls: tuple[CallPiece, ...] = (),
    ) -> None:
        if text or thought or calls:
            with self._changed:
                if self.wanted:
                    self._put(Chunk(text, thought, logprobs=logprobs, calls=calls))

    def finish(self, reason: FinishReason, counted: Usage | None = None) -> bool:
        """Ends the answer; False if it had ended before. `counted` knows the tokens better."""
        usage = self._usage()
        if counted is not None:
            usage = replace(counted, ttft_s=usage.ttft_s, tokens_per_s=usage.tokens_per_s)
        return self.end(Chunk(finish_reason=reason, usage=usage))

    def fail(self, error: UserError) -> bool:
        """Ends the answer with what iterating it raises; False if it had ended before."""
        return self.end(error)

    def end(self, last: Chunk | UserError) -> bool:
        """Ends the answer with its last chunk, or with what iterating it raises."""
        with self._changed:
            if not self.wanted:
                return False
            self._last = last
            self._put(last)
            listeners, self._listeners = self._listeners, []
        for tell in listeners:
            tell(last)
        return True

    def _put(self, item: Chunk | UserError) -> None:
        self._unread.append(item)
        self._changed.notify_all()
        if self._wake is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended: nobody reads any more
                self._wake()
            self._wake = None

    def _usage(self) -> Usage:
        first_s = self._first_s
        if first_s is None:
            return Usage(self._prompt_tokens, 0, self.cached_tokens)
        decoding_s = self._last_s - first_s
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._tokens,
            cached_tokens=self.cached_tokens,
            thought_tokens=self._thought_tokens,
            ttft_s=first_s - self._asked_s,
            tokens_per_s=(self._tokens - 1) / decoding_s if decoding_s > 0 else 0.0,
            accepted_tokens=self.accepted_tokens,
            rejected_tokens=self.drafted_tokens - self.accepted_tokens,
        )


@contextmanager
def written(answer: Answer) -> Iterator[None]:
    """Ends `answer` however the writing ends: the one rule for all writers.

    A UserError is the answer's. Anything else is a bug: it is logged whole, which counts it, and
    the answer fails. So does one that ends without a last chunk: it is a failure, never an answer.
    """
    try:
        yield
    except UserError as error:
        answer.fail(error)
    except Exception:
        log.exception("an answer broke off")
        answer.fail(Bug())
    else:
        if answer.wanted:
            log.error("an answer ended without a last chunk")
            answer.fail(EngineFailed("The answer broke off before its end: try again."))
