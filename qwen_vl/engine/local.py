"""The local engine: one inference thread that loads the model, owns it and answers everybody.

Requests wait in a bounded queue, are prefilled one by one and then decode together (`batching`).
What goes wrong in one request ends that request. Knows nothing of Gradio, HTTP or files.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from qwen_vl.config import BUNDLED_MODEL, BUNDLED_MODEL_ID, DEFAULT_MODEL, Settings
from qwen_vl.engine import checkpoint, machine
from qwen_vl.engine.batching import Batch, Row
from qwen_vl.engine.detokenize import TextStream
from qwen_vl.engine.loops import is_looping
from qwen_vl.engine.model import LoadedModel, has_experts, is_tiny, load
from qwen_vl.engine.prefill import (
    Prefilled,
    VisionCache,
    fit_together,
    prefill,
    prefill_together,
)
from qwen_vl.engine.prefix import PrefixStore, token_keys
from qwen_vl.engine.prompt import Prompt
from qwen_vl.engine.request import Answer
from qwen_vl.engine.sampling import Sampler
from qwen_vl.errors import (
    BadRequest,
    Busy,
    EngineFailed,
    ModelUnavailable,
    ShuttingDown,
    StillLoading,
    TooLarge,
)
from qwen_vl.schema import EngineStats, EngineStatus, Message, SamplingParams

MB = 2**20
WAITING_BYTES = 2 * 2**30  # of the pictures of waiting requests
DEGRADED_S = 60.0  # how long a failed request shows in the status

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Request:
    """What the inference thread needs to answer one prompt."""

    prompt: Prompt
    keys: np.ndarray  # of the prompt's tokens, for the prefix store
    max_new_tokens: int
    answer: Answer
    sampler: Sampler
    text: TextStream
    tokens: list[int] = field(default_factory=list)  # generated; the last is not in the cache yet


class LocalEngine:
    """An `Engine` (see the package) over a model in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        named = settings.model or DEFAULT_MODEL
        model_id = BUNDLED_MODEL_ID if named == BUNDLED_MODEL else named
        self._status = EngineStatus("loading", model_id, detail="Starting")
        self._loaded: LoadedModel | None = None
        self._waiting: deque[_Request] = deque()
        self._running: dict[Row, _Request] = {}
        self._vision: VisionCache | None = None
        self._prefixes = PrefixStore(settings.prefix_cache_mb * MB)
        self._failed_s = -math.inf  # when a request last failed, on the monotonic clock
        self._failure = ""
        self._wake = threading.Condition()
        machine.share_heaps()
        self._admitting = False  # a request is between the queue and the batch
        self._draining = self._closing = False
        self._thread = threading.Thread(target=self._main, name="inference", daemon=True)
        self._thread.start()

    # --- any thread ---

    @property
    def model_id(self) -> str:
        return self._status.model_id

    def status(self) -> EngineStatus:
        status = self._status
        if status.state == "ready" and time.monotonic() - self._failed_s < DEGRADED_S:
            return replace(status, state="degraded", detail=self._failure)
        return status

    def stats(self) -> EngineStats:
        vision, prefixes = self._vision, self._prefixes
        return EngineStats(
            waiting=len(self._waiting),
            running=len(self._running),
            prefix_hits=prefixes.hits,
            prefix_misses=prefixes.misses,
            prefix_bytes=prefixes.size_bytes,
            vision_hits=vision.hits if vision else 0,
            vision_misses=vision.misses if vision else 0,
            vision_bytes=vision.size_bytes if vision else 0,
            gpu_bytes=sum(map(torch.cuda.memory_allocated, range(torch.cuda.device_count()))),
        )

    def stream(self, messages: Sequence[Message], params: SamplingParams) -> Answer:
        loaded = self._ready()
        if len(self._waiting) >= max(1, self._settings.max_queue):  # before work is put into it
            raise self._busy()
        if any(token >= loaded.vocabulary_size for token, _ in params.logit_bias):
            raise BadRequest(
                f"'logit_bias' names a token id that this model does not have: its largest is "
                f"{loaded.vocabulary_size - 1}."
            )
        prompt = loaded.prompts.build(messages, params.max_image_tokens)
        room = self._settings.max_context_tokens - len(prompt.token_ids)
        if room < 1:
            raise TooLarge(
                f"The conversation has {len(prompt.token_ids):,} tokens, more than the limit of "
                f"{self._settings.max_context_tokens:,}: use fewer or smaller pictures (image "
                "detail), or start a new conversation."
            )
        answer = Answer(len(prompt.token_ids), self._settings.max_seconds, self._on_close)
        request = _Request(
            prompt,
            token_keys(prompt, loaded.image_token_id),  # here, not on the inference thread
            min(params.max_new_tokens, room),
            answer,
            Sampler(params),
            TextStream(loaded.tokenizer.backend_tokenizer, params.stop),
        )
        with self._wake:
            self._ready()
            idle = len(self._running) + len(self._waiting) < self._settings.max_batch
            if not idle and len(self._waiting) >= self._settings.max_queue:
                raise self._busy()
            waiting_bytes = sum(other.prompt.picture_bytes for other in self._waiting)
            more_bytes = prompt.picture_bytes
            if waiting_bytes and more_bytes and waiting_bytes + more_bytes > WAITING_BYTES:
                raise self._busy()
            self._waiting.append(request)
            self._wake.notify()
        return answer

    def drain(self, seconds: float) -> None:
        self._draining = True
        end_s = time.monotonic() + seconds
        while self._busy_now() and time.monotonic() < end_s:
            time.sleep(0.05)

    def _busy_now(self) -> bool:
        with self._wake:
            return bool(self._waiting or self._running or self._admitting)

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=60)

    def _ready(self) -> LoadedModel:
        status = self._status
        if status.state == "loading":
            raise StillLoading(
                f"{status.model_id} is still loading ({status.detail}): try again in a moment."
            )
        if self._draining:
            raise ShuttingDown
        if status.state == "failed" or self._loaded is None or self._closing:
            raise ModelUnavailable(status.detail or "The server is shutting down.")
        return self._loaded

    def _busy(self) -> Busy:
        return Busy(
            f"{len(self._waiting)} requests are waiting already, no more are taken: try again in "
            f"{Busy.retry_after_s} seconds."
        )

    def _on_close(self, answer: Answer) -> None:
        with self._wake:
            self._waiting = deque(r for r in self._waiting if r.answer is not answer)

    # --- the inference thread ---

    def _main(self) -> None:
        try:
            self._load()
        except ModelUnavailable as error:
            log.error("%s", error)
            self._status = replace(self._status, state="failed", detail=str(error), progress=None)
            return
        except BaseException as error:
            self._died(error)
            raise
        try:
            with torch.inference_mode():
                self._serve()
        except BaseException as error:
            self._died(error)
            raise
        finally:
            self._end_all()

    def _load(self) -> None:
        found = checkpoint.find(self._settings, self._report)
        self._status = replace(self._status, model_id=found.model_id, notice=found.notice)
        choice = machine.choose(
            self._settings, tiny=is_tiny(found.folder), has_experts=has_experts(found.folder)
        )
        self._report("Reading the model", None)
        loaded = load(found, choice, self._report)
        self._loaded = loaded
        threads = f", {choice.threads} threads" if loaded.device.type == "cpu" else ""
        self._status = replace(
            self._status,
            state="ready",
            detail="",
            progress=None,
            device=loaded.device.type,
            dtype=choice.precision,
            reason=choice.reason + threads,
            accepts_images=loaded.accepts_images,
        )
        log.info(
            "%s on %s in %s: %s",
            found.model_id,
            loaded.device,
            choice.precision,
            self._status.reason,
        )
        if found.notice:
            log.warning("%s", found.notice)

    def _report(self, detail: str, progress: float | None) -> None:
        self._status = replace(self._status, detail=detail, progress=progress)

    def _died(self, error: BaseException) -> None:
        self._status = replace(
            self._status,
            state="failed",
            detail=f"The inference thread has died ({type(error).__name__}): restart the server.",
        )

    def _serve(self) -> None:
        assert self._loaded is not None
        batch = Batch(self._loaded)
        vision = VisionCache(self._loaded, self._settings.vision_cache_mb * MB)
        self._vision = vision
        while not self._closing:
            requests = self._next_waiting(block=not batch.rows)
            if len(requests) > 1 and not self._admit_together(requests, batch):
                requests = [request for request in requests if request.answer.wanted]
                for request in requests:
                    self._admit(request, batch, vision)
            elif len(requests) == 1:
                self._admit(requests[0], batch, vision)
            self._admitting = False
            self._step(batch)

    def _next_waiting(self, block: bool) -> list[_Request]:
        """The next request, and those right behind it that can be prefilled with it."""
        with self._wake:
            while block and not self._waiting and not self._closing:
                self._wake.wait()
            room = self._settings.max_batch - len(self._running)
            if self._closing or not self._waiting or room < 1:
                return []
            self._admitting = True
            taken = [self._waiting.popleft()]
            found = [self._prefixes.found(taken[0].keys)]
            while self._waiting and len(taken) < room:
                keys = self._waiting[0].keys
                found.append(self._prefixes.found(keys))
                if not fit_together([*(request.keys for request in taken), keys], found):
                    break
                taken.append(self._waiting.popleft())
            return taken

    def _admit_together(self, requests: Sequence[_Request], batch: Batch) -> bool:
        """Prefills them in one pass; False if that failed, and then they can be tried alone."""
        assert self._loaded is not None
        for request in requests:
            request.answer.start()
        starts = [self._prefixes.longest(request.keys) for request in requests]
        try:
            result = prefill_together(self._loaded, [one.prompt for one in requests], starts)
        except Exception as error:  # alone, only the one at fault fails
            log.warning("requests failed together, each is tried alone", exc_info=error)
            return False
        try:
            self._begin(requests, result, batch)
        except Exception as error:  # noqa: BLE001 - these requests' failure must not end the others
            self._fail(requests, error)
        return True

    def _begin(self, requests: Sequence[_Request], result: Prefilled, batch: Batch) -> None:
        """Takes prefilled requests into the batch, with their first tokens."""
        batch.join(result.rows, result.cache)
        self._running.update(zip(result.rows, requests, strict=True))
        for i, request in enumerate(requests):
            request.prompt.pictures.clear()  # the cache has them now
            request.answer.cached_tokens = result.cached_tokens[i]
            # At once: others may be asking the same now.
            self._prefixes.put(request.keys, batch.states(result.rows[i]))
            self._accept(request, request.sampler.next_token(result.logits[i]))

    def _admit(self, request: _Request, batch: Batch, vision: VisionCache) -> None:
        assert self._loaded is not None
        answer = request.answer
        answer.start()
        try:
            parts = prefill(
                self._loaded, vision, request.prompt, self._prefixes.longest(request.keys)
            )
            while (result := _next_part(parts)) is None:
                self._step(batch)
                if answer.out_of_time:
                    answer.finish("timeout")
                if not answer.wanted:
                    return
            self._begin([request], result, batch)
        except Exception as error:  # noqa: BLE001 - this request's failure must not end the others
            self._fail([request], error)

    def _step(self, batch: Batch) -> None:
        """One more token for everybody who is in the batch."""
        self._drop_ended(batch)
        if not batch.rows:
            return
        requests = [self._running[row] for row in batch.rows]
        try:
            logits = batch.step([request.tokens[-1] for request in requests])
            for request, scores in zip(requests, logits, strict=True):
                self._accept(request, request.sampler.next_token(scores))
        except Exception as error:  # noqa: BLE001 - the engine must outlive a step that breaks
            self._fail(requests, error)
            self._running.clear()
            batch.leave(batch.rows)
            return
        self._drop_ended(batch)

    def _drop_ended(self, batch: Batch) -> None:
        """Takes ended rows out; what they hold is kept for the next turn."""
        for request in self._running.values():
            if request.answer.out_of_time:
                self._finish(request, "timeout")
        gone = [row for row in batch.rows if not self._running[row].answer.wanted]
        for row in gone:
            request = self._running.pop(row)
            written = row.length - len(request.keys)
            self._prefixes.put(np.append(request.keys, request.tokens[:written]), batch.states(row))
        if gone:
            batch.leave(gone)

    def _accept(self, request: _Request, token: int) -> bool:
        """Takes a generated token in; False when the answer has ended with it."""
        assert self._loaded is not None
        answer = request.answer
        answer.count_token()
        request.tokens.append(token)
        if token in self._loaded.end_ids:
            return self._finish(request, "stop")
        answer.emit(request.text.push(token))
        if request.text.stopped:
            return self._finish(request, "stop")
        if len(request.tokens) >= request.max_new_tokens:
            return self._finish(request, "length")
        if is_looping(request.tokens):
            return self._finish(request, "repetition")
        return answer.wanted

    def _finish(self, request: _Request, reason: str) -> bool:
        if not request.text.stopped:
            request.answer.emit(request.text.flush())
        request.answer.finish(reason)  # type: ignore[arg-type]
        return False

    def _fail(self, requests: Sequence[_Request], error: Exception) -> None:
        log.error("a request failed", exc_info=error)
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            told = EngineFailed(
                "There was not enough memory for this answer: use fewer or smaller pictures "
                "(image detail), or start a new conversation."
            )
        else:
            told = EngineFailed("The model failed on this request. The server's log says why.")
        self._failed_s, self._failure = time.monotonic(), f"A request failed: {told}"
        for request in requests:
            request.answer.fail(told)

    def _end_all(self) -> None:
        with self._wake:
            left = [*self._waiting, *self._running.values()]
            self._waiting.clear()
            self._running.clear()
        for request in left:
            if self._closing:
                self._finish(request, "cancelled")
            else:
                request.answer.fail(ModelUnavailable(self._status.detail))


def _next_part(parts: Generator[None, None, Prefilled]) -> Prefilled | None:
    """Runs one more part of a prefill; the result once it was the last."""
    try:
        next(parts)
    except StopIteration as finished:
        return finished.value
    return None
