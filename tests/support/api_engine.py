"""An engine that plays steps: what to say, what to wait for, what to break on.

It keeps the contract of `qwen_vl.engine`, closing from any thread included, so tests of the API can
hold an answer in the middle of its prefill, and see which answers were closed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from qwen_vl.errors import Unsupported
from qwen_vl.schema import (
    Chunk,
    EngineStats,
    EngineStatus,
    FinishReason,
    Message,
    SamplingParams,
    Usage,
)

Step = str | threading.Event | Exception

READY = EngineStatus(state="ready", model_id="step-model", device="cpu", dtype="float32")
USAGE = Usage(prompt_tokens=11, completion_tokens=0)  # what was said is counted


class StepAnswer:
    """One answer under way. `waiting` is set while it waits for an event of its steps."""

    def __init__(self, steps: Sequence[Step], finish_reason: FinishReason, usage: Usage) -> None:
        self._steps = list(steps)
        self._finish_reason = finish_reason
        self._usage = usage
        self._said = 0
        self._ended = False
        self.waiting = threading.Event()
        self.closed = threading.Event()

    def __iter__(self) -> StepAnswer:
        return self

    def __next__(self) -> Chunk:
        if self._ended:
            raise StopIteration
        while self._steps and not self.closed.is_set():
            step = self._steps.pop(0)
            if isinstance(step, Exception):
                self._ended = True
                raise step
            if isinstance(step, str):
                self._said += 1
                return Chunk(step)
            self.waiting.set()
            while not (step.wait(0.005) or self.closed.is_set()):
                pass
        self._ended = True
        return Chunk(
            finish_reason="cancelled" if self.closed.is_set() else self._finish_reason,
            usage=replace(self._usage, completion_tokens=self._said),
        )

    def close(self) -> None:
        self.closed.set()


class StepEngine:
    """Every answer plays `steps`; `refusal` is raised by `stream` at once instead.

    `requests` and `answers` keep what came in and what went out, oldest first.
    """

    def __init__(
        self,
        *steps: Step,
        refusal: Exception | None = None,
        finish_reason: FinishReason = "stop",
        usage: Usage = USAGE,
        status: EngineStatus = READY,
    ) -> None:
        self._steps = steps
        self._refusal = refusal
        self._finish_reason: FinishReason = finish_reason
        self._usage = usage
        self._status = status
        self.requests: list[tuple[tuple[Message, ...], SamplingParams]] = []
        self.answers: list[StepAnswer] = []

    @property
    def model_id(self) -> str:
        return self._status.model_id

    def drain(self, seconds: float) -> None:
        pass

    def stats(self) -> EngineStats:
        return EngineStats()

    def status(self) -> EngineStatus:
        return self._status

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> StepAnswer:
        if self._refusal is not None:
            raise self._refusal
        if not self._status.accepts_images and any(message.images for message in messages):
            raise Unsupported("This model reads text only: remove the pictures.")
        for message in messages:
            for part in message.images:
                part.image.load()  # as engines do before they answer
        self.requests.append((tuple(messages), params))
        self.answers.append(StepAnswer(self._steps, self._finish_reason, self._usage))
        return self.answers[-1]

    def close(self) -> None:
        for answer in self.answers:
            answer.close()
