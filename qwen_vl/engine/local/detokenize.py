"""Token ids -> deltas of thought and text that are safe to show: whole characters, no stop strings.

Holds back only incomplete UTF-8, and text that may begin a tag or a stop string. Stop strings end
what is said; in a thought they are words like others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from qwen_vl.engine.thoughts import Piece, ThoughtSplitter, overlap


class TextStream:
    """The text of one answer. `stopped` turns True once a stop string has been reached."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], thoughts: ThoughtSplitter) -> None:
        """`tokenizer` is a `tokenizers.Tokenizer`."""
        self._tokenizer, self._thoughts = tokenizer, thoughts
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    @property
    def in_thought(self) -> bool:
        """Whether the next token is one of the thought, as far as can be told."""
        return self._thoughts.inside

    def push(self, token: int) -> Piece:
        """What `token` completes, often one word, sometimes nothing yet."""
        piece = self._thoughts.push(self._stream.step(self._tokenizer, token) or "")
        return Piece(piece.thought, self._said(piece.text))

    def _said(self, text: str) -> str:
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        text = self._held[: len(self._held) - keep]
        self._held = self._held[len(text) :]
        return text

    def flush(self) -> Piece:
        """What was held back for a tag or a stop string that never came."""
        piece = self._thoughts.flush()
        text, self._held = self._held, ""
        return Piece(piece.thought, text + piece.text)
