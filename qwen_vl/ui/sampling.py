"""What the presets set, and when: a style sets the sampling values, a detail the pictures' tokens.

Handlers, then wiring. Knows the sidebar's components and the Engine protocol.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.ui.conversation import SOON, UNQUEUED
from qwen_vl.ui.history import Turn, has_files
from qwen_vl.ui.keeping import Keeping
from qwen_vl.ui.presets import STYLES, Detail, Style, image_tokens, limits
from qwen_vl.ui.sidebar import PRESET, Sidebar, preset_values


class Sampling:
    """The handlers."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings

    def styled(self, style: Style | None, history: list[Turn], thinks: bool) -> list[Any]:
        """The values of PRESET for this style and this conversation: with pictures, or text alone.

        None is a visitor's own mixture, which gives way to what is recommended.
        """
        status = self.engine.status()
        pictures = status.accepts_images and (not history or has_files(history))
        wish = thinks if status.family.thinking == "switched" else None
        known = style if style in STYLES else "balanced"
        values = preset_values(status.family, pictures, self.settings, wish, known)
        at = PRESET.index("max_new_tokens")
        values[at] = min(values[at], limits(self.settings, status)["max_new_tokens"])
        return values

    def reset(self, history: list[Turn], thinks: bool) -> list[Any]:
        """-> style, detail, tokens of a picture, values of PRESET: all as recommended."""
        tokens = self.detailed("balanced")
        return ["balanced", "balanced", tokens, *self.styled("balanced", history, thinks)]

    def detailed(self, detail: Detail | None) -> int:
        """The visual tokens of a picture for this detail."""
        return image_tokens(detail or "balanced", self.settings, self.engine.status())


def wire(sampling: Sampling, side: Sidebar, chatbot: gr.Chatbot, keeping: Keeping) -> None:
    """A preset is shown as long as no value of it was moved by hand."""
    think = side.controls["enable_thinking"]
    tokens = side.controls["max_image_tokens"]
    seen = [side.style, chatbot, think]
    styled = side.style.input(sampling.styled, seen, side.preset_outputs, **SOON)
    thought = think.input(sampling.styled, seen, side.preset_outputs, **SOON)  # type: ignore
    for chosen in (styled, thought):
        chosen.then(None, side.preset_outputs, None, js=_put(PRESET), **UNQUEUED)
    detailed = side.detail.input(sampling.detailed, side.detail, tokens, **SOON)
    detailed.then(None, tokens, None, js=_put(["max_image_tokens"]), **UNQUEUED)
    outputs = [side.style, side.detail, tokens, *side.preset_outputs]
    side.reset.click(sampling.reset, [chatbot, think], outputs, **SOON)
    keeping.forget_on(side.reset.click, [*PRESET, "max_image_tokens", "style", "detail"])
    for name in PRESET:
        if name != "max_new_tokens":  # how long an answer may be is no matter of style
            moved = side.controls[name].input  # type: ignore[attr-defined]
            moved(None, None, side.style, js=_unset("style"), **UNQUEUED)
    tokens.input(None, None, side.detail, js=_unset("detail"), **UNQUEUED)  # type: ignore


def _put(names: Any) -> str:
    """Keeps what the server set for a visitor's choice as the visitor's own."""
    return (
        "(...values) => "
        f"{json.dumps(list(names))}.forEach((name, i) => keeping.put(name, values[i]))"
    )


def _unset(name: str) -> str:
    return f"() => {{ keeping.put({json.dumps(name)}, null); return null; }}"
