"""Several moments of one scene -> the one that shows it best, and where more are needed.

Best is sharp, well exposed and near the middle. Knows grey pictures and seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Seen: TypeAlias = tuple[float, float]  # seconds after the start of the clip, clearness

CLIPPED = 8  # of 255: what is nearer to black or white shows nothing
MIDDLE_SHARE = 0.6  # of a scene's moments, those nearest to its middle, may be chosen
NEAR_WEIGHT = 0.35  # of clearness that is given up for being in the middle


def best(moments: Sequence[Seen], middle_s: float) -> Seen:
    by_distance = sorted(moments, key=lambda seen: abs(seen[0] - middle_s))
    near = by_distance[: max(1, round(len(by_distance) * MIDDLE_SHARE))]
    farthest_s = max(abs(time_s - middle_s) for time_s, _ in near) or 1.0
    clearest = max(clear for _, clear in near) or 1.0

    def worth(seen: Seen) -> float:
        return seen[1] / clearest - NEAR_WEIGHT * abs(seen[0] - middle_s) / farthest_s

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


def filled(times_s: Sequence[float], length_s: float, count: int, least_s: float) -> list[float]:
    """More times, for `count` in all: those of an even spread that are farthest from all others.

    None is nearer to another than `least_s`.
    """
    known, more = list(times_s), []
    spread = [i * length_s / count for i in range(count)]
    while len(known) < count and spread:
        gap_s, time_s = max(
            (min((abs(one - t) for one in known), default=length_s), -t) for t in spread
        )
        if gap_s < least_s:
            break
        spread.remove(-time_s)
        more.append(-time_s)
        known.append(-time_s)
    return sorted(more)
