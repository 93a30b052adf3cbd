"""How a chat looks on every tab, and what its texts may not do there."""

from __future__ import annotations

from typing import Any

import gradio as gr

from qwen_vl.ui.markup import FORMULA

LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": f"${FORMULA}", "right": f"{FORMULA}$", "display": False},  # as `to_page` marks it
]


def bubbles(name: str, empty: Any, height: str, **more: Any) -> gr.Chatbot:
    """A chat, its element called `name`; `empty` is what it says without one, `height` is CSS.

    An answer's HTML is text. `more` are options of `gr.Chatbot`.
    """
    return gr.Chatbot(
        elem_id=name,
        show_label=False,
        height=height,
        placeholder=f"### {empty}",
        buttons=["copy"],
        layout="bubble",
        autoscroll=False,  # reading.js follows, and lets a reader stay where he is
        group_consecutive_messages=False,  # in a group, Gradio's editor fails on pictures
        latex_delimiters=LATEX,
        sanitize_html=True,
        allow_tags=False,
        feedback_options=None,
        **more,
    )
