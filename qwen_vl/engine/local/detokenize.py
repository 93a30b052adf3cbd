"""Token ids -> deltas of thought and text that are safe to show: whole characters, no stop strings.

Holds back only incomplete UTF-8, and text that may begin a tag or a stop string. Stop strings end
what is said; in a thought they are words like others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from qwen_vl.engine.thoughts import Piece, ThoughtSplitter, overlap
from qwen_vl.engine.tool_calls import CallSplitter


class TextStream:
    """The text of one answer. `stopped` turns True once a stop string has been reached."""

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[str],
        thoughts: ThoughtSplitter,
        calls: CallSplitter | None = None,
    ) -> None:
        """`tokenizer` is a `tokenizers.Tokenizer`; `calls` where the answer may call tools."""
        self._tokenizer, self._thoughts, self._calls = tokenizer, thoughts, calls
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
        return self._piece(piece.thought, self._said(piece.text))

    @property
    def calls(self) -> int:
        """How many tools the answer has called so far."""
        return self._calls.calls if self._calls else 0

    @property
    def has_called(self) -> bool:
        """Whether the answer has made the one call that it may make."""
        return self._calls is not None and self._calls.is_done

    def _piece(self, thought: str, text: str) -> Piece:
        if self._calls is None:
            return Piece(thought, text)
        said = self._calls.push(text)
        return Piece(thought, said.text, said.calls)

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
        piece = Piece() if self.stopped else self._thoughts.flush()
        text, self._held = self._held, ""
        told = self._piece(piece.thought, text + piece.text)
        if self._calls is None:
            return told
        rest = self._calls.flush()
        return Piece(told.thought, told.text + rest.text, told.calls + rest.calls)
