"""Answer text -> boxes and points.

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
from typing import Any, Literal, TypeAlias

Scale = Literal["relative_1000", "pixels"]


@dataclass(frozen=True)
class Box:
    """Left, top, right, bottom in thousandths of the picture's width and height, 0..1000.

    `picture` is the number of the picture, where the answer gives one next to the coordinates.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""
    picture: int | None = None


@dataclass(frozen=True)
class Point:
    """A place in thousandths of the picture's width and height, 0..1000; `picture` as in a Box."""

    x: float
    y: float
    label: str = ""
    picture: int | None = None


Mark: TypeAlias = Box | Point

_COORDINATES = ("bbox_2d", "point_2d", "bbox", "box_2d", "point")
_LABELS = ("label", "text_content", "text", "name")
_PICTURES = ("image", "image_index", "image_id", "picture", "page")

_NUMBER = r"-?\d{1,9}(?:\.\d{1,9})?"
_TUPLE = re.compile(rf"\[\s*({_NUMBER}(?:\s*,\s*{_NUMBER}){{1,3}})\s*\]")
_SEVERAL = re.compile(r"\[\s*\[")
_COMMA = re.compile(r"\s*,\s*")
_KEY = re.compile(rf"""["']({"|".join(_COORDINATES)})["']\s*:\s*\[""")
_LABEL = re.compile(rf"""["'](?:{"|".join(_LABELS)})["']\s*:\s*(?:"([^"\n]*)"|'([^'\n]*)')""")
_HTML = re.compile(r"""<(\w+)([^<>]*?\s)data-bbox\s*=\s*["']([^"'<>]*)["']""")
_CLASS = re.compile(r"""class\s*=\s*["']([^"'<>]*)["']""")
_MARKDOWN = re.compile(rf"<!--\s*(\w+)\s*\(({_NUMBER}(?:\s*,\s*{_NUMBER}){{3}})\)\s*-->")


def names_places(text: str) -> bool:
    """Whether it is worth reading the text for places: quick, and sometimes wrongly true."""
    return "<!--" in text or any(key in text for key in (*_COORDINATES, "data-bbox"))


def parse(
    text: str, scale: Scale = "relative_1000", size_px: tuple[int, int] | None = None
) -> list[Mark]:
    """The marks of `find`, without where they stand in the text."""
    return [mark for _, mark in find(text, scale, size_px)]


def find(
    text: str, scale: Scale = "relative_1000", size_px: tuple[int, int] | None = None
) -> list[tuple[int, Mark]]:
    """Finds the boxes (four numbers) and points (two) in an answer, in its order, each once.

    Gives each with the index in the text where it, or the JSON around it, begins.

    `scale` is what the model counts in: thousandths (Qwen3-VL, Qwen2-VL), or pixels (Qwen2.5-VL) of
    the picture as the processor resized it, whose (width, height) is `size_px` then. Places outside
    the picture are moved to its edge, exchanged corners are put right, and what is not finite or
    not understood is left out. Raises ValueError for pixels without a size.
    """
    if scale == "pixels" and (size_px is None or min(size_px) < 1):
        raise ValueError("scale='pixels' needs size_px=(width, height) of the resized picture")
    width, height = size_px if scale == "pixels" and size_px else (1000, 1000)
    marks: dict[Mark, int] = {}
    for at, numbers, words in sorted(_find(text), key=lambda item: item[0]):
        mark = _mark(numbers, words, width, height)
        if mark is not None:
            marks.setdefault(mark, at)
    return [(at, mark) for mark, at in marks.items()]


@dataclass(frozen=True)
class Words:
    """What an answer says next to coordinates."""

    label: str = ""
    picture: int | None = None


Found: TypeAlias = tuple[int, Sequence[Any], Words]  # place in the text, 2 or 4 numbers, words


def _find(text: str) -> Iterator[Found]:
    yield from _find_json(text)
    for match in _HTML.finditer(text):
        kind = _CLASS.search(match[2])
        words = Words(kind[1] if kind else match[1])
        yield match.start(), match[3].replace(",", " ").split(), words
    for match in _MARKDOWN.finditer(text):
        yield match.start(), match[2].split(","), Words(match[1])


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
            for numbers, words in _walk(value, Words()):
                yield at, numbers, words
            at = text.find("{", end, max(last, end))


def _walk(value: Any, words: Words) -> Iterator[tuple[Sequence[Any], Words]]:
    """Yields the coordinates in a JSON value, with the words next to them or above them."""
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, words)
    elif isinstance(value, dict):
        label = next((value[k] for k in _LABELS if isinstance(value.get(k), str)), words.label)
        picture = next((value[k] for k in _PICTURES if type(value.get(k)) is int), words.picture)
        words = Words(label, picture)
        for key, item in value.items():
            if key in _COORDINATES and isinstance(item, list):
                several = bool(item) and all(isinstance(one, list) for one in item)
                for numbers in item if several else [item]:
                    yield numbers, words
            else:
                yield from _walk(item, words)


def _salvage(text: str, start: int, end: int) -> Iterator[Found]:
    """The complete coordinates in text[start:end], with a label only if that is complete, too."""
    label = _LABEL.search(text, start, end)
    words = Words((label[1] or label[2] or "") if label else "")
    for key in _KEY.finditer(text, start, end):
        at = key.end() - 1
        if several := _SEVERAL.match(text, at, end):
            at = several.end() - 1
        while match := _TUPLE.match(text, at, end):
            yield match.start(), match[1].split(","), words
            comma = _COMMA.match(text, match.end(), end)
            at = comma.end() if comma else end


def _mark(numbers: Sequence[Any], words: Words, width: int, height: int) -> Mark | None:
    try:
        values = [float(n) for n in numbers if not isinstance(n, bool)]
    except (TypeError, ValueError, OverflowError):
        return None
    if len(values) != len(numbers) or not all(map(math.isfinite, values)):
        return None
    label = " ".join(words.label.split())
    scaled = [
        min(max(value * 1000 / (height if i % 2 else width), 0.0), 1000.0)
        for i, value in enumerate(values)
    ]
    if len(scaled) == 2:
        return Point(scaled[0], scaled[1], label, words.picture)
    if len(scaled) != 4:
        return None
    x1, y1, x2, y2 = scaled
    return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), label, words.picture)
