"""Logits of one request -> its next token. Knows nothing of models, batches or text.

Penalties count generated tokens only, not the prompt. Order as in the field: bias and penalties,
what a constraint allows, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter

import torch

from qwen_vl.engine.local.constrain import Matcher
from qwen_vl.sampling import SamplingParams

NEARLY_GREEDY = 1e-5  # divided by less, logits leave float32's range


class Sampler:
    """Picks the tokens of one request; the same seed and logits give the same tokens."""

    def __init__(self, params: SamplingParams, matcher: Matcher | None = None) -> None:
        """`matcher` follows the answer of a constrained request."""
        self._params, self._matcher = params, matcher
        self._counts: Counter[int] = Counter()  # of the tokens generated so far
        self._penalises = (
            params.repetition_penalty != 1
            or params.presence_penalty != 0
            or params.frequency_penalty != 0
        )
        self._random = torch.Generator()  # on the CPU, so that a seed means the same everywhere
        self._random.manual_seed(
            secrets.randbits(63) if params.seed is None else params.seed % 2**63
        )

    @property
    def is_complete(self) -> bool:
        """Whether a constraint lets nothing follow."""
        return self._matcher is not None and self._matcher.is_complete

    def next_token(self, logits: torch.Tensor, *, in_thought: bool = False) -> int:
        """`logits` [vocabulary] -> a token id, which from then on counts as generated.

        A constraint is for the answer; a thought is free. Raises BadRequest where the constraint
        leads nowhere.
        """
        matcher = None if in_thought else self._matcher
        logits = self._penalised(self._biased(logits))
        if matcher is not None:
            # Inverted by numpy: torch would wake all its threads for it, and take milliseconds.
            forbidden = torch.from_numpy(~matcher.allowed()).to(logits.device)
            logits = logits.masked_fill(forbidden, -math.inf)
        if self._params.temperature < NEARLY_GREEDY:
            token = int(logits.argmax())
        else:
            token = self._draw(logits / self._params.temperature)
        self._counts[token] += 1
        if matcher is not None:
            matcher.take(token)
        return token

    def _biased(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._params.logit_bias:
            return logits
        tokens, biases = zip(*self._params.logit_bias, strict=True)
        at = torch.tensor(tokens, device=logits.device)
        return logits.float().index_add(0, at, torch.tensor(biases, device=logits.device))

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        params = self._params
        if not self._counts or not self._penalises:
            return logits
        logits = logits.float().clone()
        seen = torch.tensor(list(self._counts), device=logits.device)
        counts = torch.tensor(list(self._counts.values()), device=logits.device)
        scores = logits[seen]
        factor = params.repetition_penalty  # CTRL, arXiv:1909.05858: negative logits grow
        scores = torch.where(scores < 0, scores * factor, scores / factor)
        logits[seen] = scores - params.presence_penalty - counts * params.frequency_penalty
        return logits

    def _draw(self, logits: torch.Tensor) -> int:
        """Top-k first: sorting a handful of tokens is far cheaper than sorting a vocabulary."""
        count = self._params.top_k or len(logits)
        scores, tokens = logits.float().cpu().topk(min(count, len(logits)))
        probabilities = scores.softmax(0)
        before = probabilities.cumsum(0) - probabilities
        dropped = before >= self._params.top_p
        dropped |= probabilities < self._params.min_p * probabilities[0]
        dropped[0] = False  # the likeliest always stays
        probabilities[dropped] = 0
        return int(tokens[torch.multinomial(probabilities, 1, generator=self._random)])
