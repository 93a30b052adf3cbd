"""An engine for ZeroGPU Spaces: each answer is written where there is a GPU, in a call of its own.

All of ZeroGPU is in this file. Its rules, from the source of the package `spaces` (0.51.3):

- It is imported before anything touches CUDA, and then only pretends that there is a GPU.
- The model is put on "cuda" by the thread that imported it, before the page is launched.
- Only a decorated function has a GPU: in a fork of this process, for the seconds that it asked
  for. Then the fork is killed.
- What goes in and what comes out is pickled.
- Whoever asks pays with a quota of their own. So each request is one call, and none is batched
  with those of others; the context of the page's request, which names the visitor, goes along.

Knows nothing of HTTP or of how a model works.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass, replace

import spaces  # before torch
import torch
from gradio import Error
from PIL import Image

from qwen_vl.config import BUNDLED_MODEL, BUNDLED_MODEL_ID, DEFAULT_MODEL, Settings
from qwen_vl.engine.answer import Answer, written
from qwen_vl.engine.local.engine import LocalEngine
from qwen_vl.engine.model import checkpoint
from qwen_vl.engine.model.load import LoadedModel, load
from qwen_vl.engine.model.machine import Choice, usable_cores
from qwen_vl.errors import (
    Busy,
    EngineFailed,
    ModelUnavailable,
    ShuttingDown,
    UserError,
)
from qwen_vl.families import BUNDLED, DEFAULT
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, Cost, EngineStats, EngineStatus, FramePair, ImagePart, Message

Item = Chunk | UserError | None  # what comes out of a call

log = logging.getLogger(__name__)

START_S = 15  # for the fork and the weights, which come from the disk
READ_TOKENS_PER_S = 4000  # careful: an H200 reads an 8B model's prompts four times as fast
WRITE_TOKENS_PER_S = 20  # careful: it writes 33
MOST_S = 120  # longer calls are refused to visitors without a subscription
LOOK_S = 0.2  # how soon a call notices that nobody waits for it any more
RETRY_S = 60  # GPUs come free within minutes, quotas within hours
REASON = "ZeroGPU: each answer gets a GPU for as long as it takes"


# --- in the process of a call ---


@dataclass(frozen=True)
class _Held:
    """What forks inherit."""

    settings: Settings
    loaded: LoadedModel
    status: EngineStatus


_held: _Held | None = None
_here: LocalEngine | None = None  # in a fork, which may serve several calls


class _Forked(LocalEngine):
    """The local engine, over the model that this process was forked with."""

    def _load(self) -> None:
        assert _held is not None
        device = _held.loaded.model.get_input_embeddings().weight.device
        self._use(replace(_held.loaded, device=device))
        self._status = _held.status


def _engine() -> LocalEngine:
    global _here
    if _here is None:
        assert _held is not None, "the model is loaded before anything is asked"
        torch.set_num_threads(1)  # OpenMP's team did not come along
        _here = _Forked(_held.settings)
        while _here.status().state == "loading":
            time.sleep(0.01)
    return _here


def _granted_s(_: object, __: object, ___: object, seconds: int) -> int:
    return seconds


@spaces.GPU(duration=_granted_s)
def write_on_gpu(
    messages: Sequence[Message], params: SamplingParams, scope: str, seconds: int
) -> Iterator[Item]:
    """Chunks of one answer, or the UserError that ends it; None now and then, while it waits.

    It ends in time, with the text so far. At `seconds` this process would be killed.
    """
    end_s = time.monotonic() + seconds - START_S
    answer = None
    try:
        answer = _engine().stream(messages, params, scope)
        while True:
            chunk = answer.get(LOOK_S)
            if chunk is not None and chunk.finish_reason:
                timely = chunk.finish_reason != "cancelled"  # nobody but the clock closes it here
                yield chunk if timely else replace(chunk, finish_reason="timeout")
                return
            yield chunk
            if time.monotonic() > end_s:
                answer.close()
    except UserError as error:
        yield error
    finally:
        if answer is not None:
            answer.close()


# --- in the server's process, which has no GPU ---


class ZeroEngine:
    """An `Engine` (see the package). Opening it loads the model, as ZeroGPU wants it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        named = settings.model or DEFAULT_MODEL
        bundled = named == BUNDLED_MODEL
        model_id, family = (BUNDLED_MODEL_ID, BUNDLED) if bundled else (named, DEFAULT)
        self._status = EngineStatus("loading", model_id, family=family)
        self._lock = threading.Lock()
        self._answers: set[Answer] = set()
        self._draining = False
        try:
            self._load()
        except ModelUnavailable as error:
            log.error("%s", error)
            self._status = replace(self._status, state="failed", detail=str(error))

    def _load(self) -> None:
        global _held
        settings = self._settings
        dtype = torch.bfloat16 if settings.dtype == "auto" else getattr(torch, settings.dtype)
        choice = Choice("cpu", dtype, usable_cores(), REASON)
        found = checkpoint.find(settings, lambda detail, _: log.info("%s", detail))
        loaded = load(found, choice, lambda *_: None)
        loaded.model.to("cuda")
        self._status = EngineStatus(
            state="ready",
            model_id=found.model_id,
            notice=found.notice,
            device="cuda",
            dtype=choice.precision,
            reason=REASON,
            family=loaded.family,
            most_image_tokens=loaded.most_image_tokens,
            context_tokens=loaded.context_tokens,
        )
        _held = _Held(settings, loaded, self._status)

    @property
    def model_id(self) -> str:
        return self._status.model_id

    def status(self) -> EngineStatus:
        return self._status

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self._answers))

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Answer:
        asked_s = time.monotonic()
        if self._draining:
            raise ShuttingDown
        if self._status.state == "failed" or _held is None:
            raise ModelUnavailable(self._status.detail)
        # Counted here: what is too large is refused before a GPU is asked for.
        prompt = _held.loaded.prompts.build(
            messages, params, self._status.most_tokens(self._settings.max_context_tokens)
        )
        tokens = len(prompt.token_ids)
        seconds = reckoned_s(tokens, params.max_new_tokens)
        answer = Answer(tokens, asked_s=asked_s)
        with self._lock:
            if len(self._answers) >= self._settings.max_batch + self._settings.max_queue:
                raise Busy("Too many people are asking: try again in a moment.")
            self._answers.add(answer)
        try:
            decoded = [_decoded(message) for message in messages]
        except UserError:
            self._answers.discard(answer)
            raise
        context = copy_context()  # names the visitor whose quota it is
        write = (self._write, answer, decoded, params, scope, seconds)
        threading.Thread(target=context.run, args=write, name="zero", daemon=True).start()
        return answer

    def count(self, messages: Sequence[Message], params: SamplingParams, scope: str = "") -> Cost:
        if self._status.state == "failed" or _held is None:
            raise ModelUnavailable(self._status.detail)
        prompt = _held.loaded.prompts.build(messages, params)
        return Cost(
            len(prompt.token_ids),
            tuple(picture.tokens for picture in prompt.pictures),
            self._status.most_tokens(self._settings.max_context_tokens),
        )

    def drain(self, seconds: float) -> None:
        self._draining = True
        end_s = time.monotonic() + seconds
        while self._answers and time.monotonic() < end_s:
            time.sleep(0.05)

    def close(self) -> None:
        self._draining = True
        for answer in tuple(self._answers):
            answer.close()

    def _write(
        self,
        answer: Answer,
        messages: Sequence[Message],
        params: SamplingParams,
        scope: str,
        seconds: int,
    ) -> None:
        try:
            with written(answer), closing(write_on_gpu(messages, params, scope, seconds)) as call:
                _pass_on(call, answer)
        finally:
            self._answers.discard(answer)


