"""The text of an answer -> what the model thought, and what it says.

Models write `<think>` and `</think>` around a thought. The tags come in pieces, the first one often
stands in the prompt, and the last one may never come. Knows text only.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from qwen_vl.schema import CallPiece

OPEN, CLOSE = "<think>", "</think>"


class Piece(NamedTuple):
    """What one step adds to the thought and to the answer; any may be empty."""

    thought: str = ""
    text: str = ""
    calls: tuple[CallPiece, ...] = ()  # where the answer may call tools


class ThoughtSplitter:
    """Splits one answer, piece by piece.

    A thought begins where the answer begins, or right after another thought: a tag in the middle
    of an answer is text. Holds back what may be the beginning of a tag, and the blanks around tags.
    """

    def __init__(self, inside: bool = False, may_think: bool = True) -> None:
        """`inside`: the prompt has opened the thought. All is answer unless it `may_think`."""
        self._state: Literal["opening", "thought", "answer"] = "opening" if may_think else "answer"
        self._inside = inside and may_think  # what "opening" leads to, where no tag comes
        self._after_thought = False  # blanks there belong to neither
        self._told = False  # whether there has been any thought
        self._gap = ""  # what parts a thought from the one before it
        self._held = ""

    @property
    def inside(self) -> bool:
        """Whether what comes next is thought, as far as can be told."""
        return self._inside

    def push(self, text: str) -> Piece:
        self._held += text
        thought = ""
        while self._state != "answer":
            known = (self._state, self._held)
            if self._state == "opening":
                self._open()
            else:
                thought += self._thought()
            if known == (self._state, self._held):  # more is needed to tell
                return Piece(thought)
        said, self._held = self._held, ""
        return Piece(thought, said)

    def flush(self) -> Piece:
        """What was held back for a tag that never came."""
        held, self._held = self._held, ""
        if self._inside:
            return Piece(thought=held.rstrip())
        return Piece(text=held.lstrip() if self._after_thought else held)

    def _open(self) -> None:
        rest = self._held.lstrip()
        if rest.startswith(OPEN):  # also the one that the prompt has already
            self._held, self._inside = rest[len(OPEN) :].lstrip(), True
        elif rest.startswith(CLOSE):
            self._held, self._inside = rest[len(CLOSE) :].lstrip(), False
            self._after_thought = True
        elif not (OPEN.startswith(rest) or CLOSE.startswith(rest)):
            if self._inside or self._after_thought:
                self._held = rest
            self._state = "thought" if self._inside else "answer"

    def _thought(self) -> str:
        thought, end, rest = self._held.partition(CLOSE)
        if end:
            self._held, self._state = rest, "opening"
            self._inside, self._after_thought = False, True
            whole = thought.rstrip()
        else:
            whole = self._held[: len(self._held) - overlap(self._held, CLOSE)].rstrip()
            self._held = self._held[len(whole) :]
        told = f"{self._gap}{whole}" if whole else ""
        self._told = self._told or bool(whole)
        if end or whole:
            self._gap = "\n\n" if end and self._told else ""
        return told


def overlap(text: str, wanted: str) -> int:
    """How many characters at the end of `text` are a beginning of `wanted`, but not all of it."""
    return next(
        (n for n in range(min(len(text), len(wanted) - 1), 0, -1) if text.endswith(wanted[:n])), 0
    )
