"""Everything of one request, from its prompt to its answer."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch

from qwen_vl.engine.answer import Answer
from qwen_vl.engine.local.batch import Row
from qwen_vl.engine.local.detokenize import TextStream
from qwen_vl.engine.local.draft import Draft, Drafter
from qwen_vl.engine.local.logprobs import Logprobs
from qwen_vl.engine.local.loops import is_looping
from qwen_vl.engine.local.preparation import Prepared
from qwen_vl.engine.local.sampler import Sampler
from qwen_vl.engine.local.thought import Thought
from qwen_vl.engine.model.prompt import Prompt
from qwen_vl.engine.thoughts import Piece
from qwen_vl.schema import FinishReason


@dataclass(eq=False)
class Sequence:
    """A prompt, the tokens generated after it, and who reads them."""

    scope: str
    prompt: Prompt
    keys: np.ndarray  # of the prompt's tokens, for the prefix store
    prepared: Prepared
    max_new_tokens: int
    answer: Answer
    sampler: Sampler
    text: TextStream
    thought: Thought
    logprobs: Logprobs | None = None  # where they are asked for
    drafter: Drafter | None = None  # where drafts are wanted
    tokens: list[int] = field(default_factory=list)  # generated; the last is not in the cache yet
    row: Row | None = None  # of a batch, once the prompt has been read
    is_broken: bool = False  # its states may be anything
    queued_s: float = field(default_factory=time.monotonic)

    @property
    def most_tokens(self) -> int:
        """How long it may become."""
        return len(self.keys) + self.max_new_tokens

    @property
    def cached_keys(self) -> np.ndarray:
        """The keys of all tokens whose states are in the cache."""
        assert self.row is not None
        written = self.tokens[: self.row.length - len(self.keys)]
        return np.concatenate([self.keys, np.array(written, dtype=np.int64)])

    def draft(self, most: int) -> Draft:
        """At most so many tokens that may come after the last one, and never the answer's last."""
        most = min(most, self.max_new_tokens - len(self.tokens) - 1)
        return self.drafter.draft(most) if self.drafter else Draft()

    def next_token(self, logits: torch.Tensor, end_ids: Collection[int]) -> int:
        """Picks a token; `logits` are [vocabulary]. Raises what `Sampler.next_token` raises."""
        in_thought = self.text.in_thought
        token = self.thought.next_token(
            lambda: self.sampler.next_token(logits, in_thought=in_thought), end_ids
        )
        if self.logprobs is not None and not in_thought and token not in end_ids:
            self.logprobs.measure(logits, token)
        return token

    def accept(self, token: int, end_ids: Collection[int]) -> None:
        """Takes a generated token in, and ends the answer if it was its last."""
        in_thought = self.text.in_thought
        self.answer.count_token(in_thought)
        self.tokens.append(token)
        if self.drafter is not None:
            self.drafter.push(token)
        if token in end_ids:
            self.finish("stop")
            return
        self._tell(self.text.push(token))
        if self.logprobs is not None and self.text.in_thought:
            self.logprobs.forget()
        if in_thought:
            self.thought.count()
        if (
            self.text.stopped
            or self.text.has_called
            or (self.sampler.is_complete and not in_thought)
        ):
            self.finish("stop")
        elif len(self.tokens) >= self.max_new_tokens:
            self.finish("length")
        elif is_looping(self.tokens) and not self.thought.close():
            self.finish("repetition")

    def finish(self, reason: FinishReason) -> None:
        """Ends the answer with all text that there is."""
        rest = self.text.flush()
        if any(rest) or not self.text.stopped:
            self._tell(rest)
        self.answer.finish("tool_calls" if self.text.calls and reason == "stop" else reason)

    def _tell(self, piece: Piece) -> None:
        told = self.logprobs.told(piece.text, stopped=self.text.stopped) if self.logprobs else ()
        self.answer.emit(piece.text, piece.thought, told, piece.calls)
