"""The places an answer names, drawn on the picture it is about, as a turn of the page's own.

Knows grounding and pictures; keeps what it drew in the page's cache, which Gradio clears.
"""

from __future__ import annotations

import math

from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from qwen_vl.ui.grounding import Mark, draw, parse
from qwen_vl.ui.history import Turn, file_block, page_turn
from qwen_vl.ui.strings import say

PIXEL_MODELS = ("qwen2.5-vl", "qwen2_5_vl", "qwen2_5-vl")  # these count pixels, not thousandths
PATCH_PX = 28  # one visual token of those models is 28x28 px


def marks_in(answer: str, image: Image.Image, model_id: str, image_tokens: int) -> list[Mark]:
    """The boxes and points of an answer, in the coordinates that this model writes."""
    if any(name in model_id.lower() for name in PIXEL_MODELS):
        return parse(answer, "pixels", resized_px(image.size, image_tokens))
    return parse(answer)


def resized_px(size: tuple[int, int], image_tokens: int) -> tuple[int, int]:
    """Width and height after Qwen2.5-VL's processor: whole patches, at most `image_tokens` of them.

    The rule is `smart_resize` of Qwen's published processor, without its lower bound.
    """
    width, height = (max(PATCH_PX, round(side / PATCH_PX) * PATCH_PX) for side in size)
    most = image_tokens * PATCH_PX**2
    if width * height > most:
        shrink = math.sqrt(size[0] * size[1] / most)
        width, height = (
            max(PATCH_PX, math.floor(side / shrink / PATCH_PX) * PATCH_PX) for side in size
        )
    return width, height


def drawn_turn(
    image: Image.Image, answer: str, model_id: str, image_tokens: int, lang: str
) -> tuple[Turn, str] | None:
    """The picture with the answer's places on it, and its file; None when it names no places."""
    marks = marks_in(answer, image, model_id, image_tokens)
    if not marks:
        return None
    path = save_pil_to_cache(draw(image, marks), get_upload_folder(), "places", "webp")
    return page_turn(say("drawn", lang, n=len(marks)), [file_block(path)]), path
