"""What a picture says as a whole, and what is new in it since the picture before.

Asked of the text model as a side task where each picture ends, and of each shape whether it is new:
a timeline needs frames compared with each other, and its answers alone teach that slowly.
Knows what is shown. Knows nothing of tokens, of questions or of the model.
"""

from __future__ import annotations

import numpy as np
from reading import BARS, TRENDS, Line, Mark
from scene import CELLS, COLOURS, SHAPES

EVENTS = ("nothing", "appear", "move", "turn", "disappear")
MOST = 8
# What is asked, and how many answers there are; 0 means "not asked".
GIST = {
    "event": len(EVENTS),  # since the picture before; of a shape: how it came to be as it is
    "colour": len(COLOURS),  # of the shape that it happened to, as it was before
    "shape": len(SHAPES),
    "cell": len(CELLS),  # where that shape is now, or was if it is gone
    "after": len(COLOURS),  # what colour it turned
    "count": MOST,  # of shapes, lines, bars
    "highest": MOST,  # which bar, from the left
    "lowest": MOST,
    "trend": len(TRENDS),
}
GIST_AT = {name: i for i, name in enumerate(GIST)}

Shown = tuple[Line | Mark, ...]


def picture_gist(shown: Shown, before: Shown | None, size: tuple[int, int]) -> np.ndarray:
    """The labels [len(GIST)] of a picture of `size` (width, height) in pixels.

    `before` is what the picture before it shows, None for the first.
    """
    labels = np.zeros(len(GIST), dtype=np.int64)
    for part in shown:
        if part.note and part.note.role in ("shape", "line", *BARS):
            labels[GIST_AT["count"]] = min(part.note.of, MOST)
        if part.note and part.note.role in ("highest", "lowest"):
            labels[GIST_AT[part.note.role]] = part.note.nth
            labels[GIST_AT["trend"]] = TRENDS.index(part.note.trend) + 1
    if before is None or any(isinstance(part, Line) for part in shown):
        return labels
    now, gone = _new(shown, before), _new(before, shown)
    if len(now) > 1 or len(gone) > 1:
        return labels
    event = mark_event(now[0], gone) if now else "disappear" if gone else "nothing"
    labels[GIST_AT["event"]] = EVENTS.index(event) + 1
    for mark in (now + gone)[:1]:
        row, col = (int(3 * share) for share in (mark.y_centre / size[1], mark.x / size[0]))
        labels[GIST_AT["cell"]] = CELLS.index((row, col)) + 1
    for mark in (gone + now)[:1]:
        colour, shape = mark.symbol.split(" ")
        labels[GIST_AT["colour"]] = list(COLOURS).index(colour) + 1
        labels[GIST_AT["shape"]] = SHAPES.index(shape) + 1
    if event == "turn":
        labels[GIST_AT["after"]] = list(COLOURS).index(now[0].symbol.split(" ")[0]) + 1
    return labels


def mark_gists(shown: Shown, before: Shown) -> list[tuple[Mark, int]]:
    """Each shape of a picture, and the label of how it came to be as it is."""
    now, gone = _new(shown, before), _new(before, shown)
    return [
        (mark, EVENTS.index(mark_event(mark, gone) if mark in now else "nothing") + 1)
        for mark in shown
        if isinstance(mark, Mark)
    ]


def mark_event(mark: Mark, gone: list[Mark]) -> str:
    """How a shape that was not there like this came about; `gone` are those that are no more."""
    if any(other.symbol == mark.symbol for other in gone):
        return "move"
    kind, place = mark.symbol.split(" ")[1], (mark.x, mark.y_centre)
    if any(other.symbol.endswith(kind) and (other.x, other.y_centre) == place for other in gone):
        return "turn"
    return "appear"


def _new(shown: Shown, before: Shown) -> list[Mark]:
    was = {(part.symbol, part.x, part.y_centre) for part in before if isinstance(part, Mark)}
    return [
        part
        for part in shown
        if isinstance(part, Mark) and (part.symbol, part.x, part.y_centre) not in was
    ]
