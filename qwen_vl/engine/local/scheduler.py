"""Who gets a token next: sequences wait, are prefilled, decode together, and leave.

Stores the states of prompts and answers for later ones. A failure in one request ends only that
request. Any thread adds sequences; one thread runs them. Knows nothing of threads or loading.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from qwen_vl.config import Settings
from qwen_vl.engine.answer import Answer
from qwen_vl.engine.local.batch import Batch, Row, fit_in_one_batch
from qwen_vl.engine.local.budget import Budget
from qwen_vl.engine.local.failures import in_words
from qwen_vl.engine.local.pace import MOST_DRAFTED, Pace
from qwen_vl.engine.local.prefill import (
    Prefilled,
    chunk_tokens,
    next_part,
    prefill,
    wait_for,
)
from qwen_vl.engine.local.prefix import PrefixStore
from qwen_vl.engine.local.reading import Reading, Speeds
from qwen_vl.engine.local.sequence import Sequence
from qwen_vl.engine.local.snapshots import snapshots_at
from qwen_vl.engine.local.states import Snapshot, States
from qwen_vl.engine.local.together import fit_together, prefill_together
from qwen_vl.engine.local.vision import Features, between_blocks
from qwen_vl.engine.local.vision_cache import VisionCache
from qwen_vl.engine.local.waiting import WaitingSequences
from qwen_vl.engine.model.load import LoadedModel
from qwen_vl.errors import UserError
from qwen_vl.heap import trim_heap
from qwen_vl.schema import Standing

BREATH_S = 0.03  # of encoding one picture, before the others get a step
TRIMMED_BYTES = 2**28  # smaller caches leave holes that the next one fills

log = logging.getLogger(__name__)


class _Unwanted(Exception):
    """Ends a prefill that is under way."""


class Scheduler:
    """All sequences of one model. Fills the prefix store and the vision cache.

    Calls `on_failure` with a sentence when a request breaks.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: Settings,
        prefixes: PrefixStore,
        vision: VisionCache,
        on_failure: Callable[[str], None],
    ) -> None:
        self._loaded = loaded
        self._prefixes = prefixes
        self._vision = vision
        self._on_failure = on_failure
        self._most_rows = settings.max_batch
        self._budget = Budget(settings)
        self._changed = threading.Condition()
        self._closing = False
        self._waiting = WaitingSequences(settings.max_queue)
        self.busy = self._waiting.busy  # of what waits alone: who keeps it does not keep the model
        self._admitting: list[Sequence] = []  # between the queue and a batch
        self._running: dict[Row, Sequence] = {}
        self._batches: list[Batch] = []
        self._pace = Pace()
        self.speeds = Speeds()
        self._depth = 0  # prefills that are under way, one inside another

    # --- any thread ---

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        with self._changed:
            return not (self._waiting or self._admitting or self._running)

    def check_room(self, scope: str, more_bytes: int = 0) -> None:
        """Raises Busy if one more sequence, with `more_bytes` of new pixels, may not wait."""
        with self._changed:
            taken = len(self._running) + len(self._admitting) + len(self._waiting)
            full = self._waiting.is_full(scope, new_pictures=more_bytes > 0)
            if taken >= self._most_rows and full:
                raise self.busy()
            if not self._budget.has_room_for(more_bytes, (*self._waiting, *self._admitting)):
                raise self.busy()

    @contextmanager
    def decoding(self, scope: str, pixel_bytes: int) -> Iterator[None]:
        """Holds memory for pixels that are being decoded. Raises Busy if there is none left."""
        with self._changed:
            self.check_room(scope, pixel_bytes)
            self._budget.hold(pixel_bytes)
        try:
            yield
        finally:
            with self._changed:
                self._budget.hold(-pixel_bytes)

    def add(self, sequence: Sequence) -> None:
        """Lets a sequence wait for its turn. Raises Busy."""
        with self._changed:
            self.check_room(sequence.scope, sequence.prepared.pixel_bytes)
            self._waiting.append(sequence)
            self._waiting.tell_places(self._running_by_scope)
            self._changed.notify_all()

    def forget(self, answer: Answer) -> None:
        """Its reader has gone; what is running notices by itself."""
        with self._changed:
            self._waiting.forget(answer)
            self._waiting.tell_places(self._running_by_scope)

    def close(self) -> None:
        """Ends `run` as soon as it can."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    # --- the inference thread: schedule, read prompts, decode ---

    def run(self) -> None:
        """Answers until it is closed."""
        while self._has_work():
            self.admit(self._schedule())
            self._step()

    def end(self, cause: UserError | None) -> None:
        """Ends all answers: as cancelled, or with `cause`."""
        with self._changed:
            everybody = [*self._running.values(), *self._admitting, *self._waiting]
            self._waiting.clear()
        for sequence in everybody:
            if cause is None:
                sequence.finish("cancelled")
            else:
                sequence.answer.fail(cause)

    def _has_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._running or self._waiting or self._closing)
            return not self._closing

    def _schedule(self) -> list[Sequence]:
        """The sequence whose turn it is, and those after it that can be prefilled with it."""
        with self._changed:
            if not (self._waiting and self._rows_left):
                return []
            taken: list[Sequence] = []
            keys, found, lengths = [], [], []
            for sequence in self._that_fit(self._waiting.in_turn(self._running_by_scope)):
                keys.append(sequence.keys)
                found.append(self._prefixes.found(sequence.keys, sequence.scope))
                lengths.append(len(sequence.keys))
                together = fit_together(self._loaded, keys, found) and fit_in_one_batch(
                    self._loaded, lengths
                )
                if taken and not together:
                    break
                taken.append(sequence)
                if not together or len(taken) == self._rows_left:
                    break
            return self._take(taken)

    def _quick_one(self) -> list[Sequence]:
        """The first that brings no new pictures and can be prefilled in one part."""
        with self._changed:
            if not (self._waiting and self._rows_left):
                return []
            for sequence in self._that_fit(self._waiting.in_order(self._running_by_scope)):
                tail = len(sequence.keys) - self._prefixes.found(sequence.keys, sequence.scope)
                if not sequence.prepared.pixel_bytes and tail <= chunk_tokens(self._loaded):
                    return self._take([sequence])
            return []

    def _that_fit(self, order: Iterable[Sequence]) -> Iterator[Sequence]:
        """Those for which there is memory now."""
        return self._budget.that_fit(order, (*self._running.values(), *self._admitting))

    def _take(self, sequences: list[Sequence]) -> list[Sequence]:
        for sequence in sequences:
            self._waiting.remove(sequence)
            sequence.answer.standing = Standing()
        self._admitting += sequences
        self._waiting.tell_places(self._running_by_scope)
        return sequences

    @property
    def _rows_left(self) -> int:
        return self._most_rows - len(self._running) - len(self._admitting)

    @property
    def _running_by_scope(self) -> Counter[str]:
        return Counter(one.scope for one in (*self._running.values(), *self._admitting))

    # --- reading prompts ---

    def admit(self, sequences: list[Sequence]) -> None:
        """Reads the prompt of one sequence, or of several that fit together."""
        if len(sequences) < 2 or not self._read_together(sequences):
            for sequence in sequences:
                if sequence.answer.wanted:
                    self._read(sequence)
        with self._changed:
            self._admitting = [one for one in self._admitting if one not in sequences]

    def _read(self, sequence: Sequence) -> None:
        sequence.answer.start()
        self._depth += 1
        try:
            start = self._start(sequence)
            parts = prefill(
                self._loaded,
                sequence.prompt,
                start,
                lambda number: self._features(sequence, number),
                self._snapshots_at(sequence, start.tokens),
                Reading(self.speeds, partial(setattr, sequence.answer, "standing")),
            )
            while (result := next_part(parts)) is None:
                self._go_on_with_others(sequence)
            self._begin([sequence], result)
        except _Unwanted:
            return
        except Exception as error:  # noqa: BLE001 - this request's failure must not end the others
            self._fail([sequence], error)
        finally:
            self._depth -= 1

    def _go_on_with_others(self, sequence: Sequence) -> None:
        """In the middle of a prefill: gives all others a step, and lets short prompts in.

        Raises _Unwanted when nobody waits for this sequence any more.
        """
        if self._depth == 1:
            self.admit(self._quick_one())
        self._step()
        if self._closing:
            sequence.answer.finish("cancelled")
        if sequence.answer.out_of_time:
            sequence.answer.finish("timeout")
        if not sequence.answer.wanted:
            raise _Unwanted

    def _start(self, sequence: Sequence) -> States:
        """The longest prefix that is stored now, or was stored when the request was prepared."""
        stored = self._prefixes.longest(sequence.keys, sequence.scope)
        held = sequence.prepared.start
        return held if held.tokens > stored.tokens else stored

    def _snapshots_at(self, sequence: Sequence, done: int) -> list[int]:
        if not self._prefixes.keeps:
            return []
        return snapshots_at(self._loaded, sequence.prompt, done)

    def _features(self, sequence: Sequence, number: int) -> Features:
        pictures = sequence.prepared.pictures
        prepared = pictures[number]
        assert prepared is not None, "what no prefix covers was decoded"
        began_s = last_s = time.monotonic()
        missed = self._vision.misses

        def breathe() -> None:
            nonlocal last_s
            if time.monotonic() - last_s > BREATH_S:
                self._go_on_with_others(sequence)
                last_s = time.monotonic()

        with between_blocks(self._loaded, breathe):
            features = self._vision.features(
                self._loaded, sequence.prompt.pictures[number], prepared, sequence.scope
            )
        if self._vision.misses > missed:
            wait_for(self._loaded)
            tokens = sequence.prompt.pictures[number].tokens
            self.speeds.encoding.add(tokens, time.monotonic() - began_s)
        pictures[number] = features  # the pixels have done their work
        return features

    def _read_together(self, sequences: list[Sequence]) -> bool:
        """Prefills them in one pass. Returns False if that failed: then each can be tried alone."""
        for sequence in sequences:
            sequence.answer.start()
        starts = [self._start(sequence) for sequence in sequences]
        try:
            result = prefill_together(self._loaded, [one.prompt for one in sequences], starts)
        except Exception as error:  # alone, only the one at fault fails
            log.warning("requests failed together, each is tried alone", exc_info=error)
            return False
        try:
            self._begin(sequences, result)
        except Exception as error:  # noqa: BLE001 - their failure must not end the others
            self._fail(sequences, error)
        return True

    def _begin(self, sequences: list[Sequence], result: Prefilled) -> None:
        """Puts prefilled sequences into a batch, and picks their first tokens."""
        batch = self._batch_for([row.length for row in result.rows])
        batch.join(result.rows, result.cache)
        with self._changed:
            self._running.update(zip(result.rows, sequences, strict=True))
            self._admitting = [one for one in self._admitting if one not in sequences]
        for i, sequence in enumerate(sequences):
            sequence.row = result.rows[i]
            sequence.prompt.pictures.clear()  # the cache has them now
            sequence.prepared.clear()
            sequence.answer.cached_tokens = result.cached_tokens[i]
            # At once: others may be asking the same now.
            self._keep(sequence, sequence.keys, batch, result.snapshots)
            self._pick(sequence, result.logits[i])

    def _batch_for(self, lengths: list[int]) -> Batch:
        """The first batch that has room for rows of these lengths, or a new one."""
        for batch in self._batches:
            if batch.has_room(lengths):
                return batch
        self._batches.append(Batch(self._loaded))
        return self._batches[-1]

    # --- decoding ---

    def _step(self) -> None:
        """One more token for every row of every batch, or some more where drafts are right."""
        for batch in tuple(self._batches):
            self._decode(batch)
        self._batches = [batch for batch in self._batches if batch.rows]
        for other in self._batches[1:]:  # apart because of a row that may have left
            if self._batches[0].has_room([row.length for row in other.rows]):
                self._unite(self._batches[0], other)

    def _decode(self, batch: Batch) -> None:
        try:
            self._drop_ended(batch)
            if not batch.rows:
                return
            sequences = [self._running[row] for row in batch.rows]
            drafts = self._drafts(batch, sequences)
            begun_s = time.perf_counter()
            inputs = [
                [one.tokens[-1], *draft] for one, draft in zip(sequences, drafts, strict=True)
            ]
            logits = batch.step(inputs)
            batch.keep(list(map(self._pick_along, sequences, drafts, logits)))
            seconds = time.perf_counter() - begun_s
            self._pace.measure(len(sequences), logits.shape[1], seconds)
            self._drop_ended(batch)
        except Exception as error:  # noqa: BLE001 - the engine must outlive a step that breaks
            self._lose(batch.rows, error)
            batch.leave(batch.rows)

    def _drafts(self, batch: Batch, sequences: list[Sequence]) -> list[list[int]]:
        """What the next pass checks of each row, as far as it is likely to pay."""
        if not batch.takes_drafts:
            return [[] for _ in sequences]
        drafts = [sequence.draft(MOST_DRAFTED) for sequence in sequences]
        most = self._pace.width([draft.chances for draft in drafts]) - 1
        return [draft.tokens[:most] for draft in drafts]

    def _unite(self, batch: Batch, other: Batch) -> None:
        rows = list(other.rows)
        try:
            batch.absorb(other)
        except Exception as error:  # noqa: BLE001 - the rows of `batch` are as they were
            self._lose(rows, error)

    def _lose(self, rows: list[Row], error: Exception) -> None:
        self._fail([self._running.pop(row) for row in rows if row in self._running], error)

    def _pick_along(self, sequence: Sequence, draft: list[int], logits: torch.Tensor) -> int:
        """Picks tokens as long as they are those of the draft, and one more -> how many.

        Every token is picked as without a draft, from [tokens, vocabulary] of logits that depend
        on what was picked before alone. So their distribution is the same: for a guess that is one
        token, to draw and to compare is what rejection sampling comes to.
        """
        sequence.answer.drafted_tokens += len(draft)
        self._pick(sequence, logits[0])
        picked = 1
        for guess, scores in zip(draft, logits[1:], strict=False):
            if not sequence.answer.wanted or sequence.tokens[-1] != guess:
                break
            sequence.answer.accepted_tokens += 1
            self._pick(sequence, scores)
            picked += 1
        return picked

    def _pick(self, sequence: Sequence, logits: torch.Tensor) -> None:
        """Picks the sequence's next token. A failure here is of this row alone."""
        try:
            token = sequence.next_token(logits, self._loaded.end_ids)
            sequence.accept(token, self._loaded.end_ids)
        except UserError as error:
            sequence.answer.fail(error)
        except Exception as error:  # noqa: BLE001 - this request's failure must not end the others
            self._fail([sequence], error)

    def _drop_ended(self, batch: Batch) -> None:
        """Takes ended rows out, and stores their states for the next turn."""
        gone = []
        for row in batch.rows:
            sequence = self._running[row]
            if sequence.answer.out_of_time:
                sequence.finish("timeout")
            if not sequence.answer.wanted:
                gone.append(row)
        for row in gone:
            sequence = self._running.pop(row)
            if not sequence.is_broken:
                answered = self._answered(row, batch)
                self._keep(sequence, sequence.cached_keys, batch, answered)
        if gone:
            held_bytes = batch.size_bytes
            batch.leave(gone)
            if held_bytes - batch.size_bytes > TRIMMED_BYTES:
                trim_heap()

    def _keep(
        self, sequence: Sequence, keys: np.ndarray, batch: Batch, snapshots: Mapping[int, Snapshot]
    ) -> None:
        """Stores a sequence's states for later prompts that begin with `keys`."""
        assert sequence.row is not None
        if snapshots or not self._loaded.is_recurrent:
            columns = batch.columns(sequence.row)
            self._prefixes.put(keys, columns, sequence.scope, snapshots)

    def _answered(self, row: Row, batch: Batch) -> dict[int, Snapshot]:
        """The snapshot at the end of an answer, where a later prompt may begin with that."""
        loaded = self._loaded
        if not (loaded.is_recurrent and loaded.prompts.keeps_answers and self._prefixes.keeps):
            return {}
        return {row.length: batch.snapshot(row)}

    def _fail(self, sequences: Iterable[Sequence], error: Exception) -> None:
        log.error("a request failed", exc_info=error)
        failure = in_words(error)
        self._on_failure(f"{type(error).__name__}: {failure}")
        for sequence in sequences:
            sequence.is_broken = True
            sequence.answer.fail(failure)
