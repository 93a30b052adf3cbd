"""A box or a point that a visitor drew on a picture -> words that the model understands."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from qwen_vl.schema import Family
from qwen_vl.ui.places import resized_px
from qwen_vl.ui.strings import say

Thousandths = Annotated[float, Field(ge=0, le=1000)]


class Region(BaseModel):
    """`at` is a point (x, y) or a box (left, top, right, bottom), in thousandths of the picture.

    `picture` counts those of the conversation, then those in the question box, from 1.
    """

    picture: Annotated[int, Field(ge=1)]
    at: tuple[Thousandths, Thousandths] | tuple[Thousandths, Thousandths, Thousandths, Thousandths]

    def words(self, size: tuple[int, int], family: Family, image_tokens: int, lang: str) -> str:
        """The beginning of a question about this region of a picture of `size` (px)."""
        sides = (1000, 1000)
        if family.box_scale == "pixels":
            sides = resized_px(size, image_tokens, family.token_px)
        numbers = [round(value * sides[i % 2] / 1000) for i, value in enumerate(self.at)]
        key = "region_box" if len(numbers) == 4 else "region_point"
        return say(key, lang, n=self.picture, numbers=numbers)
