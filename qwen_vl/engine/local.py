"""The local engine: a bounded queue, and one inference thread that loads the model and owns it.

What happens to a request once the thread has it is the `scheduler`'s. Knows nothing of Gradio, HTTP
or files.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import torch

from qwen_vl.config import BUNDLED_MODEL, BUNDLED_MODEL_ID, DEFAULT_MODEL, Settings
from qwen_vl.engine import checkpoint, machine
from qwen_vl.engine.detokenize import TextStream
from qwen_vl.engine.model import LoadedModel, has_experts, is_tiny, load
from qwen_vl.engine.prefill import fit_together
from qwen_vl.engine.prefix import token_keys
from qwen_vl.engine.request import Answer
from qwen_vl.engine.sampling import Sampler
from qwen_vl.engine.scheduler import Request, Scheduler
from qwen_vl.errors import (
    BadRequest,
    Busy,
    ModelUnavailable,
    ShuttingDown,
    StillLoading,
    TooLarge,
)
from qwen_vl.schema import EngineStats, EngineStatus, Message, SamplingParams

WAITING_BYTES = 2 * 2**30  # of the pictures of waiting requests
CLOSE_S = 60.0  # for the part of a prefill that is under way
DEGRADED_S = 60.0  # how long a failed request shows in the status

log = logging.getLogger(__name__)


class LocalEngine:
    """An `Engine` (see the package) over a model in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        named = settings.model or DEFAULT_MODEL
        model_id = BUNDLED_MODEL_ID if named == BUNDLED_MODEL else named
        self._status = EngineStatus("loading", model_id, detail="Starting")
        self._loaded: LoadedModel | None = None
        self._scheduler: Scheduler | None = None
        self._waiting: deque[Request] = deque()
        self._failed_s = -math.inf  # when a request last failed, on the monotonic clock
        self._failure = ""
        self._wake = threading.Condition()
        self._admitting: list[Request] = []  # between the queue and the batch
        self._draining = self._closing = False
        machine.share_heaps()
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
        scheduler = self._scheduler
        return replace(
            scheduler.stats() if scheduler else EngineStats(),
            waiting=len(self._waiting),
            gpu_bytes=sum(map(torch.cuda.memory_allocated, range(torch.cuda.device_count()))),
        )

    @property
    def _running(self) -> int:
        scheduler = self._scheduler
        return scheduler.running if scheduler else 0

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Answer:
        asked_s = time.monotonic()  # making a prompt of pictures is part of the wait
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
        answer = Answer(len(prompt.token_ids), self._settings.max_seconds, self._on_close, asked_s)
        request = Request(
            prompt,
            token_keys(prompt, loaded.image_token_id),  # here, not on the inference thread
            min(params.max_new_tokens, room),
            answer,
            Sampler(params),
            TextStream(loaded.tokenizer.backend_tokenizer, params.stop),
        )
        with self._wake:
            self._ready()
            read = sum(not other.tokens for other in self._admitting)  # no row of the batch yet
            idle = self._running + read + len(self._waiting) < self._settings.max_batch
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
        # A model that is being loaded is given up at its next report, which may be a while.
        self._thread.join(0 if self._status.state == "loading" else CLOSE_S)

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
        if self._closing:
            raise ModelUnavailable("The server is shutting down.")
        self._status = replace(self._status, detail=detail, progress=progress)

    def _died(self, error: BaseException) -> None:
        self._status = replace(
            self._status,
            state="failed",
            detail=f"The inference thread has died ({type(error).__name__}): restart the server.",
        )

    def _serve(self) -> None:
        assert self._loaded is not None
        scheduler = self._scheduler = Scheduler(
            self._loaded, self._settings, self._failed, lambda: self._closing
        )
        while not self._closing:
            self._admitting = self._next_waiting(scheduler)
            scheduler.admit(self._admitting)
            self._admitting = []
            scheduler.step()

    def _next_waiting(self, scheduler: Scheduler) -> list[Request]:
        """The next request, and those right behind it that can be prefilled with it.

        Waits for one while nobody else has anything to do.
        """
        with self._wake:
            while not (scheduler.running or self._waiting or self._closing):
                self._wake.wait()
            if self._closing or not self._waiting or not scheduler.room:
                return []
            taken = self._admitting = [self._waiting.popleft()]  # before anybody asks `_busy_now`
            if not self._waiting:
                return taken
            keys, found = [taken[0].keys], [scheduler.found(taken[0])]
            while self._waiting and len(taken) < scheduler.room:
                keys.append(self._waiting[0].keys)
                found.append(scheduler.found(self._waiting[0]))
                if not fit_together(keys, found):
                    break
                taken.append(self._waiting.popleft())
            return taken

    def _failed(self, told: str) -> None:
        self._failed_s, self._failure = time.monotonic(), f"A request failed: {told}"

    def _end_all(self) -> None:
        cause = None if self._closing else ModelUnavailable(self._status.detail)
        with self._wake:
            unanswered = [*self._admitting, *self._waiting]
            self._waiting.clear()
        for request in unanswered:
            if cause is None:
                request.finish("cancelled")
            else:
                request.answer.fail(cause)
        if self._scheduler is not None:
            self._scheduler.end(cause)
        self._scheduler = self._loaded = None  # with them goes the memory
