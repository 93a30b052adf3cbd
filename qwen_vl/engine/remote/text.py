"""The pieces of an answer: thought and text apart, characters whole, within a bound.

Knows text only.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwen_vl.engine.thoughts import Piece, ThoughtSplitter
from qwen_vl.schema import TokenLogprob

TOKEN_CHARS = 32  # more than any text has for each of its tokens
SLACK_CHARS = 512  # but a single token may be long


class Transcript:
    """What an answer is so far. Not every server tells thoughts and text apart.

    `inside`: its model begins with a thought, without a tag.
    """

    def __init__(self, most_tokens: int, inside: bool = False, may_think: bool = True) -> None:
        self._left = most_tokens * TOKEN_CHARS + SLACK_CHARS
        self._inside, self._may_think = inside, may_think
        self._thought, self._text = _Whole(), _Whole()
        self._splitter: ThoughtSplitter | None = None

    @property
    def is_full(self) -> bool:
        """Whether the server goes on after the tokens that it was asked for."""
        return self._left <= 0

    def add(self, thought: str, text: str) -> Piece:
        """What a piece adds to the answer."""
        if thought:
            self._inside = False  # this server tells them apart by itself
        told = self._thought.add(thought)
        if text and self._splitter is None:
            self._splitter = ThoughtSplitter(self._inside, self._may_think)
        split = self._splitter.push(self._text.add(text)) if self._splitter else Piece()
        return self._bounded(Piece(told + split.thought, split.text))

    def finish(self) -> Piece:
        """What was held back for a tag that never came."""
        return self._bounded(self._splitter.flush() if self._splitter else Piece())

    def _bounded(self, piece: Piece) -> Piece:
        thought = piece.thought[: self._left]
        text = piece.text[: self._left - len(thought)]
        self._left -= len(thought) + len(text)
        return Piece(thought, text)


class TextLogprobs:
    """Log probabilities of the text's tokens, each told with its text. `asked`: or not at all."""

    def __init__(self, asked: bool) -> None:
        self._asked = asked
        self._waiting: list[TokenLogprob] = []  # their text is held back
        self._text_came = self._some_came = False

    @property
    def are_missing(self) -> bool:
        """Whether the server has told the text of an answer without them."""
        return self._asked and self._text_came and not self._some_came

    def told(self, piece: Piece, new: Sequence[TokenLogprob]) -> tuple[TokenLogprob, ...]:
        """What goes with a piece of the answer; `new` came with it."""
        if not self._asked:
            return ()
        self._waiting += new
        if not any(piece):
            return ()
        told, self._waiting = tuple(self._waiting), []
        if not piece.text:  # those of a thought
            return ()
        self._text_came, self._some_came = True, self._some_came or bool(told)
        return told


class _Whole:
    """Puts surrogate pairs together that were sent in halves; what stays half becomes '?'."""

    def __init__(self) -> None:
        self._half = ""  # the other one comes with the next piece

    def add(self, text: str) -> str:
        text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return paired.encode(errors="replace").decode()
