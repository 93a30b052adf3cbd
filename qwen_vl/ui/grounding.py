"""Answer text -> boxes and points -> drawn picture.

Knows the forms in which Qwen-VL models write places: JSON with `bbox_2d` and `point_2d`, and the
coordinates in the `qwenvl html` and `qwenvl markdown` forms of documents. Does not know the model
or pages, and never evaluates what a model wrote. Text may be cut off anywhere, as it is while an
answer streams.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from PIL import Image, ImageDraw, ImageFont

Scale = Literal["relative_1000", "pixels"]


@dataclass(frozen=True)
class Box:
    """Left, top, right, bottom in thousandths of the picture's width and height, 0..1000."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""


@dataclass(frozen=True)
class Point:
    """A place in thousandths of the picture's width and height, 0..1000."""

    x: float
    y: float
    label: str = ""


Mark: TypeAlias = Box | Point

_COORDINATES = ("bbox_2d", "point_2d", "bbox", "box_2d", "point")
_LABELS = ("label", "text_content", "text", "name")

_NUMBER = r"-?\d{1,9}(?:\.\d{1,9})?"
_TUPLE = re.compile(rf"\[\s*({_NUMBER}(?:\s*,\s*{_NUMBER}){{1,3}})\s*\]")
_SEVERAL = re.compile(r"\[\s*\[")
_COMMA = re.compile(r"\s*,\s*")
_KEY = re.compile(rf"""["']({"|".join(_COORDINATES)})["']\s*:\s*\[""")
_LABEL = re.compile(rf"""["'](?:{"|".join(_LABELS)})["']\s*:\s*(?:"([^"\n]*)"|'([^'\n]*)')""")
_HTML = re.compile(r"""<(\w+)([^<>]*?\s)data-bbox\s*=\s*["']([^"'<>]*)["']""")
_CLASS = re.compile(r"""class\s*=\s*["']([^"'<>]*)["']""")
_MARKDOWN = re.compile(rf"<!--\s*(\w+)\s*\(({_NUMBER}(?:\s*,\s*{_NUMBER}){{3}})\)\s*-->")


def parse(
    text: str, scale: Scale = "relative_1000", size_px: tuple[int, int] | None = None
) -> list[Mark]:
    """Finds the boxes (four numbers) and points (two) in an answer, in its order, each once.

    `scale` is what the model counts in: thousandths (Qwen3-VL, Qwen2-VL), or pixels (Qwen2.5-VL) of
    the picture as the processor resized it, whose (width, height) is `size_px` then. Places outside
    the picture are moved to its edge, exchanged corners are put right, and what is not finite or
    not understood is left out. Raises ValueError for pixels without a size.
    """
    if scale == "pixels" and (size_px is None or min(size_px) < 1):
        raise ValueError("scale='pixels' needs size_px=(width, height) of the resized picture")
    width, height = size_px if scale == "pixels" and size_px else (1000, 1000)
    found = sorted(_find(text), key=lambda item: item[0])
    marks = (_mark(numbers, label, width, height) for _, numbers, label in found)
    return list(dict.fromkeys(mark for mark in marks if mark is not None))


Found: TypeAlias = tuple[int, Sequence[Any], str]  # place in the text, 2 or 4 numbers, label


def _find(text: str) -> Iterator[Found]:
    yield from _find_json(text)
    for match in _HTML.finditer(text):
        kind = _CLASS.search(match[2])
        yield match.start(), match[3].replace(",", " ").split(), kind[1] if kind else match[1]
    for match in _MARKDOWN.finditer(text):
        yield match.start(), match[2].split(","), match[1]


def _find_json(text: str) -> Iterator[Found]:
    """Reads objects one by one, so text around them and a missing end do no harm."""
    decoder = json.JSONDecoder()
    last = max(text.rfind(key) for key in _COORDINATES)
    at = text.find("{", 0, max(last, 0))
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            # Cut off, or not quite JSON: read what stands before the next object, then go on there.
            end = text.find("{", at + 1)
            yield from _salvage(text, at, end if end >= 0 else len(text))
            at = end if end < last else -1
        else:
            for numbers, label in _walk(value, ""):
                yield at, numbers, label
            at = text.find("{", end, max(last, end))


def _walk(value: Any, label: str) -> Iterator[tuple[Sequence[Any], str]]:
    """Yields the coordinates in a JSON value, with the label next to them or above them."""
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, label)
    elif isinstance(value, dict):
        label = next((value[k] for k in _LABELS if isinstance(value.get(k), str)), label)
        for key, item in value.items():
            if key in _COORDINATES and isinstance(item, list):
                several = bool(item) and all(isinstance(one, list) for one in item)
                for numbers in item if several else [item]:
                    yield numbers, label
            else:
                yield from _walk(item, label)


