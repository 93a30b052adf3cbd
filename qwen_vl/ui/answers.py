"""One answer on its way from the engine to the page: throttled and stoppable.

Knows the Engine protocol and the shape of chat turns. Knows nothing of Gradio's components, so it
is tested without a browser.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from qwen_vl.engine import Engine
from qwen_vl.errors import Bug, EngineFailed, ModelUnavailable, StillLoading, UserError
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, EngineStatus, FinishReason, Message, Usage
from qwen_vl.ui.history import Turn, answer_turn, page_turn, text_block, thought_turn
from qwen_vl.ui.markup import plain, to_page
from qwen_vl.ui.refusals import told
from qwen_vl.ui.runs import Asking, Run
from qwen_vl.ui.strings import say
from qwen_vl.ui.waiting import waiting_words

UPDATE_S = 0.06  # between two updates of the page: about 16 a second
WAIT_S = 0.5  # between two looks at a model that is loading or has not begun to answer
LAST_CHUNK_S = 1.0  # how long a stopped answer waits for its figures


@dataclass(frozen=True)
class Progress:
    """An answer so far. The page shows `waiting` until there is text."""

    text: str = ""
    thought: str = ""
    waiting: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    first_s: float | None = None  # the page's own clock, for answers that were stopped
    thought_s: float = 0.0  # how long the thought has taken

    @property
    def begun(self) -> bool:
        return bool(self.text or self.thought)


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

    After `run.stop()` it ends at once, as "cancelled", with the text so far. Errors pass through.
    """
    yield from wait_until_ready(engine, run, lang)
    if run.stopped:
        yield Progress(finish_reason="cancelled")
        return
    started = time.monotonic()
    asking = Asking(engine, messages, params, scope)
    del messages  # the pictures may be large
    run.attach(asking)
    now = Progress()
    try:
        while now.finish_reason is None:
            chunk = _next_chunk(asking, run, UPDATE_S if now.begun else WAIT_S)
            if chunk is not None:
                now = _add(now, chunk, started)
            if run.stopped:
                now = _ended(asking, now, started)
            elif chunk is not None:
                yield now
            elif not now.begun:
                waited_s = time.monotonic() - started
                yield Progress(waiting=waiting_words(asking.standing, waited_s, lang))
        if run.stopped:
            yield now
    except Bug:
        raise EngineFailed(say("broken", lang)) from None
    finally:
        asking.close()


def _next_chunk(asking: Asking, run: Run, timeout_s: float) -> Chunk | None:
    """All chunks that come within `timeout_s` as one; None if none did."""
    end_s = time.monotonic() + timeout_s
    got: list[Chunk] = []
    while (left_s := end_s - time.monotonic()) > 0 and not run.stopped:
        try:
            chunk = asking.get(min(left_s, UPDATE_S))
        except UserError:
            if not got and not run.stopped:
                raise
            break  # the text first; the error comes again next time
        if chunk is None:
            continue
        if not got:  # the first text is shown soon, the rest in a rhythm
            end_s = min(end_s, time.monotonic() + UPDATE_S)
        got.append(chunk)
        if chunk.finish_reason is not None:
            break
    if not got:
        return None
    text, thought = ("".join(getattr(one, name) for one in got) for name in ("text", "thought"))
    return replace(got[-1], text=text, thought=thought)


def _ended(asking: Asking, now: Progress, started: float) -> Progress:
    """A stopped answer. Its last chunk comes at once, with the usage."""
    end_s = time.monotonic() + LAST_CHUNK_S
    with contextlib.suppress(UserError):  # there was no answer yet, or it failed
        while now.finish_reason is None and (left_s := end_s - time.monotonic()) > 0:
            chunk = asking.get(left_s)
            if chunk is not None:
                now = _add(now, chunk, started)
    return replace(now, finish_reason="cancelled")


def _add(now: Progress, chunk: Chunk, started: float) -> Progress:
    now_s = time.monotonic() - started
    first_s = now.first_s
    if first_s is None and (chunk.text or chunk.thought):
        first_s = now_s
    told = Progress(
        text=now.text + chunk.text,
        thought=now.thought + chunk.thought,
        finish_reason=chunk.finish_reason,
        usage=chunk.usage,
        first_s=first_s,
        thought_s=now.thought_s,
    )
    thinks_still = told.thought and not now.text
    return replace(told, thought_s=now_s - (first_s or now_s)) if thinks_still else told


def turns_of(now: Progress, status: EngineStatus, lang: str) -> list[Turn]:
    """The turns that show an answer so far; `status` describes the model that writes it."""
    if now.waiting:
        return [page_turn(now.waiting, status="pending")]
    done = now.finish_reason is not None
    turns: list[Turn] = []
    if now.thought:
        over = done or bool(now.text)
        title = say("thought" if over else "thinking", lang, seconds=f"{now.thought_s:.0f}")
        turns.append(thought_turn(title, to_page(now.thought), is_over=over))
    if now.text.strip():
        turns.append(answer_turn(to_page(now.text)))
    elif done and now.finish_reason != "cancelled":
        turns.append(page_turn(say("empty_answer", lang)))
    elif not done and not now.thought:
        turns.append(page_turn("…", status="pending"))
    if done:
        turns.append(page_turn(stats_line(now, status.model_id, lang)))
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
    elif now.first_s is not None:
        parts.append(say("stat_ttft", lang, seconds=f"{now.first_s:.2f}"))
    if now.finish_reason not in ("stop", None):
        parts.append(say(f"end_{now.finish_reason}", lang))
    return " · ".join(parts)


def error_turn(error: UserError, lang: str) -> Turn:
    """A note that says what happened and what to do."""
    hint = say("retry_hint", lang) if isinstance(error, (EngineFailed, StillLoading)) else ""
    return page_turn(
        say("error", lang), [text_block(plain(f"{told(error, lang)} {hint}".rstrip()))]
    )
