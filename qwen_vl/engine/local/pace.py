"""How long decoding passes take, and how many tokens of each row the next one should run.

A wider pass checks more of a draft and takes longer: how much, only a measurement tells. It depends
on the machine, the kernels and the rows. Knows chances and seconds; nothing of tokens or models.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16)  # tokens of each row in one pass
MOST_DRAFTED = WIDTHS[-1] - 1
SURE_AFTER = 3  # passes: the first one of a width may set something up, or meet a busy machine
LEARNING_RATE = 0.2
DOUBTED_AFTER = 128  # passes: a width may have looked slow because something else ran


class _Measured:
    """Seconds of one kind of pass."""

    def __init__(self) -> None:
        self.passes = 0
        self.seconds = 0.0
        self.last_pass = 0  # of all kinds

    @property
    def is_known(self) -> bool:
        return self.passes >= SURE_AFTER


class Pace:
    """The passes of one model."""

    def __init__(self) -> None:
        self._measured: dict[tuple[int, int], _Measured] = {}  # by rows and width
        self._passes = 0

    def measure(self, rows: int, width: int, seconds: float) -> None:
        """Takes in what a pass took."""
        self._passes += 1
        one = self._measured.setdefault((rows, width), _Measured())
        if one.passes == 0 or self._is_doubted(one):
            one.seconds = seconds
        elif not one.is_known:
            one.seconds = min(one.seconds, seconds)
        else:
            one.seconds += (seconds - one.seconds) * LEARNING_RATE
        one.passes += 1
        one.last_pass = self._passes

    def width(self, chances: Sequence[Sequence[float]]) -> int:
        """How wide the next pass should be, so that most tokens come out of a second.

        `chances` has a row for each row of the batch: how likely the first 1, 2, .. tokens of its
        draft are all right.
        """
        rows, longest = len(chances), max(map(len, chances))
        best, best_speed, seconds = 1, 0.0, None
        for width in WIDTHS[: bisect_right(WIDTHS, longest + 1)]:
            one = self._measured.get((rows, width), _Measured())
            if one.is_known and (seconds is None or not self._is_doubted(one)):
                seconds = one.seconds
            elif one.is_known and seconds is not None:
                seconds = min(seconds, one.seconds)
            # What is not known takes at least as long as the next narrower one.
            if seconds is None:
                break
            tokens = rows + sum(sum(row[: width - 1]) for row in chances)
            if tokens / seconds > best_speed:
                best, best_speed = width, tokens / seconds
            if not one.is_known:
                break  # step by step: much wider passes may be very slow
        return best

    def _is_doubted(self, one: _Measured) -> bool:
        return self._passes - one.last_pass > DOUBTED_AFTER
