"""Two named endpoints for `gradio_client` and for programs in other languages: /ask and /keyframes.

They stand beside the page's own handlers, which programs cannot call. Knows the Engine protocol
and Gradio; nothing of the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from qwen_vl.config import Settings
from qwen_vl.conversation import check_conversation
from qwen_vl.engine import Engine
from qwen_vl.errors import BadRequest, UserError
from qwen_vl.media.clips import Method, extract_keyframes
from qwen_vl.media.pictures import open_image
from qwen_vl.schema import ImagePart, Message, TextPart
from qwen_vl.ui.answers import progress
from qwen_vl.ui.conversation import ANSWERS_AT_ONCE, session_of
from qwen_vl.ui.frames import seconds
from qwen_vl.ui.history import check_paths
from qwen_vl.ui.runs import Run
from qwen_vl.ui.strings import language_of


class Endpoints:
    """The handlers."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings

    def ask(self, question: str, pictures: list[str] | None, request: gr.Request) -> Iterator[str]:
        """Answers a question about pictures, or about none. Yields the answer so far."""
        run = Run()
        try:
            messages = self._messages(question, pictures or [])
            status = self.engine.status()
            preset = status.family.preset(has_images=bool(pictures))
            image_tokens = self.settings.image_tokens_or(status.image_tokens)
            params = replace(preset, max_image_tokens=image_tokens)
            scope = f"page {session_of(request)}"
            told = progress(self.engine, messages, params, scope, run, language_of(request))
            for now in told:
                if now.text:
                    yield now.text
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        finally:
            run.finish()

    def _messages(self, question: str, pictures: list[str]) -> list[Message]:
        check_paths(pictures, Path(get_upload_folder()))
        parts = [ImagePart(open_image(Path(path), self.settings)) for path in pictures]
        messages = [Message("user", (*parts, TextPart(question)))]
        check_conversation(messages, self.settings)
        return messages

    def keyframes(
        self, clip: str | None, method: Method, count: float | None
    ) -> list[tuple[Any, str]]:
        """Takes keyframes from a clip -> each picture with its time. `count` bounds them."""
        try:
            check_paths([clip] if clip else [], Path(get_upload_folder()))
            if clip is None:
                raise BadRequest("Add a clip.")
            if count is None:
                raise BadRequest("Say how many frames there may be, at most.")
            most = int(count)
            found = extract_keyframes(
                Path(clip), method, self.settings, count=most, max_frames=most
            )
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return [(frame.image, seconds(frame.time_s)) for frame in found]


def lay_out(endpoints: Endpoints) -> None:
    """Declares them: components that no page shows say what goes in and out."""
    question = gr.Textbox(label="question", visible=False)
    pictures = gr.File(label="pictures", file_count="multiple", type="filepath", visible=False)
    answer = gr.Textbox(label="answer", visible=False)
    clip = gr.File(label="clip", type="filepath", visible=False)
    method = gr.Textbox(label="method: auto, scenes, even or interval", value="auto", visible=False)
    count = gr.Number(label="most frames", value=8, precision=0, visible=False)
    frames = gr.Gallery(label="frames", visible=False)
    gr.Button(visible=False).click(
        endpoints.ask,
        [question, pictures],
        answer,
        api_name="ask",
        concurrency_limit=ANSWERS_AT_ONCE,
    )
    gr.Button(visible=False).click(
        endpoints.keyframes, [clip, method, count], frames, api_name="keyframes"
    )
