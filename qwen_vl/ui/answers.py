"""One answer on its way from the engine to the page: pumped, throttled and stoppable.

Knows the Engine protocol and the shape of chat turns. Knows nothing of Gradio's components, so it
is tested without a browser.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from qwen_vl.engine import Engine
from qwen_vl.errors import EngineFailed, ModelUnavailable, StillLoading, UserError
from qwen_vl.schema import Chunk, FinishReason, Message, SamplingParams, Usage
from qwen_vl.ui.history import Turn, answer_turn, page_turn, text_block
from qwen_vl.ui.markup import plain, to_page
from qwen_vl.ui.runs import Pump, Run
from qwen_vl.ui.strings import say

UPDATE_S = 0.06  # between two updates of the page: about 16 a second
WAIT_S = 0.5  # between two looks at a model that is loading or has not begun to answer
LAST_CHUNK_S = 1.0  # how long a stopped answer waits for its figures
THINK_END = "</think>"


@dataclass(frozen=True)
class Progress:
    """An answer so far. `waiting` is what to tell while there is no text yet."""

    text: str = ""
    waiting: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    first_text_s: float | None = None  # the page's own clock, for answers that were stopped


def wait_until_ready(engine: Engine, run: Run, lang: str) -> Iterator[Progress]:
    """Tells how far the loading is until the model is there. ModelUnavailable if it fails."""
    while not run.stopped:
        status = engine.status()
        if status.state == "failed":
            raise ModelUnavailable(say("load_failed", lang, detail=status.detail))
        if status.answers:
            return
        percent = "" if status.progress is None else f" {status.progress:.0%}"
        yield Progress(waiting=say("wait_loading", lang, step=f"{status.detail}{percent}".strip()))
        time.sleep(WAIT_S)


def progress(
    engine: Engine,
    messages: Sequence[Message],
    params: SamplingParams,
    scope: str,
    run: Run,
    lang: str,
) -> Iterator[Progress]:
    """The answer so far, at most once per UPDATE_S; the last one carries the finish reason.

    After `run.stop()` it ends at once with what is there, as "cancelled". Errors pass through.
    """
    yield from wait_until_ready(engine, run, lang)
    if run.stopped:
        yield Progress(finish_reason="cancelled")
        return
    started = time.monotonic()
    pump = Pump(engine, messages, params, scope)
    del messages  # the pictures may be large
    run.attach(pump)
    now = Progress()
    try:
        while now.finish_reason is None:
            item = _next_item(pump, run, UPDATE_S if now.text else WAIT_S)
            if run.stopped:
                now = _ended(pump, now, item, started)
            elif item is _NOTHING:
                if not now.text:
                    seconds = f"{time.monotonic() - started:.0f}"
                    yield Progress(waiting=say("wait_first", lang, seconds=seconds))
                continue
            elif isinstance(item, UserError):
                raise item
            elif isinstance(item, Exception):
                raise EngineFailed(say("broken", lang)) from item
            elif isinstance(item, Chunk):
                now = _add(now, item, started)
            if now.finish_reason is None:
                yield now
        yield now
    finally:
        pump.close()


_NOTHING = object()


def _next_item(pump: Pump, run: Run, timeout_s: float) -> object:
    """All chunks that came within `timeout_s` as one, or the end, an error, or _NOTHING."""
    deadline = time.monotonic() + timeout_s
    texts: list[str] = []
    while (left := deadline - time.monotonic()) > 0 and not run.stopped:
        try:
            item = pump.items.get(timeout=min(left, UPDATE_S))
        except queue.Empty:
            continue
        if not isinstance(item, Chunk):
            if texts:  # show the text first, the end or the error next time
                pump.items.put(item)
                break
            return item
        if not texts:  # the first text is shown soon, the rest in a rhythm
            deadline = min(deadline, time.monotonic() + UPDATE_S)
        texts.append(item.text)
        if item.finish_reason is not None:
            return replace(item, text="".join(texts))
    return Chunk("".join(texts)) if any(texts) else _NOTHING


def _ended(pump: Pump, now: Progress, item: object, started: float) -> Progress:
    """A stopped answer: its last chunk, which comes at once, says what it cost."""
    deadline = time.monotonic() + LAST_CHUNK_S
    while True:
        if isinstance(item, Chunk):
            now = _add(now, item, started)
        elif item is not _NOTHING:  # an error or the end
            break
        if now.finish_reason is not None or time.monotonic() > deadline:
            break
        try:
            item = pump.items.get(timeout=LAST_CHUNK_S)
        except queue.Empty:
            break
    return replace(now, finish_reason="cancelled")


def _add(now: Progress, chunk: Chunk, started: float) -> Progress:
    first = now.first_text_s
    if first is None and chunk.text:
        first = time.monotonic() - started
    return Progress(
        text=now.text + chunk.text,
        finish_reason=chunk.finish_reason,
        usage=chunk.usage,
        first_text_s=first,
    )


def split_thinking(text: str, starts_thinking: bool) -> tuple[str, str]:
    """(thought, answer). A Thinking model's output begins inside the thought, without its tag."""
    if text.lstrip().startswith("<think>"):
        text, starts_thinking = text.lstrip().removeprefix("<think>"), True
    thought, end, answer = text.partition(THINK_END)
    if end:
        return thought.strip(), answer.lstrip()
    return (text.strip(), "") if starts_thinking else ("", text)


def turns_of(now: Progress, model_id: str, lang: str) -> list[Turn]:
    """The turns that show an answer so far."""
    if now.waiting:
        return [page_turn(now.waiting, status="pending")]
    thought, text = split_thinking(now.text, "thinking" in model_id.lower())
    done = now.finish_reason is not None
    turns: list[Turn] = []
    if thought:
        status = "done" if text or done else "pending"
        turns.append(
            page_turn(say("thinking", lang), [text_block(to_page(thought))], status=status)
        )
    if text.strip():
        turns.append(answer_turn(to_page(text)))
    elif done and now.finish_reason != "cancelled":
        turns.append(page_turn(say("empty_answer", lang)))
    elif not done and not thought:
        turns.append(page_turn("…", status="pending"))
    if done:
        turns.append(page_turn(stats_line(now, model_id, lang)))
    return turns


def stats_line(now: Progress, model_id: str, lang: str) -> str:
    """Model, time to first token, tokens per second, prompt and new tokens, why it ended early."""
    parts = [plain(model_id)]
    usage = now.usage
    if usage is not None:
        parts.append(say("stat_ttft", lang, seconds=f"{usage.ttft_s:.2f}"))
        parts.append(say("stat_speed", lang, speed=f"{usage.tokens_per_s:.1f}"))
        cached = say("stat_cached", lang, n=usage.cached_tokens) if usage.cached_tokens else ""
        if usage.prompt_tokens:  # some servers behind --engine remote do not tell
            parts.append(say("stat_prompt", lang, n=usage.prompt_tokens) + cached)
        parts.append(say("stat_new", lang, n=usage.completion_tokens))
    elif now.first_text_s is not None:
        parts.append(say("stat_ttft", lang, seconds=f"{now.first_text_s:.2f}"))
    if now.finish_reason not in ("stop", None):
        parts.append(say(f"end_{now.finish_reason}", lang))
    return " · ".join(parts)


def error_turn(error: UserError, lang: str) -> Turn:
    """A note that says what happened and what to do."""
    hint = say("retry_hint", lang) if isinstance(error, (EngineFailed, StillLoading)) else ""
    return page_turn(say("error", lang), [text_block(plain(f"{error} {hint}".rstrip()))])
