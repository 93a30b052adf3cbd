"""Side by side: one question, answered twice at the same time, with two settings or by two models.

Handlers; the layout is in `compare_layout`. A column is a conversation of its own. Knows nothing of
models beyond the Engine protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal

import gradio as gr

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.errors import UserError
from qwen_vl.sampling import SamplingParams
from qwen_vl.ui.conversation import Conversation, session_of
from qwen_vl.ui.history import Turn, has_files, user_turns
from qwen_vl.ui.markup import toast
from qwen_vl.ui.presets import Detail, Style, image_tokens
from qwen_vl.ui.refusals import told
from qwen_vl.ui.runs import Runs
from qwen_vl.ui.sidebar import PRESET, Knobs, preset_values
from qwen_vl.ui.strings import language_of, say
from qwen_vl.ui.tasks import task_of

OWN: Final = "own"  # what the panel of settings says
Box = dict[str, Any]  # as `chat` has it


class Column(Conversation):
    """One of the two conversations."""

    def answer(
        self,
        history: list[Turn],
        style: Style | Literal["own"],
        detail: Detail | Literal["own"],
        knobs: Knobs,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any]]:
        """Streams the answer. Yields (history, box); the box only when a question goes back."""
        make = partial(self.messages, system_prompt=knobs.system_prompt)
        knobs = replace(knobs, sampling=self._sampling(knobs, style, detail, has_files(history)))
        for shown, question in self.stream(history, make, knobs, request):
            yield shown, gr.skip() if question is None else _box(*question)

    def _sampling(
        self,
        knobs: Knobs,
        style: Style | Literal["own"],
        detail: Detail | Literal["own"],
        has_images: bool,
    ) -> dict[str, Any]:
        status, values = self.engine.status(), dict(knobs.sampling)
        if style != OWN:
            switched = status.family.thinking == "switched"
            thinks = bool(values.get("enable_thinking")) if switched else None
            preset = preset_values(status.family, has_images, self.settings, thinks, style)
            own = values["max_new_tokens"]  # how long an answer may be is no matter of style
            values |= {**dict(zip(PRESET, preset, strict=True)), "max_new_tokens": own}
        if detail != OWN:
            values["max_image_tokens"] = image_tokens(detail, self.settings, status)
        return values

    def shaped(self, params: SamplingParams, question: str) -> SamplingParams:
        """Of a task only its schema: the column's settings are what is compared."""
        task = task_of(question)
        return params if task is None else replace(params, constraint=task.constraint())


class Compare:
    """What both columns share: the question, Stop and New."""

    def __init__(self, engines: Sequence[Engine], settings: Settings, runs: Runs) -> None:
        """`engines` are one or two; the first answers on the left, the last on the right."""
        self.columns = (
            Column(engines[0], settings, runs, "left"),
            Column(engines[-1], settings, runs, "right"),
        )

    def send(
        self,
        box: Box | None,
        left: list[Turn],
        right: list[Turn],
        system_prompt: str,
        request: gr.Request,
    ) -> tuple[Any, Any, Any]:
        """-> box, and both histories with the question; or says why not and leaves all three."""
        lang, nothing = language_of(request), (gr.skip(),) * 3
        text, files = (box or {}).get("text") or "", (box or {}).get("files") or []
        if any(column.announced(request) for column in self.columns):
            gr.Info(say("busy_here", lang))
            return nothing
        if not text.strip() and not files:
            gr.Info(say("nothing_to_send", lang))
            return nothing
        asked = [[*history, *user_turns(text, files)] for history in (left, right)]
        for column, turns in zip(self.columns, asked, strict=True):
            if files and column.engine.status().is_text_only:
                gr.Warning(say("text_only", lang))
                return nothing
            try:
                column.messages(turns, system_prompt, session_of(request))
            except UserError as error:
                gr.Warning(toast(told(error, lang)))
                return nothing
        for column, turns in zip(self.columns, asked, strict=True):
            column.begin(request, turns, (text, files))
        return _asking(_box(), True), asked[0], asked[1]

    def after(self, request: gr.Request) -> Any:
        """The box when an answer has ended: Stop stays as long as the other one is written."""
        is_wanted = any(column.is_wanted(request) for column in self.columns)
        return gr.MultimodalTextbox(submit_btn=not is_wanted, stop_btn=is_wanted)

    def stop(self, request: gr.Request) -> None:
        """Ends both answers, and keeps their texts so far."""
        for column in self.columns:
            column.stop(request)

    def clear(self, request: gr.Request) -> tuple[Any, list[Turn], list[Turn]]:
        """New: ends both answers and empties both columns."""
        left, right = (column.clear(request) for column in self.columns)
        return gr.MultimodalTextbox(submit_btn=True, stop_btn=False), left, right

    def leave(self, request: gr.Request) -> None:
        """The tab was closed."""
        for column in self.columns:
            column.leave(request)

    def names(self) -> list[str]:
        """The model of each column, as Markdown."""
        return [f"`{column.engine.model_id}`" for column in self.columns]


def _box(text: str = "", files: Sequence[str] = ()) -> Box:
    return {"text": text, "files": list(files)}


def _asking(value: Box, answering: bool) -> Any:
    return gr.MultimodalTextbox(value=value, submit_btn=not answering, stop_btn=answering)
