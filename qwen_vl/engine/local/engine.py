"""The local engine: a bounded queue, and one inference thread that loads the model and owns it.

What happens to a request once the thread has it is the `scheduler`'s. Knows nothing of Gradio, HTTP
or files.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from qwen_vl.config import BUNDLED_MODEL, BUNDLED_MODEL_ID, DEFAULT_MODEL, Settings
from qwen_vl.engine.answer import Answer
from qwen_vl.engine.local import preparation
from qwen_vl.engine.local.detokenize import TextStream
from qwen_vl.engine.local.prefill import read_own_texts
from qwen_vl.engine.local.prefix import PrefixStore, token_keys
from qwen_vl.engine.local.preparation import Prepared
from qwen_vl.engine.local.sampler import Sampler
from qwen_vl.engine.local.scheduler import Request, Scheduler
from qwen_vl.engine.local.turns import Turns
from qwen_vl.engine.local.vision import VisionCache, keys_of_examples
from qwen_vl.engine.local.waiting import WaitingRequests
from qwen_vl.engine.model import checkpoint, machine
from qwen_vl.engine.model.load import LoadedModel, has_experts, is_tiny, load
from qwen_vl.engine.model.prompt import Prompt
from qwen_vl.errors import (
    BadRequest,
    Busy,
    ModelUnavailable,
    ShuttingDown,
    StillLoading,
)
from qwen_vl.heap import share_heaps
from qwen_vl.schema import EngineStats, EngineStatus, Message, SamplingParams

MB = 2**20
PIXEL_BYTES = 128 * MB  # of requests that have not been read yet: 30 or so pictures of full HD
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
        self._waiting = WaitingRequests(settings.max_queue)
        self._prefixes = PrefixStore(settings.prefix_cache_mb * MB)
        self._vision = VisionCache(settings.vision_cache_mb * MB)
        self._turns = Turns(max(1, settings.max_queue), self._busy)
        self._failed_s = -math.inf  # when a request last failed, on the monotonic clock
        self._failure = ""
        self._wake = threading.Condition()
        self._admitting: list[Request] = []  # between the queue and the batch
        self._decoding_bytes = 0  # of the pixels of requests that are being prepared
        self._draining = self._closing = False
        share_heaps()
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
        prefixes, vision = self._prefixes, self._vision
        return EngineStats(
            waiting=len(self._waiting),
            running=self._running,
            prefix_hits=prefixes.hits,
            prefix_misses=prefixes.misses,
            prefix_bytes=prefixes.size_bytes,
            vision_hits=vision.hits,
            vision_misses=vision.misses,
            vision_bytes=vision.size_bytes,
            gpu_bytes=sum(map(torch.cuda.memory_allocated, range(torch.cuda.device_count()))),
        )

    @property
    def _running(self) -> int:
        scheduler = self._scheduler
        return scheduler.running if scheduler else 0

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Answer:
        asked_s = time.monotonic()  # decoding pictures is part of the wait
        loaded = self._ready()
        if any(token >= loaded.vocabulary_size for token, _ in params.logit_bias):
            raise BadRequest(
                f"'logit_bias' names a token id that this model does not have: its largest is "
                f"{loaded.vocabulary_size - 1}."
            )
        with self._wake:  # before any work is put into it
            self._check_room(scope)
        prompt = loaded.prompts.build(
            messages, params.max_image_tokens, self._settings.max_context_tokens
        )
        keys = token_keys(prompt, loaded.image_token_id)  # here, not on the inference thread
        prepared = self._prepared(loaded, prompt, keys, scope)
        room = self._settings.max_context_tokens - len(prompt.token_ids)
        answer = Answer(len(prompt.token_ids), self._settings.max_seconds, self._on_close, asked_s)
        request = Request(
            scope,
            prompt,
            keys,
            prepared,
            min(params.max_new_tokens, room),
            answer,
            Sampler(params),
            TextStream(loaded.tokenizer.backend_tokenizer, params.stop),
        )
        with self._wake:
            self._ready()
            self._check_room(scope, prepared.pixel_bytes)
            self._waiting.append(request)
            self._wake.notify()
        return answer

    def _prepared(
        self, loaded: LoadedModel, prompt: Prompt, keys: np.ndarray, scope: str
    ) -> Prepared:
        """What caches hold of the prompt, and the pixels of the rest."""
        prepared = preparation.find(prompt, keys, scope, self._prefixes, self._vision)
        if prepared.missing and loaded.prompts.reader is not None:
            more_bytes = sum(prompt.pictures[i].pixel_bytes for i in prepared.missing)
            with self._wake:
                self._check_room(scope, more_bytes)
                self._decoding_bytes += more_bytes
            try:
                with self._turns.turn(scope):
                    preparation.decode(prompt, prepared, loaded.prompts.reader)
            finally:
                with self._wake:
                    self._decoding_bytes -= more_bytes
        return prepared

    def _check_room(self, scope: str, more_bytes: int = 0) -> None:
        """Raises Busy if one more request, with so many bytes of pixels, may not wait."""
        read = sum(not other.tokens for other in self._admitting)  # no row of the batch yet
        idle = self._running + read + len(self._waiting) < self._settings.max_batch
        if not idle and self._waiting.is_full(scope, new_pictures=more_bytes > 0):
            raise self._busy()
        others = sum(other.prepared.pixel_bytes for other in (*self._waiting, *self._admitting))
        others_bytes = others + self._decoding_bytes
        if others_bytes and more_bytes and others_bytes + more_bytes > PIXEL_BYTES:
            raise self._busy()

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
            self._waiting.forget(answer)

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
            self._loaded,
            self._settings,
            self._prefixes,
            self._vision,
            self._failed,
            lambda: self._closing,
            self._quick_ones,
        )
        self._vision.examples = keys_of_examples(self._settings)
        read_own_texts(self._loaded, self._settings.system_prompt, self._prefixes)
        while not self._closing:
            with self._wake:
                while not (scheduler.running or self._waiting or self._closing):
                    self._wake.wait()
                # Before anybody asks `_busy_now`.
                self._admitting = [] if self._closing else self._waiting.take(scheduler)
            scheduler.admit(self._admitting)
            self._admitting = []
            scheduler.step()

    def _quick_ones(self) -> list[Request]:
        """One waiting request that takes no time, while a longer prefill is under way."""
        scheduler = self._scheduler
        assert scheduler is not None
        with self._wake:
            taken = self._waiting.take_quick(scheduler)
            self._admitting = [*self._admitting, *taken]
            return taken

    def _failed(self, told: str) -> None:
        self._failed_s, self._failure = time.monotonic(), f"A request failed ({told})"

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
