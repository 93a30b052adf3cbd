"""Densely printed pages for the reading stage, and what lies under each visual token.

Knows how to fill a picture with text and which character lies where. Knows nothing of questions,
tokens of the text model, or how training works.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

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
SYMBOLS = (*CHARS, *(f"{colour} {kind}" for colour in COLOURS for kind in SHAPES))
SYMBOL_IDS = {symbol: i + 1 for i, symbol in enumerate(SYMBOLS)}


@dataclass(frozen=True)
class Line:
    """One printed line: its text, font, and the pixel at which its ink's box starts."""

    text: str
    font: str
    size_px: int
    x: float
    y_centre: float


@dataclass(frozen=True)
class Mark:
    """One symbol that is not print, such as "red circle", and its middle in pixels."""

    symbol: str
    x: float
    y_centre: float


def slot_labels(
    shown: list[Line | Mark], raw: tuple[int, int], cells: tuple[int, int]
) -> np.ndarray:
    """Symbol ids [rows * cols, SLOTS] under each visual token, in reading order.

    A character belongs to the token that holds (its own middle x, its line's middle y). `raw` is
    (width, height) of the drawn picture, `cells` is (rows, cols) of visual tokens after resizing.
    """
    rows, cols = cells
    labels = np.zeros((rows * cols, SLOTS), dtype=np.int64)
    used = np.zeros(rows * cols, dtype=np.int64)
    for part in sorted(shown, key=lambda part: (part.y_centre, part.x)):
        row = min(rows - 1, max(0, int(part.y_centre * rows / raw[1])))
        if isinstance(part, Mark):
            placed = [(part.symbol, 0.0)]
        else:
            placed = zip(part.text, char_centres(part.font, part.size_px, part.text), strict=True)
        for char, centre in placed:
            col = int((part.x + centre) * cols / raw[0])
            if char == " " or not 0 <= col < cols:
                continue
            cell = row * cols + col
            if used[cell] < SLOTS:
                labels[cell, used[cell]] = SYMBOL_IDS[char]
                used[cell] += 1
    return labels


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
