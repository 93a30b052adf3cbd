"""The sequences that wait, and whose turn it is. Not safe between threads: the scheduler locks.

The scope with the fewest running answers goes first, then sequences without new pictures, then the
first come. Nobody starves: once the oldest has waited for PATIENCE_S, it gets every second turn.
Neither one scope nor new pictures may fill the whole queue.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping

from qwen_vl.engine.answer import Answer
from qwen_vl.engine.local.sequence import Sequence
from qwen_vl.engine.local.turns import is_full, share_of
from qwen_vl.errors import Busy
from qwen_vl.schema import Standing

PATIENCE_S = 10.0


class WaitingSequences:
    """At most `most` of them, in the order in which they came."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sequences: list[Sequence] = []
        self._patient = False  # whether the last turn went to the one that waited longest

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def busy(self) -> Busy:
        """The refusal of one more."""
        return Busy(
            f"{len(self)} requests are waiting already, no more are taken: try again in "
            f"{Busy.retry_after_s} seconds."
        )

    def is_full(self, scope: str, *, new_pictures: bool = False) -> bool:
        """Whether no more sequences of this scope are taken; some places are for texts alone."""
        if len(self) >= self._most:
            return True
        alike = [s.scope for s in self._sequences if bool(s.prepared.pixel_bytes) == new_pictures]
        return is_full(alike, scope, share_of(self._most) if new_pictures else self._most)

    def append(self, sequence: Sequence) -> None:
        self._sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        self._sequences.remove(sequence)

    def forget(self, answer: Answer) -> None:
        """Removes the sequence whose reader has gone."""
        self._sequences = [one for one in self._sequences if one.answer is not answer]

    def clear(self) -> None:
        self._sequences = []

    def tell_places(self, running: Mapping[str, int]) -> None:
        """Tells everybody who waits how many turns it takes until theirs."""
        for place, sequence in enumerate(self.in_order(running), start=1):
            sequence.answer.standing = Standing(place=place)

    def in_turn(self, running: Mapping[str, int]) -> list[Sequence]:
        """All of them, the one whose turn it is first; `running` counts the answers of each scope.

        Call it once for each turn that is taken.
        """
        if not self._sequences:
            return []
        oldest = self._sequences[0]
        late = time.monotonic() - oldest.queued_s > PATIENCE_S
        self._patient = late and not self._patient
        order = self.in_order(running)
        if self._patient:
            order.remove(oldest)
            order.insert(0, oldest)
        return order

    def in_order(self, running: Mapping[str, int]) -> list[Sequence]:
        """All of them, the one whose turn is next first."""
        counts = Counter(running)

        def rank(sequence: Sequence) -> tuple[int, bool]:
            return counts[sequence.scope], bool(sequence.prepared.pixel_bytes)

        order, left = [], list(self._sequences)
        while left:
            order.append(min(left, key=rank))
            left.remove(order[-1])
            counts[order[-1].scope] += 1
        return order
