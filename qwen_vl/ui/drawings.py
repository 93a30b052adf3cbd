"""The places an answer names, drawn on the picture it is about, as a turn of the page's own.

Knows grounding and pictures; keeps what it drew in the page's cache, which Gradio clears.
"""

from __future__ import annotations

import math

from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from qwen_vl.schema import Family
from qwen_vl.ui.grounding import Mark, draw, parse
from qwen_vl.ui.history import Turn, file_block, page_turn
from qwen_vl.ui.strings import say


def marks_in(answer: str, image: Image.Image, family: Family, image_tokens: int) -> list[Mark]:
    """The boxes and points of an answer, in the coordinates that this family writes."""
    if family.box_scale == "relative_1000":
        return parse(answer)
    return parse(answer, family.box_scale, resized_px(image.size, image_tokens, family.token_px))


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


def drawn_turn(
    image: Image.Image, answer: str, family: Family, image_tokens: int, lang: str
) -> tuple[Turn, str] | None:
    """The picture with the answer's places on it, and its file; None when it names no places."""
    marks = marks_in(answer, image, family, image_tokens)
    if not marks:
        return None
    path = save_pil_to_cache(draw(image, marks), get_upload_folder(), "places", "webp")
    return page_turn(say("drawn", lang, n=len(marks)), [file_block(path)]), path
