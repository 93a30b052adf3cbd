"""Several moments of one scene -> the one that shows it best, and where more are needed.

Best is sharp, well exposed and near the middle. Two that look alike tell nothing twice. Knows grey
pictures and seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

CLIPPED = 8  # of 255: what is nearer to black or white shows nothing
MIDDLE_SHARE = 0.6  # of a scene's moments, those nearest to its middle, may be chosen
NEAR_WEIGHT = 0.35  # of clearness that is given up for being in the middle
ALIKE_MEAN, ALIKE_MOST = 4.0, 24.0  # of 255: what two pictures of one thing differ by, at most


class Seen(NamedTuple):
    """When, in s after the first picture of a clip; how clear; and [planes, height, width]."""

    time_s: float
    clear: float
    small: np.ndarray


def best(moments: Sequence[Seen], middle_s: float) -> Seen:
    by_distance = sorted(moments, key=lambda seen: abs(seen.time_s - middle_s))
    near = by_distance[: max(1, round(len(by_distance) * MIDDLE_SHARE))]
    farthest_s = max(abs(seen.time_s - middle_s) for seen in near) or 1.0
    clearest = max(seen.clear for seen in near) or 1.0

    def worth(seen: Seen) -> float:
        return seen.clear / clearest - NEAR_WEIGHT * abs(seen.time_s - middle_s) / farthest_s

    return max(near, key=worth)


def clearness(grey: np.ndarray) -> float:
    """How much detail a small picture shows: its edges, less what is too dark or light to be seen.

    `grey` is [height, width], 0..255.
    """
    if min(grey.shape) < 3:
        return 0.0
    grey = grey.astype(np.float32)
    inner = grey[1:-1, 1:-1]
    edges = 4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    shown = float(((grey > CLIPPED) & (grey < 255 - CLIPPED)).mean())
    return float(np.sqrt((edges**2).mean())) * (0.25 + 0.75 * shown)


def is_alike(one: Seen, other: Seen) -> bool:
    """Whether two pictures show the same: not even a line of text is another."""
    if one.small.shape != other.small.shape:
        return False
    far = np.abs(one.small - other.small)
    return float(far.mean()) <= ALIKE_MEAN and float(far.max()) <= ALIKE_MOST


def without_repeats(found: Iterable[Seen]) -> list[Seen]:
    """Leaves out each one that looks like the one before it."""
    kept: list[Seen] = []
    for seen in found:
        if not kept or not is_alike(kept[-1], seen):
            kept.append(seen)
    return kept


def filled(known: Sequence[Seen], moments: Sequence[Seen], count: int) -> list[Seen]:
    """`known`, and the best of other moments up to `count` in all, in the order of time.

    `moments` are parted into `count` stretches of equal length, and those get one that have none:
    first where the next known one is farthest. One that shows something new goes before one that
    looks like its neighbours, but a clip in which nothing moves is covered, too.
    """
    times_s, more = [seen.time_s for seen in known], []
    size = max(1.0, len(moments) / count)
    for i in range(min(count, len(moments))):
        stretch = moments[round(i * size) : round((i + 1) * size)]
        start_s, end_s = stretch[0].time_s, stretch[-1].time_s
        if not any(start_s <= time_s <= end_s for time_s in times_s):
            new = [seen for seen in stretch if not any(is_alike(seen, one) for one in known)]
            more.append(best(new or stretch, (start_s + end_s) / 2))
    more.sort(key=lambda seen: min((abs(seen.time_s - t) for t in times_s), default=0.0))
    too_many = max(0, len(known) + len(more) - count)
    return sorted([*known, *more[too_many:]], key=lambda seen: seen.time_s)
