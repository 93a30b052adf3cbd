"""Ends the thought of an answer in time, so that the answer itself has tokens left.

A thought is over when its budget is spent, when it runs in a circle, or when the model would end
there without an answer. Then the template's own closing words are put in, and the model goes on
after them. Knows token ids; `detokenize` tells what is thought.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from qwen_vl.engine.local.detokenize import TextStream

ANSWER_SHARE = 4  # of an answer's tokens at least one in so many is kept for what it says


def budget_tokens(asked: int | None, limit: int, most_tokens: int) -> int:
    """The tokens of a thought in an answer of `most_tokens`, so that the answer has some left."""
    return min(limit if asked is None else asked, limit, most_tokens - most_tokens // ANSWER_SHARE)


class Thought:
    """The thought of one answer. `closing` are the tokens that end it."""

    def __init__(self, text: TextStream, budget_tokens: int, closing: Sequence[int]) -> None:
        self._text, self._left, self._closing = text, budget_tokens, closing
        self._forced: deque[int] = deque()

    def next_token(self, sampled: Callable[[], int], end_ids: Collection[int]) -> int:
        """A token of the closing words while they are put in, else the sampled one."""
        if self._text.in_thought and self._left <= 0:
            self.close()
        if not self._forced:
            token = sampled()
            if token not in end_ids or not self.close():
                return token
        return self._forced.popleft()

    def count(self) -> None:
        self._left -= 1

    def close(self) -> bool:
        """Puts the closing words in, once; False where there is no thought to be closed."""
        if not self._text.in_thought or self._forced:
            return bool(self._forced)
        self._forced.extend(self._closing)
        self._closing = ()  # should they close nothing, the model goes on as it likes
        return bool(self._forced)
