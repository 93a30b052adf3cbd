"""A scripted stand-in for a model, for tests of everything above the engine. It is never shipped.

It keeps the contract of `qwen_vl.engine`, closing from any thread included. What it says is known
beforehand, so tests can hold an answer anywhere, break it there, and see which ones were closed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from qwen_vl.engine import Answer
from qwen_vl.engine.answer import written
from qwen_vl.errors import Unsupported
from qwen_vl.families import FAMILIES
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, Cost, EngineStats, EngineStatus, FinishReason, Message, Usage

Step = str | Chunk | threading.Event | Exception | Callable[[Sequence[Message]], str]

SPEED = 12.5  # tokens per second, as it says
SEEING, TEXT_ONLY = FAMILIES["qwen3_vl"], FAMILIES["qwen3"]
READY = EngineStatus(
    "ready", "Qwen/Qwen3-VL-Scripted", device="cpu", dtype="float32", family=SEEING
)
USAGE = Usage(prompt_tokens=11, completion_tokens=0, ttft_s=0.25, tokens_per_s=SPEED)


def echo(messages: Sequence[Message]) -> str:
    """Says what was asked last, how many pictures there are in all, and the number of messages."""
    pictures = sum(len(message.images) for message in messages)
    return f"You said: {messages[-1].text} [{pictures} pictures, {len(messages)} messages]"


class ScriptedAnswer(Answer):
    """One answer under way. `waiting` is set while it waits for an event of its steps."""

    def __init__(self, engine: ScriptedEngine, messages: Sequence[Message]) -> None:
        super().__init__(engine.usage.prompt_tokens, on_close=self._on_cancel)
        self._engine = engine
        self._steps = _played(tuple(engine.steps), messages)
        self.waiting = threading.Event()
        self.closed = threading.Event()
        self.cancelled = False  # closed before its end
        threading.Thread(target=self._write, name="scripted", daemon=True).start()

    def close(self) -> None:
        super().close()
        self.closed.set()

    def _on_cancel(self, _: Answer) -> None:
        self.cancelled = True

    def _write(self) -> None:
        said = thought = 0
        with written(self):
            for step in self._steps:
                if not self.wanted:
                    return
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, threading.Event):
                    self.waiting.set()
                    while not (step.wait(0.005) or self.closed.is_set()):
                        pass
                elif not self.closed.wait(self._engine.delay_s):
                    chunk = Chunk(step) if isinstance(step, str) else step
                    said += 1
                    thought += bool(chunk.thought)
                    self.count_token(bool(chunk.thought))
                    self.emit(chunk.text, chunk.thought, chunk.logprobs, chunk.calls)
            if self._engine.finish_reason is not None:
                usage = replace(self._engine.usage, completion_tokens=said, thought_tokens=thought)
                self.end(Chunk(finish_reason=self._engine.finish_reason, usage=usage))


def _played(
    steps: Sequence[Step], messages: Sequence[Message]
) -> Iterator[str | Chunk | threading.Event | Exception]:
    """The steps, with the words of what a function says one by one."""
    for step in steps:
        if callable(step):
            first, *rest = step(messages).split(" ")
            yield first
            yield from (f" {word}" for word in rest)
        else:
            yield step


class ScriptedEngine:
    """Every answer plays `steps`, which may change between two answers; without any it echoes.

    A text is said, a chunk passed on, an event waited for, an exception raised; a function of the
    messages is asked for a text, which is said word by word. `refusal` is raised by `stream`
    itself. `cost` is what `count` says. `delay_s` is the time before each piece of text. Without a
    `finish_reason` answers end without a last chunk. `requests`, `scopes` and `answers` keep what
    came in and what went out, oldest first.
    """

    def __init__(
        self,
        *steps: Step,
        refusal: Exception | None = None,
        finish_reason: FinishReason | None = "stop",
        usage: Usage = USAGE,  # what was said is counted
        status: EngineStatus = READY,
        stats: EngineStats | None = None,
        delay_s: float = 0.0,
        cost: Cost | None = None,
    ) -> None:
        self.steps: Sequence[Step] = steps or (echo,)
        self.refusal = refusal
        self.finish_reason = finish_reason
        self.usage = usage
        self.delay_s = delay_s
        self.cost = cost
        self.requests: list[tuple[tuple[Message, ...], SamplingParams]] = []
        self.scopes: list[str] = []
        self.answers: list[ScriptedAnswer] = []
        self._status = status
        self._stats = stats or EngineStats()

    @property
    def model_id(self) -> str:
        return self._status.model_id

    @property
    def cancelled(self) -> int:
        """How many answers were closed before their end."""
        return sum(answer.cancelled for answer in self.answers)

    def count(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Cost | None:
        return self.cost

    def drain(self, seconds: float) -> None:
        pass

    def stats(self) -> EngineStats:
        return self._stats

    def status(self) -> EngineStatus:
        return self._status

    def set_status(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> ScriptedAnswer:
        if not self._status.accepts_images and any(message.images for message in messages):
            raise Unsupported("This model reads text only: remove the pictures.")
        for message in messages:
            for part in message.images:
                part.image.load()  # as engines do before they answer
        self.requests.append((tuple(messages), params))
        self.scopes.append(scope)
        if self.refusal is not None:
            raise self.refusal
        self.answers.append(ScriptedAnswer(self, messages))
        return self.answers[-1]

    def close(self) -> None:
        for answer in self.answers:
            answer.close()