def _salvage(text: str, start: int, end: int) -> Iterator[Found]:
    """The complete coordinates in text[start:end], with a label only if that is complete, too."""
    label = _LABEL.search(text, start, end)
    for key in _KEY.finditer(text, start, end):
        at = key.end() - 1
        if several := _SEVERAL.match(text, at, end):
            at = several.end() - 1
        while match := _TUPLE.match(text, at, end):
            yield match.start(), match[1].split(","), (label[1] or label[2] or "") if label else ""
            comma = _COMMA.match(text, match.end(), end)
            at = comma.end() if comma else end


def _mark(numbers: Sequence[Any], label: str, width: int, height: int) -> Mark | None:
    try:
        values = [float(n) for n in numbers if not isinstance(n, bool)]
    except (TypeError, ValueError, OverflowError):
        return None
    if len(values) != len(numbers) or not all(map(math.isfinite, values)):
        return None
    label = " ".join(label.split())
    scaled = [
        min(max(value * 1000 / (height if i % 2 else width), 0.0), 1000.0)
        for i, value in enumerate(values)
    ]
    if len(scaled) == 2:
        return Point(scaled[0], scaled[1], label)
    if len(scaled) != 4:
        return None
    x1, y1, x2, y2 = scaled
    return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), label)


# Drawing. Colours are far apart in hue and dark or light enough for text in white or black.
COLOURS = (
    *("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080"),
    *("#f032e6", "#9a6324", "#ffe119", "#42d4f4", "#800000", "#bfef45"),
)
# Tried by name where Pillow's own font lacks a letter, as it does Chinese; system folders are
# searched. Where none of them has it, the label is a number: boxes for letters tell nothing.
FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "SourceHanSansSC-Regular.otf"),
    *("wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf"),  # Linux
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "Arial Unicode.ttf", "msyh.ttc", "simsun.ttc"),
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf"),
)
MAX_LABEL_CHARS = 40
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(image: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """Returns an RGB copy of the picture with the marks on it; lines and text fit its size.

    A label stays inside the picture: it moves, then is cut short, and is left out where even a
    letter does not fit.
    """
    drawn = image.convert("RGB")  # a copy, also where it is RGB already
    pen = ImageDraw.Draw(drawn)
    width, height = drawn.size
    line_px = max(1, round(min(width, height) / 200))
    font_px = max(11, round(min(width, height) / 32))
    places: list[tuple[float, float, float]] = []  # left, top, bottom of what is labelled, in px
    for index, mark in enumerate(marks):
        colour = COLOURS[index % len(COLOURS)]
        if isinstance(mark, Point):
            x, y = mark.x * (width - 1) / 1000, mark.y * (height - 1) / 1000
            radius = 2 * line_px + 2
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour, "white", line_px)
            places.append((x + radius, y - radius, y + radius))
        else:
            left, right = mark.x1 * (width - 1) / 1000, mark.x2 * (width - 1) / 1000
            top, bottom = mark.y1 * (height - 1) / 1000, mark.y2 * (height - 1) / 1000
            pen.rectangle((left, top, right, bottom), outline=colour, width=line_px)
            places.append((left, top, bottom))
    for index, (mark, place) in enumerate(zip(marks, places, strict=True)):  # over all lines
        if mark.label:
            _write(
                pen, drawn.size, place, _printable(mark.label, index, font_px), index, line_px + 1
            )
    return drawn


def _write(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    place: tuple[float, float, float],
    printable: tuple[str, Font],
    index: int,
    pad: int,
) -> None:
    """Writes a label above its place, below it where there is no room, and always inside."""
    text, font = printable
    width, height = size
    while text and pen.textlength(text, font) + 2 * pad > width:
        text = text[:-4] + "..." if len(text) > 4 else text[:-1]
    left, top, right, bottom = pen.textbbox((0, 0), text, font)
    high = math.ceil(bottom - top) + 2 * pad
    wide = math.ceil(right - left) + 2 * pad
    if not text or high > height or wide > width:
        return
    x = max(0, min(place[0], width - wide))
    y = place[1] - high if place[1] >= high else min(place[1], height - high)
    colour = COLOURS[index % len(COLOURS)]
    pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"
    pen.text((x + pad - left, y + pad - top), text, ink, font)


def _printable(label: str, index: int, font_px: int) -> tuple[str, Font]:
    """The label and a font that has all its letters, or its number (from 1) where none has."""
    text = "".join(letter if letter.isprintable() else " " for letter in label)
    if len(text) > MAX_LABEL_CHARS:
        text = text[: MAX_LABEL_CHARS - 3] + "..."
    for name in ("", *FONTS):
        font = _font(name, font_px)
        if font is not None and _has_letters(font, text):
            return text, font
    return str(index + 1), ImageFont.load_default(font_px)


@lru_cache(maxsize=256)
def _font(name: str, size_px: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size_px) if name else ImageFont.load_default(size_px)
    except OSError:  # not installed
        return None


def _has_letters(font: Font, text: str) -> bool:
    """Whether each letter looks different from one that no font has."""
    missing = bytes(font.getmask("\U0010ffff"))
    return all(letter.isspace() or bytes(font.getmask(letter)) != missing for letter in text)
