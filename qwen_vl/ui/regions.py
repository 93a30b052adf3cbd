"""A box or a point that a visitor drew on a picture -> words that the model understands.

The dialog to draw in is `regions.js`. Knows conversations and families; knows nothing of engines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import gradio as gr
from gradio.utils import get_upload_folder
from pydantic import BaseModel, Field, ValidationError

from qwen_vl.errors import UserError
from qwen_vl.schema import Family
from qwen_vl.ui.conversation import SOON, UNQUEUED, Conversation, session_of
from qwen_vl.ui.history import Turn, check_paths, files_of
from qwen_vl.ui.markup import toast
from qwen_vl.ui.places import resized_px
from qwen_vl.ui.refusals import told
from qwen_vl.ui.strings import label, language_of, say

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


class Regions:
    """The handler. `conversation` is the one whose pictures are drawn on."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation

    def ask_about(
        self, text: str, box: dict[str, Any] | None, history: list[Turn], request: gr.Request
    ) -> Any:
        """Puts a region into the box, as this model counts places. `text` is a Region as JSON."""
        files = [path for turn in history if turn["role"] == "user" for path in files_of(turn)]
        written, added = (box or {}).get("text") or "", (box or {}).get("files") or []
        lang, asked = language_of(request), self.conversation
        try:
            region = Region.model_validate_json(text)
            check_paths([*files, *added], Path(get_upload_folder()))
            opened = asked.opened(session_of(request), Path([*files, *added][region.picture - 1]))
        except (ValidationError, IndexError):
            return gr.skip()  # no page sends this
        except UserError as error:
            gr.Warning(toast(told(error, lang)))
            return gr.skip()
        status = asked.engine.status()
        tokens = asked.settings.image_tokens_or(status.image_tokens)
        words = region.words(opened.size, status.family, tokens, lang)
        return {"text": f"{words} {written}", "files": added}


def lay_out(regions: Regions, box: gr.MultimodalTextbox, chatbot: gr.Chatbot) -> None:
    """The button that opens the dialog, and one that its script presses; builds and wires both."""
    region = gr.Button(label("region"), size="sm", elem_id="region", min_width=140, scale=0)
    region.click(None, js="() => regions.open()", **UNQUEUED)
    drawn = gr.Textbox(visible=False)
    use_drawn = gr.Button(elem_id="use-region")
    taken = "(_, box, history) => [regions.take(), box, history]"
    use_drawn.click(regions.ask_about, [drawn, box, chatbot], box, js=taken, **SOON)
