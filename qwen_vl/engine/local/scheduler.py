"""Who gets a token next: new requests are prefilled, all rows decode together, ended ones leave.

Keeps what prompts and answers leave behind for later ones. What goes wrong in one request ends that
request. Runs on the inference thread alone; knows nothing of queues, threads or loading.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from qwen_vl.config import Settings
from qwen_vl.engine.answer import Answer
from qwen_vl.engine.local.batch import Batch, Row
from qwen_vl.engine.local.detokenize import TextStream
from qwen_vl.engine.local.loops import is_looping
from qwen_vl.engine.local.prefill import (
    Prefilled,
    chunk_tokens,
    next_part,
    prefill,
    prefill_together,
)
from qwen_vl.engine.local.prefix import LayerStates, PrefixStore
from qwen_vl.engine.local.preparation import Prepared
from qwen_vl.engine.local.sampler import Sampler
from qwen_vl.engine.local.vision import Features, VisionCache, between_blocks
from qwen_vl.engine.model import machine
from qwen_vl.engine.model.load import LoadedModel
from qwen_vl.engine.model.prompt import Prompt
from qwen_vl.errors import EngineFailed, UserError
from qwen_vl.heap import trim_heap
from qwen_vl.schema import FinishReason

BREATH_S = 0.1  # of encoding one picture, before the others get a step
TRIMMED_BYTES = 256 * 2**20  # smaller caches leave holes that the next one fills

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Request:
    """What it takes to answer one prompt."""

    scope: str
    prompt: Prompt
    keys: np.ndarray  # of the prompt's tokens, for the prefix store
    prepared: Prepared
    max_new_tokens: int
    answer: Answer
    sampler: Sampler
    text: TextStream
    tokens: list[int] = field(default_factory=list)  # generated; the last is not in the cache yet
    broken: bool = False  # its states may be anything
    queued_s: float = field(default_factory=time.monotonic)

    def finish(self, reason: FinishReason) -> None:
        """Ends the answer with all text that there is."""
        if not self.text.stopped:
            self.answer.emit(self.text.flush())
        self.answer.finish(reason)


class _Unwanted(Exception):
    """Ends a prefill that is under way."""


class Scheduler:
    """The running batch; fills the stores of prefixes and pictures.

    `on_failure` is told in words when a request broke; `is_closing` says that no answer is wanted
    any more. `quick_ones` takes waiting requests that hold nobody up out of the queue: those are
    let in between the parts of a longer prefill.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: Settings,
        prefixes: PrefixStore,
        vision: VisionCache,
        on_failure: Callable[[str], None],
        is_closing: Callable[[], bool],
        quick_ones: Callable[[], Sequence[Request]],
    ) -> None:
        self._loaded = loaded
        self._on_failure = on_failure
        self._is_closing = is_closing
        self._most_rows = settings.max_batch
        self._batch = Batch(loaded)
        self._running: dict[Row, Request] = {}
        self._prefixes = prefixes
        self._vision = vision
        self._quick_ones = quick_ones
        self._in_prefill = 0  # requests that are on their way in, one inside another

    @property
    def running(self) -> int:
        """Answers that are being written. Any thread may ask."""
        return len(self._running)

    @property
    def room(self) -> int:
        """Requests that can be admitted now."""
        return self._most_rows - len(self._running) - self._in_prefill

    @property
    def running_by_scope(self) -> Counter[str]:
        """How many answers each scope has in the batch."""
        return Counter(request.scope for request in self._running.values())

    def found(self, request: Request) -> int:
        """How many tokens of its prompt need not run."""
        return self._prefixes.found(request.keys, request.scope)

    def is_quick(self, request: Request) -> bool:
        """Whether it brings no new pictures and can be prefilled in one part."""
        tail = len(request.keys) - self.found(request)
        return not request.prepared.pixel_bytes and tail <= chunk_tokens(self._loaded)

    def admit(self, requests: Sequence[Request]) -> None:
        """Takes in one request, or several that `prefill.fit_together`."""
        if len(requests) < 2 or not self._admit_together(requests):
            for request in requests:
                if request.answer.wanted:
                    self._admit(request)

    def step(self) -> None:
        """One more token for everybody who is in the batch."""
        try:
            self._drop_ended()
            if not self._batch.rows:
                return
            requests = [self._running[row] for row in self._batch.rows]
            logits = self._batch.step([request.tokens[-1] for request in requests])
            for request, scores in zip(requests, logits, strict=True):
                self._pick(request, scores)
            self._drop_ended()
        except Exception as error:  # noqa: BLE001 - the engine must outlive a step that breaks
            self._fail(list(self._running.values()), error)
            self._running.clear()
            self._batch.leave(self._batch.rows)

    def end(self, cause: UserError | None) -> None:
        """Ends all answers: as cancelled, or with what has happened."""
        for request in self._running.values():
            if cause is None:
                request.finish("cancelled")
            else:
                request.answer.fail(cause)
        self._running.clear()

    # --- on the way in ---

    def _admit(self, request: Request) -> None:
        answer = request.answer
        answer.start()
        self._in_prefill += 1
        try:
            parts = prefill(
                self._loaded,
                request.prompt,
                self._start(request),
                lambda number: self._features(request, number),
            )
            while (result := next_part(parts)) is None:
                self._go_on_with_others(request)
            self._begin([request], result)
        except _Unwanted:
            return
        except Exception as error:  # noqa: BLE001 - this request's failure must not end the others
            self._fail([request], error)
        finally:
            self._in_prefill -= 1

    def _go_on_with_others(self, request: Request) -> None:
        """In the middle of a prefill: a step for the batch, and those are let in who take no time.

        Raises _Unwanted when nobody waits for the request itself any more.
        """
        if self._in_prefill == 1:
            self.admit(self._quick_ones())
        self.step()
        if self._is_closing():
            request.answer.finish("cancelled")
        if request.answer.out_of_time:
            request.answer.finish("timeout")
        if not request.answer.wanted:
            raise _Unwanted

    def _start(self, request: Request) -> list[LayerStates]:
        """The longest that is stored now, or was when the request was prepared."""
        stored = self._prefixes.longest(request.keys, request.scope)
        stored_tokens = stored[0][0].shape[2] if stored else 0
        held = request.prepared
        return held.start if held.start_tokens > stored_tokens else stored

    def _features(self, request: Request, number: int) -> Features:
        pictures = request.prepared.pictures
        prepared = pictures[number]
        assert prepared is not None, "what no prefix covers was decoded"
        last_s = time.monotonic()

        def breathe() -> None:
            nonlocal last_s
            if time.monotonic() - last_s > BREATH_S:
                self._go_on_with_others(request)
                last_s = time.monotonic()

        with between_blocks(self._loaded, breathe):
            features = self._vision.features(
                self._loaded, request.prompt.pictures[number], prepared, request.scope
            )
        pictures[number] = features  # the pixels have done their work
        return features

    def _admit_together(self, requests: Sequence[Request]) -> bool:
        """Prefills them in one pass; False if that failed, and then they can be tried alone."""
        for request in requests:
            request.answer.start()
        starts = [self._start(request) for request in requests]
        try:
            result = prefill_together(self._loaded, [one.prompt for one in requests], starts)
        except Exception as error:  # alone, only the one at fault fails
            log.warning("requests failed together, each is tried alone", exc_info=error)
            return False
        try:
            self._begin(requests, result)
        except Exception as error:  # noqa: BLE001 - their failure must not end the others
            self._fail(requests, error)
        return True

    def _begin(self, requests: Sequence[Request], result: Prefilled) -> None:
        """Takes prefilled requests into the batch, with their first tokens."""
        self._batch.join(result.rows, result.cache)
        self._running.update(zip(result.rows, requests, strict=True))
        for i, request in enumerate(requests):
            request.prompt.pictures.clear()  # the cache has them now
            request.prepared.clear()
            request.answer.cached_tokens = result.cached_tokens[i]
            # At once: others may be asking the same now.
            self._prefixes.put(request.keys, self._batch.states(result.rows[i]), request.scope)
            self._pick(request, result.logits[i])

    # --- on the way through and out ---

    def _pick(self, request: Request, logits: torch.Tensor) -> None:
        """The request's next token. What goes wrong here is of this row alone."""
        try:
            self._accept(request, request.sampler.next_token(logits))
        except Exception as error:  # noqa: BLE001 - this request's failure must not end the others
            self._fail([request], error)

    def _accept(self, request: Request, token: int) -> None:
        """Takes a generated token in, and ends the answer if it was its last."""
        request.answer.count_token()
        request.tokens.append(token)
        if token in self._loaded.end_ids:
            request.finish("stop")
            return
        request.answer.emit(request.text.push(token))
        if request.text.stopped:
            request.finish("stop")
        elif len(request.tokens) >= request.max_new_tokens:
            request.finish("length")
        elif is_looping(request.tokens):
            request.finish("repetition")

    def _drop_ended(self) -> None:
        """Takes ended rows out; what they hold is kept for the next turn."""
        for request in self._running.values():
            if request.answer.out_of_time:
                request.finish("timeout")
        batch = self._batch
        gone = [row for row in batch.rows if not self._running[row].answer.wanted]
        for row in gone:
            request = self._running.pop(row)
            if request.broken:
                continue
            written = request.tokens[: row.length - len(request.keys)]
            keys = np.concatenate([request.keys, np.array(written, dtype=np.int64)])
            self._prefixes.put(keys, batch.states(row), request.scope)
        if gone:
            held_bytes = batch.size_bytes
            batch.leave(gone)
            if held_bytes - batch.size_bytes > TRIMMED_BYTES:
                trim_heap()

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:
        log.error("a request failed", exc_info=error)
        if machine.is_out_of_memory(error):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            told = EngineFailed(
                "There was not enough memory for this answer: use fewer or smaller pictures "
                "(image detail), or start a new conversation."
            )
        else:
            told = EngineFailed("The model failed on this request. The server's log says why.")
        self._on_failure(f"{type(error).__name__}: {told}")
        for request in requests:
            request.broken = True
            request.answer.fail(told)
