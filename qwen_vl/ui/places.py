"""The places that an answer names, with the picture they are on, handed to the browser.

The browser draws (`places.js`), where every font is; here answers are only read, and it is decided
which of several pictures is meant. Keeps the pictures as the model saw them, upright and without
transparency, in the page's cache, which Gradio clears.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder

from qwen_vl.schema import Family, ImagePart, Message
from qwen_vl.ui.grounding import Mark, Point, find, names_places
from qwen_vl.ui.history import Turn, page_turn, text_block
from qwen_vl.ui.markup import to_page
from qwen_vl.ui.mentions import mentions, only_mention
from qwen_vl.ui.strings import say

SHOWN_SIDE_PX = 2048  # of the picture under the drawing; its true size goes along
ASKED_ABOUT = 8  # pictures to choose from, the last ones
Form = Literal["places", "html", "markdown"]


def resized_px(size: tuple[int, int], image_tokens: int, token_px: int) -> tuple[int, int]:
    """Width and height after the processor: whole visual tokens, at most `image_tokens` of them.

    The rule is `smart_resize` of Qwen's published processor, without its lower bound.
    """
    width, height = (max(token_px, round(side / token_px) * token_px) for side in size)
    most = image_tokens * token_px**2
    if width * height > most:
        shrink = math.sqrt(size[0] * size[1] / most)
        width, height = (
            max(token_px, math.floor(side / shrink / token_px) * token_px) for side in size
        )
    return width, height


def marks_in(
    answer: str, size: tuple[int, int], family: Family, image_tokens: int
) -> list[tuple[int, Mark]]:
    """What `grounding.find` finds, for a picture of this size, as this family counts."""
    if family.box_scale == "relative_1000":
        return find(answer)
    return find(answer, family.box_scale, resized_px(size, image_tokens, family.token_px))


class Places:
    """The places of one answer, while it is written and after it."""

    def __init__(self, messages: Sequence[Message], family: Family, image_tokens: int) -> None:
        self.parts: list[ImagePart] = []
        asked = ""
        new: range = range(0)
        for message in messages:
            if message.role == "user":
                asked = message.text
                new = range(len(self.parts) + 1, len(self.parts) + len(message.images) + 1)
            self.parts += message.images
        self.family, self.image_tokens = family, image_tokens
        self.meant = _meant(asked, new, len(self.parts))
        self.files: dict[int, str] = {}  # of the pictures that were needed
        self._last: tuple[str, list[Turn]] = ("", [])

    def turns(self, answer: str, is_over: bool, lang: str) -> list[Turn]:
        """The turn that shows the places of an answer so far; none where it names none.

        Raises what decoding a picture raises.
        """
        if not self.parts or not names_places(answer):
            return []
        drawn = self._by_picture(answer)
        if not drawn and not is_over:
            return []  # unknown which picture: it is asked for at the end
        is_asked = not drawn
        if is_asked:
            last = range(1, len(self.parts) + 1)[-ASKED_ABOUT:]
            every = {number: self._marks(answer, number) for number in last}
            drawn = {number: [m for _, m in marks] for number, marks in every.items() if marks}
        if not drawn:
            return []
        pictures = [self._picture(number, marks) for number, marks in sorted(drawn.items())]
        form = form_of(answer)
        told: dict[str, Any] = {"form": form, "asked": is_asked, "pictures": pictures}
        if form == "html":
            told["html"] = answer
        text = to_page(json.dumps(told, ensure_ascii=False))
        if text != self._last[0]:
            n = max(map(len, drawn.values())) if is_asked else sum(map(len, drawn.values()))
            title = say("places_asked" if is_asked else "drawn", lang, n=n)
            self._last = text, [page_turn(title, [text_block(f"```places\n{text}\n```")])]
        return self._last[1]

    def _marks(self, answer: str, number: int) -> list[tuple[int, Mark]]:
        size = self.parts[number - 1].size
        return marks_in(answer, size, self.family, self.image_tokens)

    def _by_picture(self, answer: str) -> dict[int, list[Mark]]:
        """The marks of each picture; {} where it cannot be told which picture is meant."""
        numbers = self._numbers(answer)
        drawn = {
            number: [
                mark
                for (_, mark), belongs in zip(self._marks(answer, number), numbers, strict=False)
                if belongs == number
            ]
            for number in {number for number in numbers if number is not None}
        }
        return {number: marks for number, marks in drawn.items() if marks}

    def _numbers(self, answer: str) -> list[int | None]:
        """For each mark the number of its picture: by index, by label, by the words around."""
        count = len(self.parts)
        marks = self._marks(answer, 1)
        if count == 1:
            return [1] * len(marks)
        said = list(mentions(answer, count))
        given = [mark.picture for _, mark in marks if mark.picture is not None]
        first = 1 if given and min(given) < 1 else 0  # counted from 0
        numbers = [self._number(at, mark, said, first) for at, mark in marks]
        known = [number for number in numbers if number is not None]
        if known and None in numbers:  # the others are about what stood before them
            last = known[0]
            for index, number in enumerate(numbers):
                last = numbers[index] = last if number is None else number
        return numbers

    def _number(
        self, at: int, mark: Mark, said: Sequence[tuple[int, int]], first: int
    ) -> int | None:
        count = len(self.parts)
        if mark.picture is not None and 1 <= mark.picture + first <= count:
            return mark.picture + first
        if (named := only_mention(mark.label, count)) is not None:
            return named
        before = [number for place, number in said if place < at]
        return before[-1] if before else self.meant

    def _picture(self, number: int, marks: Sequence[Mark]) -> dict[str, Any]:
        part = self.parts[number - 1]
        if number not in self.files:
            shown = part.image.copy()
            shown.thumbnail((SHOWN_SIDE_PX, SHOWN_SIDE_PX))
            self.files[number] = save_pil_to_cache(
                shown, get_upload_folder(), f"picture-{number}", "jpeg"
            )
        width, height = part.size
        told = {"number": number, "path": self.files[number], "width": width, "height": height}
        return {**told, "marks": [_told(mark) for mark in marks]}


def form_of(answer: str) -> Form:
    """Whether the answer is a document with its layout, or text with places in it."""
    if "data-bbox" in answer:
        return "html"
    return "markdown" if "<!--" in answer and '"bbox' not in answer else "places"


def _told(mark: Mark) -> dict[str, Any]:
    """A mark as the browser reads it: thousandths, and the label."""
    if isinstance(mark, Point):
        return {"at": [round(mark.x, 1), round(mark.y, 1)], "label": mark.label}
    corners = (mark.x1, mark.y1, mark.x2, mark.y2)
    return {"at": [round(value, 1) for value in corners], "label": mark.label}


def _meant(question: str, new: range, count: int) -> int | None:
    """The number of the picture that a question is about; None where it does not tell.

    "Picture 1" counts the pictures of the question where it brings several, else all of them.
    """
    if len(new) > 1 and (named := only_mention(question, len(new))) is not None:
        return new[named - 1]
    if (named := only_mention(question, count)) is not None:
        return named
    if len(new) == 1:
        return new[0]
    return 1 if count == 1 else None
