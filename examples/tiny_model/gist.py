"""What a picture says as a whole, and what is new in it since the picture before.

Asked of the text model as a side task where each picture ends, and of each shape and of the place
that a shape left: a timeline needs frames compared with each other and their changes counted, and
its answers alone teach that slowly.
Knows what is shown. Knows nothing of tokens, of questions or of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from reading import BARS, MOST, TRENDS, Line, Mark
from scene import CELLS, COLOURS, SHAPES

EVENTS = ("nothing", "appear", "move", "turn", "disappear")
# What is asked, and how many answers there are; 0 means "not asked".
GIST = {
    "event": len(EVENTS),  # since the picture before
    "event_nth": MOST,  # which one it is since the first picture
    "colour": len(COLOURS),  # of the shape that it happened to, as it was before
    "shape": len(SHAPES),
    "cell": len(CELLS),  # where that shape is now, or was if it is gone
    "after": len(COLOURS),  # what colour it turned
    "count": MOST,  # of shapes, lines, bars
    "highest": MOST,  # which bar, from the left
    "lowest": MOST,
    "trend": len(TRENDS),
    # How many shapes of each kind and colour: "the stars are green and red" begins with two stars.
    **dict.fromkeys((*SHAPES, *COLOURS), MOST),
}
GIST_AT = {name: i for i, name in enumerate(GIST)}
COLOUR_IDS = {colour: i + 1 for i, colour in enumerate(COLOURS)}

Shown = tuple[Line | Mark, ...]


class PictureGist(NamedTuple):
    """Labels [len(GIST)] of a picture as a whole, and of its shapes and the places they left."""

    whole: np.ndarray
    parts: list[tuple[Mark, np.ndarray]]


class Change(NamedTuple):
    """An event, the shape before it (after it, where it is new) and after it (before, if gone)."""

    event: str
    was: Mark
    now: Mark


def gists(pictures: tuple[Shown, ...], sizes: list[tuple[int, int]]) -> Iterator[PictureGist]:
    """What each picture says; `sizes` are (width, height) in pixels."""
    nth, before = 0, None
    for shown, size in zip(pictures, sizes, strict=True):
        whole = _still(shown)
        parts: list[tuple[Mark, np.ndarray]] = []
        if before is not None and not any(isinstance(part, Line) for part in shown):
            found = changes(shown, before)
            for change in found:
                nth += 1
                parts.append((change.now, _told(change, nth, size)))
            calm = np.zeros_like(whole)
            calm[GIST_AT["event"]] = EVENTS.index("nothing") + 1
            changed = [change.now for change in found]
            parts += [(mark, calm) for mark in shown if mark not in changed]
            if len(found) < 2:  # of two changes neither is what the picture says
                whole += parts[0][1] if found else calm
        before = shown
        yield PictureGist(whole, parts)


def changes(shown: Shown, before: Shown) -> list[Change]:
    """What happened between two pictures of shapes, in reading order of where it happened."""
    places = {(mark.symbol, mark.x, mark.y_centre) for mark in before}
    kept = {(mark.symbol, mark.x, mark.y_centre) for mark in shown} & places
    new, gone = (
        [mark for mark in marks if (mark.symbol, mark.x, mark.y_centre) not in kept]
        for marks in (shown, before)
    )
    found = []
    for now in new:
        event, was = "appear", now
        for old in gone:
            if old.symbol == now.symbol:
                event, was = "move", old
            elif (old.x, old.y_centre) == (now.x, now.y_centre) and _kind(old) == _kind(now):
                event, was = "turn", old
        if was in gone:
            gone.remove(was)
        found.append(Change(event, was, now))
    found += [Change("disappear", old, old) for old in gone]
    return sorted(found, key=lambda change: (change.was.y_centre, change.was.x))


def _kind(mark: Mark) -> str:
    return mark.symbol.split(" ")[1]


def _still(shown: Shown) -> np.ndarray:
    labels = np.zeros(len(GIST), dtype=np.int64)
    if shown and all(part.note and part.note.role == "shape" for part in shown):
        looks = [look for part in shown for look in part.symbol.split(" ")]
        for look in (*SHAPES, *COLOURS):
            labels[GIST_AT[look]] = min(looks.count(look) + 1, MOST)
    for part in shown:
        if part.note and part.note.role in ("shape", "line", *BARS):
            labels[GIST_AT["count"]] = min(part.note.of, MOST)
        if part.note and part.note.role in ("highest", "lowest"):
            labels[GIST_AT[part.note.role]] = part.note.nth
            labels[GIST_AT["trend"]] = TRENDS.index(part.note.trend) + 1
    return labels


def _told(change: Change, nth: int, size: tuple[int, int]) -> np.ndarray:
    labels = np.zeros(len(GIST), dtype=np.int64)
    labels[GIST_AT["event"]] = EVENTS.index(change.event) + 1
    labels[GIST_AT["event_nth"]] = min(nth, MOST)
    colour, shape = change.was.symbol.split(" ")
    labels[GIST_AT["colour"]] = COLOUR_IDS[colour]
    labels[GIST_AT["shape"]] = SHAPES.index(shape) + 1
    row, col = (int(3 * part / side) for part, side in zip(
        (change.now.y_centre, change.now.x), size[::-1], strict=True
    ))  # fmt: skip
    labels[GIST_AT["cell"]] = CELLS.index((row, col)) + 1
    if change.event == "turn":
        labels[GIST_AT["after"]] = COLOUR_IDS[change.now.symbol.split(" ")[0]]
    return labels
