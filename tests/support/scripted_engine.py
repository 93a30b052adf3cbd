"""A scripted stand-in for a model, for tests of the page and the API. It is never shipped.

It follows the Engine protocol: deltas, a last chunk with usage, cancellation by closing, errors
from the family. What it says is a function of the messages, so tests know the answer beforehand.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from qwen_vl.schema import Chunk, EngineStats, EngineStatus, Message, SamplingParams, Usage

SPEED = 12.5  # tokens per second, as it says

Script = Callable[[Sequence[Message]], str]


def echo(messages: Sequence[Message]) -> str:
    """Says what was asked last, how many pictures there are in all, and the number of messages."""
    pictures = sum(len(message.images) for message in messages)
    return f"You said: {messages[-1].text} [{pictures} pictures, {len(messages)} messages]"


class ScriptedAnswer:
    """One answer under way; `close` may come from any thread."""

    def __init__(self, engine: ScriptedEngine, messages: Sequence[Message]) -> None:
        self._engine = engine
        self._words = engine.script(messages).split(" ")
        self._prompt = sum(len(m.text.split()) + 64 * len(m.images) for m in messages)
        self._said = 0
        self._ended = False
        self._closed = threading.Event()
        self._started = time.monotonic()
        self._first_s: float | None = None

    def __iter__(self) -> ScriptedAnswer:
        return self

    def __next__(self) -> Chunk:
        if self._ended:
            raise StopIteration
        hold, error = self._engine.hold, self._engine.error
        while hold is not None and not (hold.wait(0.005) or self._closed.is_set()):
            pass
        if error is not None and self._said == (self._engine.fail_after or 0):
            self._ended = True
            raise error
        if self._said < len(self._words) and not self._closed.wait(self._engine.delay_s):
            self._first_s = self._first_s or time.monotonic() - self._started
            word = self._words[self._said]
            self._said += 1
            return Chunk(word if self._said == 1 else f" {word}")
        self._ended = True
        usage = Usage(self._prompt, self._said, 0, self._first_s or 0.0, SPEED)
        return Chunk("", "cancelled" if self._closed.is_set() else "stop", usage)

    def close(self) -> None:
        if not self._ended and not self._closed.is_set():
            self._closed.set()
            self._engine.cancelled += 1


class ScriptedEngine:
    """`delay_s` is the time per word; `hold`, when given, blocks before the first word."""

    def __init__(
        self,
        script: Script = echo,
        *,
        model_id: str = "Qwen/Qwen3-VL-Scripted",
        delay_s: float = 0.0,
        hold: threading.Event | None = None,
        error: Exception | None = None,
        fail_after: int | None = None,
    ) -> None:
        self.script = script
        self.delay_s = delay_s
        self.hold = hold
        self.error = error
        self.fail_after = fail_after  # words before `error`; None: before the first
        self.calls: list[tuple[list[Message], SamplingParams]] = []
        self.cancelled = 0
        self._status = EngineStatus("ready", model_id, device="cpu", dtype="float32")

    @property
    def model_id(self) -> str:
        return self._status.model_id

    def drain(self, seconds: float) -> None:
        pass

    def stats(self) -> EngineStats:
        return EngineStats()

    def status(self) -> EngineStatus:
        return self._status

    def set_status(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> ScriptedAnswer:
        self.calls.append((list(messages), params))
        return ScriptedAnswer(self, messages)

    def close(self) -> None:
        return None
