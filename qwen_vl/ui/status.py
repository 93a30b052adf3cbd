"""The header and the banner: what is running, what is loading, and why it failed if it did.

Knows EngineStatus and turns it into escaped HTML; knows nothing of conversations.
"""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.schema import EngineStatus
from qwen_vl.ui.conversation import QUIET, UNQUEUED
from qwen_vl.ui.refusals import told
from qwen_vl.ui.sidebar import PRESET, THINKING, Sidebar, limited_values, thinking_controls
from qwen_vl.ui.strings import label, language_of, say

LOOK_EVERY_S = 1.0  # while the model loads
LOOK_LATER_S = 15.0  # afterwards: servers behind this one come and go


def header_html(status: EngineStatus, lang: str) -> str:
    """Model, state, device and dtype; the reason for the dtype is a tooltip and a second line."""
    percent = ""
    if status.state == "loading" and status.progress is not None:
        percent = f" {status.progress:.0%}"
    facts = " · ".join(escape(fact) for fact in (status.device, status.dtype) if fact)
    reason = f'<span class="reason">{escape(status.reason)}</span>' if status.reason else ""
    return (
        '<div class="head"><h1 class="brand">Qwen-VL</h1>'
        f'<span class="model" id="model-name">{escape(status.model_id)}</span>'
        f'<span class="pill {status.state}" id="state-pill">'
        f"{escape(say('state_' + status.state, lang))}{percent}</span>"
        f'<span class="facts">{facts}</span>{reason}</div>'
    )


def first_html(status: EngineStatus) -> str:
    """The header before anything is known; as high as it will be."""
    return (
        '<div class="head"><h1 class="brand">Qwen-VL</h1>'
        f'<span class="model">{escape(status.model_id)}</span><span class="pill">…</span></div>'
    )


def banner_html(status: EngineStatus, lang: str) -> str:
    """What a visitor must know before asking; empty when there is nothing to tell."""
    lines: list[str] = []
    if status.state == "loading":
        width = 100 if status.progress is None else round(100 * min(max(status.progress, 0), 1))
        kind = "bar unknown" if status.progress is None else "bar"
        lines.append(
            f'<div class="note loading">{escape(told(status.detail, lang)) or "…"}'
            f'<div class="{kind}"><i style="width:{width}%"></i></div></div>'
        )
    if status.state == "degraded" and status.detail:
        text = say("degraded", lang, detail=told(status.detail, lang))
        lines.append(f'<div class="note failed">{escape(text)}</div>')
    if status.state == "failed":
        text = say("load_failed", lang, detail=told(status.detail, lang))
        lines.append(f'<div class="note failed">{escape(text)}</div>')
    if status.notice:
        lines.append(f'<div class="note info">{escape(told(status.notice, lang))}</div>')
    if status.is_text_only:
        lines.append(f'<div class="note info text-only">{escape(say("text_only", lang))}</div>')
    return "".join(lines)


class Watch:
    """Follows the engine's status: once a second while it loads, more rarely afterwards."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings

    def look(self, seen: str, request: gr.Request) -> tuple[Any, ...]:
        """-> header, banner, timer, seen, box, webcam, sampling, model; only what changed."""
        status = self.engine.status()
        before = seen.partition("\n")[0]  # the model whose sampling values were set
        model = f"{status.model_id} {status.family}" if status.answers else before
        now = f"{model}\n{status}"
        nothing = (gr.skip(),) * (len(PRESET) + 2 + len(THINKING) + 1)
        if now == seen:
            return (*(gr.skip(),) * 6, *nothing)
        lang = language_of(request)
        timer = gr.Timer(LOOK_EVERY_S if status.state == "loading" else LOOK_LATER_S)
        head = (header_html(status, lang), banner_html(status, lang), timer, now)
        # Sampling values stay unless there is another model: then a visitor's own come back after.
        if model == before:
            return (*head, gr.skip(), gr.skip(), *nothing)
        values = limited_values(self.settings, status) + thinking_controls(status.family)
        later = model if seen else gr.skip()  # they come back after the first look in any case
        webcam = gr.Accordion(visible=status.accepts_images)
        return (*head, box_for(status), webcam, *values, later)

    def lay_out_head(self) -> tuple[gr.HTML, gr.HTML]:
        """They say nothing until the first look: how the server was when it started is old news."""
        unknown = first_html(self.engine.status())
        with gr.Row(elem_id="head-row"):
            header = gr.HTML(unknown, elem_id="header", padding=False)
            _lay_out_button("中文 / English", "language", "() => languages.change()")
            _lay_out_button(label("settings"), "open-settings", "() => settingsPanel.toggle()")
        banner = gr.HTML("", elem_id="banner", padding=False)
        return header, banner

    def wire(
        self,
        demo: gr.Blocks,
        header: gr.HTML,
        banner: gr.HTML,
        box: gr.MultimodalTextbox,
        webcam: gr.Accordion,
        side: Sidebar,
        frame_tokens: Component,
    ) -> tuple[Any, gr.Textbox]:
        """Looks when the page is opened, and later.

        Returns the first look, for what follows it, and what changes when a later one has set the
        values that are recommended for its model.
        """
        seen, model = gr.State(""), gr.Textbox(elem_id="known-model")  # a State tells no change
        timer = gr.Timer(LOOK_EVERY_S)
        outputs = [header, banner, timer, seen, box, webcam, *side.preset_outputs]
        outputs += [side.controls["max_image_tokens"], frame_tokens, *side.thinking_outputs]
        outputs.append(model)
        timer.tick(self.look, seen, outputs, queue=False, **QUIET)
        return demo.load(self.look, seen, outputs, queue=False, **QUIET), model


def _lay_out_button(words: Any, name: str, script: str) -> None:
    button = gr.Button(words, size="sm", scale=0, min_width=80, elem_id=name)
    button.click(None, js=script, **UNQUEUED)


def box_for(status: EngineStatus) -> Any:
    """The input box takes pictures only where the model does."""
    if status.accepts_images:
        return gr.MultimodalTextbox(sources=["upload"], placeholder=label("chat_hint"))
    return gr.MultimodalTextbox(sources=[], placeholder=label("chat_hint_text"))
