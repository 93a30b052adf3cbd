"""Logits of one request -> its next token. Knows nothing of models, batches or text.

Penalties count generated tokens only, not the prompt. Order as in the field: penalties,
temperature, top-k, top-p.
"""

from __future__ import annotations

import secrets

import torch

from qwen_vl.schema import SamplingParams


class Sampler:
    """Picks the tokens of one request; the same seed and logits give the same tokens."""

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._generated: set[int] = set()
        self._random = torch.Generator()  # on the CPU, so that a seed means the same everywhere
        self._random.manual_seed(
            secrets.randbits(63) if params.seed is None else params.seed % 2**63
        )

    def next_token(self, logits: torch.Tensor) -> int:
        """`logits` [vocabulary] -> a token id, which from then on counts as generated."""
        logits = self._penalised(logits)
        if self._params.temperature == 0:
            token = int(logits.argmax())
        else:
            token = self._draw(logits / self._params.temperature)
        self._generated.add(token)
        return token

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        params = self._params
        if not self._generated or (params.repetition_penalty, params.presence_penalty) == (1, 0):
            return logits
        logits = logits.float().clone()
        seen = torch.tensor(sorted(self._generated), device=logits.device)
        scores = logits[seen]
        factor = params.repetition_penalty  # CTRL, arXiv:1909.05858: negative logits grow
        scores = torch.where(scores < 0, scores * factor, scores / factor)
        logits[seen] = scores - params.presence_penalty
        return logits

    def _draw(self, logits: torch.Tensor) -> int:
        """Top-k first: sorting a handful of tokens is far cheaper than sorting a vocabulary."""
        count = self._params.top_k or len(logits)
        scores, tokens = logits.float().cpu().topk(min(count, len(logits)))
        probabilities = scores.softmax(0)
        before = probabilities.cumsum(0) - probabilities
        probabilities[1:][before[1:] >= self._params.top_p] = 0  # the likeliest always stays
        return int(tokens[torch.multinomial(probabilities, 1, generator=self._random)])