def reckoned_s(prompt_tokens: int, new_tokens: int) -> int:
    """Seconds of a GPU that an answer may need. It pays for those that it takes."""
    needed_s = prompt_tokens / READ_TOKENS_PER_S + new_tokens / WRITE_TOKENS_PER_S
    return min(MOST_S, START_S + max(5, round(needed_s)))


def _pass_on(call: Iterator[Item], answer: Answer) -> None:
    """From the call to the answer, until that has ended or nobody wants it any more."""
    try:
        for item in call:
            if not answer.wanted:
                return
            if isinstance(item, UserError):
                raise item
            if item is None:
                continue
            if item.finish_reason:
                answer.finish(item.finish_reason, item.usage)
            else:
                answer.count_token(bool(item.thought))
                answer.emit(item.text, item.thought, item.logprobs, item.calls)
    except Error as refused:
        raise _in_words(refused) from refused


def _in_words(refused: Error) -> UserError:
    """What `spaces` says to Gradio's page -> what everybody is told."""
    if refused.message == "GPU task aborted":
        return EngineFailed(
            "The GPU was taken back before the answer's end: ask for fewer new tokens, or again."
        )
    if refused.title == "ZeroGPU worker error":  # the log has the traceback
        return EngineFailed(f"The process with the GPU failed ({refused.message}): try again.")
    busy = Busy(f"{refused.title}: {refused.message}")
    busy.retry_after_s = RETRY_S
    return busy


def _decoded(message: Message) -> Message:
    """With pixels in place of what can be decoded: that is what can be pickled."""

    def pixels(part: ImagePart) -> ImagePart:
        source = part.source
        if isinstance(source, FramePair):
            return replace(part, source=FramePair(pixels(source.first), pixels(source.second)))
        return part if isinstance(source, Image.Image) else replace(part, source=part.image)

    parts = (pixels(part) if isinstance(part, ImagePart) else part for part in message.parts)
    return replace(message, parts=tuple(parts))
