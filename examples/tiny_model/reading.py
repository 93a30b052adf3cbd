"""Densely printed pages for the reading stage, and what lies under each visual token.

Knows how to fill a picture with text, which character lies where, and what the side task asks about
a place. Knows nothing of questions, tokens of the text model, or how training works.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import words
from fonts import CHARS, char_centres, font_names, load_font
from PIL import Image, ImageDraw
from scene import COLOURS, SHAPES

CELL_PX = 32  # one visual token covers 32 x 32 pixels of the resized picture
SLOTS = 8  # characters that one visual token may hold
LARGEST_PX = 32  # of a page's fonts
NOTHING = 0
# What a visual token may be asked to name: characters, and whole shapes by colour and kind.
SYMBOLS = (*CHARS, *(f"{colour} {kind}" for colour in COLOURS for kind in SHAPES), " ")
SYMBOL_IDS = {symbol: i + 1 for i, symbol in enumerate(SYMBOLS)}
EDGE = "\n"  # stands for the character before a line's first and after its last
NEIGHBOUR_IDS = {char: i + 1 for i, char in enumerate((*CHARS, " ", EDGE))}
ROLES = (
    "shape", "line", "heading", "label", "title", "button", "field", "bar", "highest", "lowest",
    "value", "invoice_no", "date", "due_date", "customer", "tax", "total",
)  # fmt: skip
BARS = ("bar", "highest", "lowest")  # roles of a bar's label
TRENDS = ("rising", "falling", "mixed")
MOST, BOX_STEPS, PLACE_STEPS = 8, 50, 32
# What else a visual token may be asked, and how many answers there are; 0 means "not asked".
HINTS = {
    "before": len(NEIGHBOUR_IDS),  # the character before the token's first one, on the same line
    "before_2": len(NEIGHBOUR_IDS),  # the one before that
    "after": len(NEIGHBOUR_IDS),  # the character after the token's last one
    "role": len(ROLES),
    "nth": MOST,
    "of": MOST,
    "trend": len(TRENDS),
    "x1": BOX_STEPS + 1,
    "y1": BOX_STEPS + 1,
    "x2": BOX_STEPS + 1,
    "y2": BOX_STEPS + 1,
    "col": PLACE_STEPS,  # where the token lies, as a share of the picture's sides
    "row": PLACE_STEPS,
}
HINT_AT = {name: i for i, name in enumerate(HINTS)}


@dataclass(frozen=True)
class Note:
    """What a printed line or a shape is: its role, the `nth` `of` how many, its box in 0-1000."""

    role: str
    nth: int = 0
    of: int = 0
    box: tuple[int, ...] | None = None
    trend: str = ""


@dataclass(frozen=True)
class Line:
    """One printed line: its text, font, and the pixel at which its ink's box starts.

    `middles` are the x of its characters' middles where whoever printed it has measured them.
    """

    text: str
    font: str
    size_px: int
    x: float
    y_centre: float
    note: Note | None = None
    middles: tuple[float, ...] = ()

    def centres(self) -> list[float]:
        """The x of the middle of each character, in pixels; a space is where the next one is.

        In which half of a gap its middle lies cannot be seen: half of all spaces were missed so.
        """
        found = list(self.middles) or [
            self.x + part for part in char_centres(self.font, self.size_px, self.text)
        ]
        for i in reversed(range(len(found) - 1)):
            if self.text[i] == " ":
                found[i] = found[i + 1]
        return found


@dataclass(frozen=True)
class Mark:
    """One symbol that is not print, such as "red circle", and its middle in pixels."""

    symbol: str
    x: float
    y_centre: float
    note: Note | None = None


class TokenLabels(NamedTuple):
    """What the side task asks of each visual token; 0 is "nothing" and "not asked".

    `slots` [tokens, SLOTS] are symbols in reading order, `hints` [tokens, len(HINTS)] the rest.
    """

    slots: np.ndarray
    hints: np.ndarray


def cell_of(
    x: float, y: float, raw: tuple[int, int], cells: tuple[int, int]
) -> tuple[int, int] | None:
    """(row, column) of the visual token over a point; None beside the picture.

    `raw` is (width, height) of the drawn picture, `cells` is (rows, cols) after resizing.
    """
    row = min(cells[0] - 1, max(0, int(y * cells[0] / raw[1])))
    col = int(x * cells[1] / raw[0])
    return (row, col) if 0 <= col < cells[1] else None


def token_labels(
    shown: list[Line | Mark], raw: tuple[int, int], cells: tuple[int, int]
) -> TokenLabels:
    """Labels of all visual tokens, row by row; `raw` and `cells` as for `cell_of`.

    A character belongs to the token that holds (its own middle x, its line's middle y).
    """
    rows, cols = cells
    slots = np.zeros((rows, cols, SLOTS), dtype=np.int64)
    used = np.zeros((rows, cols), dtype=np.int64)
    hints = np.zeros((rows, cols, len(HINTS)), dtype=np.int64)
    hints[..., HINT_AT["row"]] = ((np.arange(rows) + 0.5) * PLACE_STEPS / rows)[:, None] + 1
    hints[..., HINT_AT["col"]] = (np.arange(cols) + 0.5) * PLACE_STEPS / cols + 1
    for part in sorted(shown, key=lambda part: (part.y_centre, part.x)):
        is_line = isinstance(part, Line)
        symbols = part.text if is_line else (part.symbol,)
        centres = part.centres() if is_line else (part.x,)
        edged = EDGE * 2 + part.text + EDGE if is_line else ""
        for i, (symbol, x) in enumerate(zip(symbols, centres, strict=True)):
            cell = cell_of(x, part.y_centre, raw, cells)
            if cell is None or used[cell] == SLOTS:
                continue
            slots[cell][used[cell]] = SYMBOL_IDS[symbol]
            if is_line:
                if not used[cell]:
                    hints[cell][HINT_AT["before_2"]] = NEIGHBOUR_IDS[edged[i]]
                    hints[cell][HINT_AT["before"]] = NEIGHBOUR_IDS[edged[i + 1]]
                hints[cell][HINT_AT["after"]] = NEIGHBOUR_IDS[edged[i + 3]]
            if part.note and not used[cell]:
                _note(hints[cell], part.note)
            used[cell] += 1
    return TokenLabels(slots.reshape(-1, SLOTS), hints.reshape(rows * cols, -1))


def _note(hints: np.ndarray, note: Note) -> None:
    hints[HINT_AT["role"]] = ROLES.index(note.role) + 1
    hints[HINT_AT["nth"]], hints[HINT_AT["of"]] = min(note.nth, MOST), min(note.of, MOST)
    if note.trend:
        hints[HINT_AT["trend"]] = TRENDS.index(note.trend) + 1
    if note.box:
        for side, part in zip(("x1", "y1", "x2", "y2"), note.box, strict=True):
            hints[HINT_AT[side]] = round(part * BOX_STEPS / 1000) + 1


def two_colours(rng: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Background and ink that differ clearly in brightness; light and dark grounds."""
    light = tuple(rng.randint(200, 255) for _ in range(3))
    dark = tuple(rng.randint(0, 90) for _ in range(3))
    if rng.random() < 0.3:
        light = (255, 255, 255)
    if rng.random() < 0.4:
        dark = (rng.randint(0, 40),) * 3
    return (light, dark) if rng.random() < 0.65 else (dark, light)


def page(
    rng: random.Random, cells: tuple[int, int], min_px: int, max_px: int
) -> tuple[Image.Image, list[Line]]:
    """A page of print for a picture that will be resized to `cells` of 32 x 32 pixels.

    Font sizes lie between `min_px` and `max_px`. The picture's own sides differ from the resized
    ones by up to half a cell, as they do for a user's pictures.
    """
    rows, cols = cells
    if rng.random() < 0.4:
        width, height = cols * CELL_PX, rows * CELL_PX
    else:
        width = cols * CELL_PX + rng.randint(-15, 15)
        height = rows * CELL_PX + rng.randint(-15, 15)
    ground, ink = two_colours(rng)
    image = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(image)
    lines: list[Line] = []
    y = float(rng.randint(0, 12))
    name = rng.choice(font_names())
    size = int(min_px * (max_px / min_px) ** rng.random())
    while True:
        if rng.random() < 0.3:
            name = rng.choice(font_names())
            size = int(min_px * (max_px / min_px) ** rng.random())
        height_px = size * 1.15
        if y + height_px > height:
            return image, lines
        font = load_font(name, size)
        x = float(rng.randint(0, 20))
        while x < width - size:
            text = words.item(rng) if rng.random() < 0.85 else words.scramble(rng)
            text_px = font.getlength(text)
            while text and x + text_px > width:
                text = text[:-1].rstrip()
                text_px = font.getlength(text)
            if not text:
                break
            if rng.random() < 0.1:
                ground, ink = two_colours(rng)
                box = (x - 3, y - 1, x + text_px + 3, y + height_px)
                draw.rectangle(box, fill=ground)
            middle = y + height_px / 2
            draw.text((x, middle), text, font=font, fill=ink, anchor="lm")
            lines.append(Line(text, name, size, x, middle))
            x += text_px + size * rng.choice((0.35, 0.5, 0.8, 2.0))
        y += height_px * rng.choice((1.0, 1.05, 1.15, 1.3, 1.8))
