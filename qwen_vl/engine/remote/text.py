"""The pieces of an answer as one text: thoughts between tags, characters whole, within a bound.

Knows text only.
"""

from __future__ import annotations

TOKEN_CHARS = 32  # more than any text has for each of its tokens
SLACK_CHARS = 512  # but a single token may be long
_OPEN, _AGAIN, _CLOSE = "<think>\n", "\n\n<think>\n", "</think>\n\n"


class Transcript:
    """Puts thoughts and texts together, in their order, as the models themselves write them."""

    def __init__(self, most_tokens: int) -> None:
        self._left = most_tokens * TOKEN_CHARS + SLACK_CHARS
        self._thinking = self._begun = False
        self._half = ""  # of a surrogate pair whose other half comes with the next piece

    @property
    def is_full(self) -> bool:
        """Whether the server goes on after the tokens that it was asked for."""
        return self._left <= 0

    def add(self, thought: str, text: str) -> str:
        """What a piece adds to the answer."""
        told = ""
        if thought:
            opening = _AGAIN if self._begun else _OPEN
            told, self._thinking = f"{'' if self._thinking else opening}{thought}", True
        if text:
            told, self._thinking = f"{told}{_CLOSE if self._thinking else ''}{text}", False
        self._begun = self._begun or bool(told)
        told = self._whole(told)[: self._left]
        self._left -= len(told)
        return told

    def _whole(self, text: str) -> str:
        """Puts surrogate pairs together that were sent in halves; what stays half becomes '?'."""
        text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return paired.encode(errors="replace").decode()
