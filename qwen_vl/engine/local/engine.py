"""The local engine: requests are prepared on any thread, one inference thread owns the model.

The `scheduler` takes over once a request is prepared. Knows nothing of Gradio, HTTP or files.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from qwen_vl.config import BUNDLED_MODEL, BUNDLED_MODEL_ID, DEFAULT_MODEL, Settings
from qwen_vl.engine.answer import Answer
from qwen_vl.engine.local import preparation
from qwen_vl.engine.local.constrain import Grammars
from qwen_vl.engine.local.detokenize import TextStream
from qwen_vl.engine.local.draft import Drafter
from qwen_vl.engine.local.logprobs import Logprobs
from qwen_vl.engine.local.own_texts import read_own_texts
from qwen_vl.engine.local.prefix import PrefixStore, token_keys
from qwen_vl.engine.local.sampler import Sampler
from qwen_vl.engine.local.scheduler import Scheduler
from qwen_vl.engine.local.sequence import Sequence as LocalSequence
from qwen_vl.engine.local.snapshots import MOST_SNAPSHOTS
from qwen_vl.engine.local.thought import Thought, budget_tokens
from qwen_vl.engine.local.turns import Turns
from qwen_vl.engine.local.vision_cache import VisionCache, keys_of_examples
from qwen_vl.engine.model import checkpoint, machine, picture_pace
from qwen_vl.engine.model.load import LoadedModel, choose_for, compute_here, load
from qwen_vl.engine.model.packing import Packing
from qwen_vl.engine.model.prompt import Prompt
from qwen_vl.engine.model.samples import importance, to_pack
from qwen_vl.engine.model.tool_turns import constraint_of
from qwen_vl.engine.thoughts import ThoughtSplitter
from qwen_vl.engine.tool_calls import CallSplitter
from qwen_vl.errors import (
    BadRequest,
    ModelUnavailable,
    ShuttingDown,
    StillLoading,
)
from qwen_vl.families import BUNDLED, DEFAULT
from qwen_vl.heap import share_heap
from qwen_vl.laps import Laps
from qwen_vl.models import too_large
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Cost, EngineStats, EngineStatus, Message, is_raw
from qwen_vl.start_cache import StartCache, folder_of

MB = 2**20
PREFIX_CONTEXTS = 4  # the prefix store is never larger than this many of the longest conversations
CLOSE_S = 60.0  # for the part of a prefill that is under way
DEGRADED_S = 60.0  # how long a failed request shows in the status

log = logging.getLogger(__name__)


class LocalEngine:
    """An `Engine` (see the package) over a model in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        named = settings.model or DEFAULT_MODEL
        bundled = named == BUNDLED_MODEL
        model_id, family = (BUNDLED_MODEL_ID, BUNDLED) if bundled else (named, DEFAULT)
        self._status = EngineStatus("loading", model_id, detail="Starting", family=family)
        self._prefixes = PrefixStore(settings.prefix_cache_mb * MB)
        self._vision = VisionCache(settings.vision_cache_mb * MB)
        self._loaded: LoadedModel | None = None
        self._scheduler: Scheduler | None = None
        self._packing: Packing | None = None
        self._failed_s = -math.inf  # when a request last failed, on the monotonic clock
        self._failure = ""
        self._draining = self._closing = False
        share_heap()
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
        prefixes, vision, scheduler = self._prefixes, self._vision, self._scheduler
        return EngineStats(
            waiting=scheduler.waiting if scheduler else 0,
            running=scheduler.running if scheduler else 0,
            prefix_hits=prefixes.hits,
            prefix_misses=prefixes.misses,
            prefix_bytes=prefixes.size_bytes,
            vision_hits=vision.hits,
            vision_misses=vision.misses,
            vision_bytes=vision.size_bytes,
            gpu_bytes=sum(map(torch.cuda.memory_allocated, range(torch.cuda.device_count()))),
        )

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Answer:
        asked_s = time.monotonic()  # decoding pictures is part of the wait
        loaded, scheduler = self._ready()
        if any(token >= loaded.vocabulary_size for token, _ in params.logit_bias):
            raise BadRequest(
                f"'logit_bias' names a token id that this model does not have: its largest is "
                f"{loaded.vocabulary_size - 1}."
            )
        scheduler.check_room(scope)  # before any work is put into it
        matcher = None
        constraint = constraint_of(params, loaded.family)
        if constraint is not None:  # before pictures are decoded: it may be refused
            last = messages[-1]
            begun = last.text if last.role == "assistant" else ""
            matcher = self._grammars.matcher(constraint, begun)
        context = self._status.most_tokens(self._settings.max_context_tokens)
        prompt = loaded.prompts.build(messages, params, context)
        keys = token_keys(prompt, loaded.image_token_id)  # here, not on the inference thread
        prepared = preparation.find(prompt, keys, scope, self._prefixes, self._vision)
        if prepared.missing and loaded.prompts.reader is not None:
            pixel_bytes = sum(prompt.pictures[i].pixel_bytes for i in prepared.missing)
            with scheduler.decoding(scope, pixel_bytes), self._turns.turn(scope):
                preparation.decode(prompt, prepared, loaded.prompts.reader)
        most_tokens = min(params.max_new_tokens, context - len(prompt.token_ids))
        closing = loaded.prompts.end_of_thought
        limit_tokens = self._settings.max_thought_tokens
        budget = budget_tokens(params.thinking_budget, limit_tokens, most_tokens - len(closing))
        tokenizer = loaded.tokenizer.backend_tokenizer
        text = TextStream(
            tokenizer,
            params.stop,
            ThoughtSplitter(
                prompt.opens_thought, loaded.family.thinking != "never" and not is_raw(messages)
            ),
            CallSplitter(params.tools) if params.tools else None,
        )
        logprobs = None if params.logprobs is None else Logprobs(tokenizer, params.logprobs)
        sequence = LocalSequence(
            scope,
            prompt,
            keys,
            prepared,
            most_tokens,
            Answer(len(prompt.token_ids), self._settings.max_seconds, scheduler.forget, asked_s),
            Sampler(params, matcher),
            text,
            Thought(text, budget, closing),
            logprobs,
            self._drafter(loaded, prompt),
        )
        self._ready()
        scheduler.add(sequence)
        return sequence.answer

    def count(self, messages: Sequence[Message], params: SamplingParams, scope: str = "") -> Cost:
        loaded, scheduler = self._ready()
        prompt = loaded.prompts.build(messages, params)
        keys = token_keys(prompt, loaded.image_token_id)
        prepared = preparation.find(prompt, keys, scope, self._prefixes, self._vision)
        visual = sum(prompt.pictures[i].tokens for i in prepared.missing)
        rest = len(keys) - self._prefixes.found(keys, scope)
        return Cost(
            len(keys),
            tuple(picture.tokens for picture in prompt.pictures),
            self._status.most_tokens(self._settings.max_context_tokens),
            scheduler.speeds.seconds(visual, rest),
        )

    def _drafter(self, loaded: LoadedModel, prompt: Prompt) -> Drafter | None:
        if self._settings.draft == "off":
            return None
        picture = loaded.image_token_id
        return Drafter(prompt.token_ids, () if picture is None else (picture,))

    def drain(self, seconds: float) -> None:
        self._draining = True
        end_s = time.monotonic() + seconds
        while self._scheduler and not self._scheduler.is_idle and time.monotonic() < end_s:
            time.sleep(0.05)

    def close(self) -> None:
        self._closing = True
        if self._scheduler is not None:
            self._scheduler.close()
        # A model that is being loaded is given up at its next report, which may be a while.
        self._thread.join(0 if self._status.state == "loading" else CLOSE_S)

    def _ready(self) -> tuple[LoadedModel, Scheduler]:
        status, loaded, scheduler = self._status, self._loaded, self._scheduler
        if status.state == "loading":
            raise StillLoading(
                f"{status.model_id} is still loading ({status.detail}): try again in a moment."
            )
        if self._draining:
            raise ShuttingDown
        if status.state == "failed" or loaded is None or scheduler is None or self._closing:
            raise ModelUnavailable(status.detail or "The server is shutting down.")
        return loaded, scheduler

    # --- the inference thread ---

    def _main(self) -> None:
        try:
            self._load()
            with torch.inference_mode():
                self._serve()
        except ModelUnavailable as error:
            log.error("%s", error)
            self._status = replace(self._status, state="failed", detail=str(error), progress=None)
        except BaseException as error:
            self._died(error)
            raise
        finally:
            self._end_all()

    def _load(self) -> None:
        laps = Laps("libraries loaded")
        kept_in = folder_of(self._settings.cache_folder)
        cache = StartCache(kept_in) if self._settings.quantized_cache else None
        found = checkpoint.find(self._settings, self._report, self._weigh)
        notice = " ".join(told for told in (found.notice, self._status.notice) if told)
        self._status = replace(self._status, model_id=found.model_id, notice=notice)
        laps.end("model found")
        choice = choose_for(found, self._settings, cache)
        laps.end("precision chosen")
        self._report("Reading the model", None)
        judge = partial(importance, found, choice, self._report)
        loaded = load(found, choice, self._report, cache, judge)
        self._report("Judging what the layers are given", None)
        self._packing = to_pack(loaded, choice, found, cache)
        self._packing.start()
        self._use(loaded)
        laps.end("model loaded")
        self._report("Measuring how fast pictures are read", None)
        detail = picture_pace.choose(
            self._settings, loaded, choice, found, cache, self._packing.wait
        )
        laps.end("pictures measured")
        threads = f", {choice.threads} threads" if loaded.device.type == "cpu" else ""
        self._status = replace(
            self._status,
            state="ready",
            detail="",
            progress=None,
            device=loaded.device.type,
            dtype=choice.precision,
            reason=f"{choice.reason}{threads}{detail.said}",
            family=loaded.family,
            most_image_tokens=loaded.most_image_tokens,
            image_tokens=detail.tokens,
            context_tokens=loaded.context_tokens,
        )
        log.info(
            "%s on %s in %s: %s",
            found.model_id,
            loaded.device,
            choice.precision,
            self._status.reason,
        )
        log.info("ready %s", laps)
        if found.notice:
            log.warning("%s", found.notice)

    def _weigh(self, size_bytes: int) -> None:
        """Says on the page and in the log where this machine cannot carry the model."""
        kind, memory_bytes = machine.kind_and_memory(self._settings)
        four_bit = self._settings.quantize == "4bit"
        if told := too_large(size_bytes, kind, memory_bytes, four_bit):
            log.warning("%s", told)
            self._status = replace(self._status, notice=told)

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

    def _use(self, loaded: LoadedModel) -> None:
        """Everything that answers with this model."""
        settings = self._settings
        compute_here(loaded)
        longest_bytes = settings.max_context_tokens * loaded.token_bytes
        longest_bytes += MOST_SNAPSHOTS * loaded.snapshot_bytes
        self._prefixes.bound(PREFIX_CONTEXTS * longest_bytes)
        self._scheduler = Scheduler(loaded, settings, self._prefixes, self._vision, self._failed)
        self._grammars = Grammars(loaded.tokenizer, loaded.vocabulary_size, loaded.end_ids)
        self._turns = Turns(max(1, settings.max_queue), self._scheduler.busy)
        self._loaded = loaded

    def _serve(self) -> None:
        assert self._loaded is not None
        assert self._scheduler is not None
        self._vision.examples = keys_of_examples(self._settings)
        read_own_texts(self._loaded, self._settings.system_prompt, self._prefixes)
        if not self._closing:  # it may have been closed before there was a scheduler
            self._scheduler.run()

    def _failed(self, told: str) -> None:
        self._failed_s, self._failure = time.monotonic(), f"A request failed ({told})"

    def _end_all(self) -> None:
        cause = None if self._closing else ModelUnavailable(self._status.detail)
        if self._packing is not None:
            self._packing.stop()
        if self._scheduler is not None:
            self._scheduler.end(cause)
        self._packing = self._scheduler = self._loaded = None  # with them goes the memory
