"""One answer under way, shared by the thread that reads it and the thread that writes it.

Knows nothing of models: the inference thread calls `emit`, `finish` and `fail`, any other thread
iterates and may `close`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from qwen_vl.errors import UserError
from qwen_vl.schema import Chunk, FinishReason, Usage


class Answer:
    """The `AnswerStream` of the local engine.

    `on_close` is told when the reader has gone. `asked_s`, on the monotonic clock, is when the
    question came, if that was before now.
    """

    def __init__(
        self,
        prompt_tokens: int,
        limit_s: float,
        on_close: Callable[[Answer], None],
        asked_s: float | None = None,
    ) -> None:
        self.cancelled = False
        self.cached_tokens = 0
        self._prompt_tokens = prompt_tokens
        self._limit_s = limit_s
        self._on_close = on_close
        self._chunks: queue.SimpleQueue[Chunk | UserError] = queue.SimpleQueue()
        self._lock = threading.Lock()  # decides who ends the answer, once
        self._ended = False
        self._exhausted = False
        self._asked_s = time.monotonic() if asked_s is None else asked_s
        self._started_s: float | None = None
        self._first_s: float | None = None
        self._last_s = 0.0
        self._tokens = 0

    # --- the reader's side ---

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        if self._exhausted:
            raise StopIteration
        item = self._chunks.get()
        if isinstance(item, UserError):
            self._exhausted = True
            raise item
        self._exhausted = item.finish_reason is not None
        return item

    def close(self) -> None:
        """Cancels; what was written so far can still be read, and then the last chunk."""
        if self.finish("cancelled"):
            self.cancelled = True
            self._on_close(self)

    # --- the inference thread's side ---

    @property
    def wanted(self) -> bool:
        return not self._ended

    def start(self) -> None:
        """Its turn has come: from now on its time counts."""
        self._started_s = time.monotonic()

    @property
    def out_of_time(self) -> bool:
        started_s = self._started_s
        return started_s is not None and time.monotonic() - started_s > self._limit_s

    def count_token(self) -> None:
        """One more token was generated, whether or not it makes text yet."""
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        self._tokens += 1

    def emit(self, text: str) -> None:
        if text:
            with self._lock:
                if not self._ended:
                    self._chunks.put(Chunk(text))

    def finish(self, reason: FinishReason, counted: Usage | None = None) -> bool:
        """Ends the answer; False if it had ended before. `counted` knows the tokens better."""
        usage = self._usage()
        if counted is not None:
            usage = replace(counted, ttft_s=usage.ttft_s, tokens_per_s=usage.tokens_per_s)
        return self._end(Chunk(finish_reason=reason, usage=usage))

    def fail(self, error: UserError) -> bool:
        return self._end(error)

    def _end(self, last: Chunk | UserError) -> bool:
        with self._lock:
            if self._ended:
                return False
            self._ended = True
            self._chunks.put(last)
            return True

    def _usage(self) -> Usage:
        first_s = self._first_s
        if first_s is None:
            return Usage(self._prompt_tokens, 0, self.cached_tokens)
        decoding_s = self._last_s - first_s
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._tokens,
            cached_tokens=self.cached_tokens,
            ttft_s=first_s - self._asked_s,
            tokens_per_s=(self._tokens - 1) / decoding_s if decoding_s > 0 else 0.0,
        )
