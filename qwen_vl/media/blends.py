"""Dissolves and fades: pictures that turn into others bit by bit.

In a dissolve each picture is a mixture of the one before it and the one after it, and the share of
the latter grows. Nothing that moves looks like that: half-way of a pan is no mixture of its ends. A
change of light alone is one, so pictures must differ in more than light. Knows grey pictures and
seconds, in one pass with bounded memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

SIDE_PX = 48
WINDOWS_S = (0.4, 0.9, 2.0)  # lengths of transitions that are looked for
LEAST_CHANGE = 8.0  # of 255 in the mean, from one end to the other
MOST_REST = 0.22  # of that change: what a mixture leaves unexplained
LEAST_STEP = 0.3  # of an even step: by so much the share of the later picture grows each time
LEAST_PICTURES, MOST_PICTURES = 4, 6  # that are compared
SLACK = 0.15  # of a window's length
SAME_CONTENT = 0.9  # correlation from which on only the light differs
BLANK = 5.0  # standard deviation of a picture without anything in it
BLACK, WHITE = 24, 231  # and the mean of one that is nearly black or white


class BlendFinder:
    """Give it the pictures in the order of time; it tells when one has turned into another."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, np.ndarray]] = deque()
        self._found: tuple[float, float] | None = None  # what is going on

    def add(self, time_s: float, grey: np.ndarray) -> tuple[float, float] | None:
        """(start, end) in seconds of a transition that is over now. `grey` is `smaller`'s."""
        self._recent.append((time_s, grey))
        while time_s - self._recent[0][0] > WINDOWS_S[-1] + 0.3:
            self._recent.popleft()
        starts = (self._start_of(window_s) for window_s in reversed(WINDOWS_S))
        start_s = next((found for found in starts if found is not None), None)
        if start_s is not None:
            before_s = self._found[0] if self._found else start_s
            self._found = (min(before_s, start_s), time_s)
            return None
        return self.finish()

    def finish(self) -> tuple[float, float] | None:
        """A transition that the clip ends in, or that has just ended."""
        found, self._found = self._found, None
        return found

    def _start_of(self, window_s: float) -> float | None:
        """When the transition began that fills the latest `window_s`, if there is one."""
        from_s = self._recent[-1][0] - window_s * (1 + SLACK)
        picks = [item for item in self._recent if item[0] >= from_s]
        if len(picks) < LEAST_PICTURES or picks[-1][0] - picks[0][0] < window_s * (1 - SLACK):
            return None
        every = -(-len(picks) // MOST_PICTURES)
        picks = picks[::-every][::-1]
        return picks[0][0] if is_blend([picture for _, picture in picks]) else None


def is_blend(pictures: Sequence[np.ndarray]) -> bool:
    """Whether the inner pictures are mixtures of the first and the last, more and more of it."""
    first, *inner, last = pictures
    way = last - first
    change = float(np.abs(way).mean())
    if change < LEAST_CHANGE:
        return False
    length, least_step, before = float((way**2).sum()), LEAST_STEP / len(inner), 0.0
    for picture in inner:
        share = float(((picture - first) * way).sum()) / length
        rest = float(np.abs(picture - first - share * way).mean())
        if rest > MOST_REST * change or share - before < least_step:
            return False
        before = share
    return 1 - before >= least_step and _differ(first, last)


def _differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures show other things, not the same in another light."""
    if is_blank(one) or is_blank(other):
        return is_blank(one) != is_blank(other)
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < SAME_CONTENT


def is_blank(grey: np.ndarray) -> bool:
    """Whether there is nothing to see."""
    return float(grey.std()) < BLANK


def shows_nothing(grey: np.ndarray) -> bool:
    """Whether a picture is all black or all white."""
    return is_blank(grey) and not BLACK <= float(grey.mean()) <= WHITE


def smaller(grey: np.ndarray) -> np.ndarray:
    """float32, no side longer than SIDE_PX: means of blocks."""
    step = max(1, -(-max(grey.shape) // SIDE_PX))
    height, width = (max(1, length // step) for length in grey.shape)
    cut = grey[: height * step, : width * step].astype(np.float32)
    if min(grey.shape) < step:
        return cut
    return cut.reshape(height, step, width, step).mean(axis=(1, 3))
