"""Stretches of a clip that could not be decoded, as a list that stays short.

Knows seconds. Does not know what damage is.
"""

from __future__ import annotations

from typing import TypeAlias

MOST_STRETCHES = 20  # that are told apart
Stretch: TypeAlias = tuple[float, float]  # from, to; in s


def joined(stretches: list[Stretch], most: int = MOST_STRETCHES) -> list[Stretch]:
    """In order, and no two overlap. Over `most`, the nearest become one, so none is left out.

    A clip may be read more than once, and then tells the same stretch again.
    """
    found: list[Stretch] = []
    for start_s, end_s in sorted(stretches):
        if found and start_s < found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end_s)
        else:
            found.append((start_s, end_s))
    while len(found) > most:
        near = min(range(1, len(found)), key=lambda i: found[i][0] - found[i - 1][1])
        found[near - 1 : near + 1] = [(found[near - 1][0], found[near][1])]
    return found
