"""A conversation about a clip as a file: its frames with their times, since the server has those.

The clip itself stays where it is: the frames are what the model saw. Knows frames and turns.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from pydantic import BaseModel, Field, ValidationError

from qwen_vl.errors import UserError
from qwen_vl.media.kept import KeptImage
from qwen_vl.media.pictures import open_image
from qwen_vl.ui import chats
from qwen_vl.ui.chat_file import ChatFile
from qwen_vl.ui.conversation import SOON
from qwen_vl.ui.frames import Frame
from qwen_vl.ui.history import check_paths
from qwen_vl.ui.keeping import BROWSER, kept_turns
from qwen_vl.ui.markup import toast
from qwen_vl.ui.refusals import told
from qwen_vl.ui.sidebar import Knobs, Sidebar
from qwen_vl.ui.strings import label, language_of, say
from qwen_vl.ui.video import VideoChat

LONGEST_S = 1_000_000


class GivenFrame(BaseModel):
    """A frame as a file brings it: seconds after the clip's start, and its upload."""

    time_s: float = Field(ge=0, le=LONGEST_S)
    path: str


class Given(BaseModel):
    turns: list[Any]
    frames: list[GivenFrame] = []


class VideoFile:
    """The handlers."""

    def __init__(self, video: VideoChat) -> None:
        self.video = video
        self.file = ChatFile(video.engine)

    def describe(
        self, frames: list[Frame], kept: list[int], knobs: Knobs, request: gr.Request
    ) -> Iterator[str]:
        """-> JSON: what `ChatFile` says, and the frames that the model sees."""
        about = self.file.about(knobs)
        chosen = [frame for index, frame in enumerate(frames) if index in kept]
        yield json.dumps({**about, "frames": [_written(frame) for frame in chosen]})

    def open(self, text: str, request: gr.Request) -> tuple[Any, ...]:
        """A conversation that the browser brings, as JSON -> (turns, frames, strip, kept, note).

        Without frames those of the page stay, as when a cleared conversation comes back.
        """
        lang = language_of(request)
        try:
            given = Given.model_validate_json(text)
            turns = kept_turns(given.turns, lang)
            frames = self._frames(given.frames)
        except ValidationError:
            turns = None
        except UserError as error:
            gr.Warning(toast(told(error, lang)))
            return (gr.skip(),) * 5
        if turns is None:
            gr.Warning(say("chat_unreadable", lang))
            return (gr.skip(),) * 5
        self.video.clear(request)
        if not frames:
            return (turns, *(gr.skip(),) * 4)
        return (turns, *self.video.shown(frames, say("frames_from_file", lang), "", request))

    def _frames(self, given: Sequence[GivenFrame]) -> list[Frame]:
        """Raises UserError for more than may be, and for what is no picture."""
        settings = self.video.settings
        most = settings.max_frames
        check_paths([frame.path for frame in given], Path(get_upload_folder()))
        in_order = sorted(given, key=lambda frame: frame.time_s)[:most]
        opened = [open_image(Path(frame.path), settings) for frame in in_order]
        kept = [KeptImage(picture.decode()) for picture in opened]
        return [Frame(frame.time_s, picture) for frame, picture in zip(in_order, kept, strict=True)]


def _written(frame: Frame) -> dict[str, Any]:
    data = b64encode(frame.picture.jpeg).decode()
    return {"time_s": frame.time_s, "picture": f"data:image/jpeg;base64,{data}"}


def lay_out(files: VideoFile, side: Sidebar, chatbot: gr.Chatbot, found: list[Any]) -> None:
    """The buttons below the Video tab. `found` is where frames go."""
    frames, _, kept, _ = found
    with gr.Row(elem_classes="video-files"):
        save = gr.Button(label("save_file"), size="sm", elem_id="save-video", scale=0)
        other = gr.Button(label("open_file"), size="sm", elem_id="open-file", scale=0)
    described = gr.Textbox(visible=False)
    handler = side.answering(files.describe, frames, kept)
    written = save.click(*handler, described, **SOON)  # type: ignore
    written.then(None, described, None, js="(text) => videoChat.described(text)", **BROWSER)
    other.click(None, None, None, js="() => chatFile.choose()", **BROWSER)
    chatbot.clear(None, None, None, js="() => videoChat.left()", **BROWSER)


def wire_opening(files: VideoFile, chatbot: gr.Chatbot, found: list[Any]) -> None:
    """What the scripts press: outside of the tab, which is not there before it is looked at."""
    carrier = gr.Textbox(visible=False)
    button = gr.Button(visible="hidden", elem_id="open-video-chat")
    handed = "() => videoChat.handed()"
    opened = button.click(files.open, carrier, [chatbot, *found], js=handed, **SOON)
    chats.after(opened, chatbot, chats.arrived("videoChat"))
