"""Drafts: what an answer may say next, because it stood before in its prompt or in itself.

Text that is read off a picture's transcript, JSON, code, quotes and timelines repeat what is there.
A draft is a guess only: the model checks it in one pass, and takes what it would have said itself.
The source is prompt lookup decoding, github.com/apoorvumang/prompt-lookup-decoding. Knows token
ids; nothing of models, sampling or time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

MOST_PLACES = 8  # of the same two tokens that are compared; the latest ones
LONGEST_MATCH = 16  # tokens; longer matches are as good
RESUMED_FROM = 4  # tokens; where a match of so many broke, a copy may go on
# How likely the next token is right, by the match before it: of 0, 1, 2, 4 and 8 tokens or more.
FIRST_ODDS = (0.1, 0.3, 0.4, 0.7, 0.9)
LEARNING_RATE = 0.1  # how much of its odds each token changes


@dataclass(frozen=True)
class Draft:
    """Tokens that may come next; `chances[i]` tells how likely the first i + 1 are all right."""

    tokens: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)


class Drafter:
    """Follows one answer, and learns how often what stood before comes again."""

    def __init__(self, prompt: Sequence[int], barred: Collection[int] = ()) -> None:
        """`barred` tokens end a draft: those of pictures, which are no text."""
        self._tokens: list[int] = []  # of the prompt and the answer
        self._barred = frozenset(barred)
        self._latest: dict[tuple[int, int], int] = {}  # two tokens -> the place behind them
        self._earlier: dict[int, int] = {}  # a place -> the one before, behind the same two
        self._odds = list(FIRST_ODDS)
        self._place: int | None = None  # of the token that may come next
        self._matched = 0  # tokens before that place are as those at the end
        self._broke_at: int | None = None  # where a copy may go on, after words of its own
        for token in prompt:
            self._append(token)
        self._find()

    def push(self, token: int) -> None:
        """Takes in a token of the answer."""
        if self._place is not None:
            is_right = self._tokens[self._place] == token
            kind = _kind(self._matched)
            self._odds[kind] += (is_right - self._odds[kind]) * LEARNING_RATE
            if is_right:
                self._place += 1
                self._matched += 1
            else:
                if self._matched >= RESUMED_FROM:
                    self._broke_at = self._place
                self._place, self._matched = self._broke_at, 0
        self._append(token)
        self._find()

    def draft(self, most: int) -> Draft:
        """At most so many tokens."""
        place, end = self._place, len(self._tokens)
        draft = Draft()
        if place is None:
            return draft
        chance = 1.0
        for i in range(most):
            at = place + i  # a cycle goes on in the draft itself
            token = self._tokens[at] if at < end else draft.tokens[at - end]
            if token in self._barred:
                break
            chance *= self._odds[_kind(self._matched + i)]
            draft.tokens.append(token)
            draft.chances.append(chance)
        return draft

    def _append(self, token: int) -> None:
        """The end itself is not looked up: `_find` comes before its place is known."""
        tokens, end = self._tokens, len(self._tokens)
        if end >= 2 and tokens[-1] not in self._barred:
            last = tokens[-2], tokens[-1]
            if (before := self._latest.get(last)) is not None:
                self._earlier[end] = before
            self._latest[last] = end
        tokens.append(token)

    def _find(self) -> None:
        """Goes to the latest place with the longest match, if it is longer than that of now."""
        tokens = self._tokens
        if self._matched >= LONGEST_MATCH or len(tokens) < 2:
            return
        place = self._latest.get((tokens[-2], tokens[-1]))
        for _ in range(MOST_PLACES):
            if place is None:
                return
            matched = self._match(place)
            if matched > self._matched:
                self._place, self._matched = place, matched
            place = self._earlier.get(place)

    def _match(self, place: int) -> int:
        """How many tokens before a place are the same as those at the end."""
        tokens, end, matched = self._tokens, len(self._tokens), 0
        while matched < min(LONGEST_MATCH, place):
            if tokens[place - 1 - matched] != tokens[end - 1 - matched]:
                break
            matched += 1
        return matched


def _kind(matched: int) -> int:
    return min(matched.bit_length(), len(FIRST_ODDS) - 1)
