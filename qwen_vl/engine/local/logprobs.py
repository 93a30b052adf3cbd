"""Log probabilities of the tokens of one answer, and of the likeliest ones in their places.

They are the model's own: of its logits as they are, before bias, penalties, constraints,
temperature and filters. Each is told together with the text that its token makes. Knows logits and
token ids; nothing of sampling.
"""

from __future__ import annotations

from typing import Any

import torch

from qwen_vl.schema import TokenLogprob

LEAST = -9999.0  # OpenAI's figure for what is nearly impossible: JSON has no infinity


class Logprobs:
    """Those of one answer; `most` of the likeliest tokens are told beside each."""

    def __init__(self, tokenizer: Any, most: int) -> None:
        """`tokenizer` is a `tokenizers.Tokenizer`."""
        self._tokenizer, self._most = tokenizer, most
        self._waiting: list[TokenLogprob] = []  # their text is held back, or not whole yet
        self._after_thought = False

    def measure(self, logits: torch.Tensor, token: int) -> None:
        """Takes in a token of the answer, and the `logits` [vocabulary] that it was picked from."""
        logs = logits.float().log_softmax(0)
        best = logs.topk(self._most)
        likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        told = tuple(TokenLogprob(self._raw(one), max(log, LEAST)) for one, log in likeliest)
        self._waiting.append(TokenLogprob(self._raw(token), max(float(logs[token]), LEAST), told))

    def forget(self) -> None:
        """What was measured is part of a thought."""
        self._waiting, self._after_thought = [], True

    def told(self, text: str, *, stopped: bool = False) -> tuple[TokenLogprob, ...]:
        """Those that go with `text`, the next of the answer, which a stop text may have `stopped`.

        Together their bytes are the text: blanks after a thought, and what belongs to the stop
        text alone, are left out.
        """
        if not text:
            return ()
        told, self._waiting = self._waiting, []
        while self._after_thought and told and not told[0].raw.strip():
            told.pop(0)
        self._after_thought = False
        left_bytes = len(text.encode(errors="replace"))
        kept = []
        for one in told:
            if stopped and left_bytes <= 0:
                break
            kept.append(one)
            left_bytes -= len(one.raw)
        return tuple(kept)

    def _raw(self, token: int) -> bytes:
        """A token's bytes; none for an id that only pads the vocabulary."""
        name = self._tokenizer.id_to_token(token)
        if name is None:
            return b""
        if all(letter in _BYTE_OF for letter in name):
            return bytes(_BYTE_OF[letter] for letter in name)
        return str(self._tokenizer.decode([token], skip_special_tokens=False)).encode()


def _byte_of_letters() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes with (GPT-2's `bytes_to_unicode`)."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    own += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of_letters()
