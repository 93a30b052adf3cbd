"""How the tab "Side by side" looks and what calls what; the handlers are in `compare`."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from qwen_vl.ui import adding
from qwen_vl.ui.bubbles import bubbles
from qwen_vl.ui.compare import OWN, Column, Compare
from qwen_vl.ui.conversation import ANSWERS_AT_ONCE, QUIET, SOON, UNQUEUED
from qwen_vl.ui.presets import DETAILS, STYLES
from qwen_vl.ui.sidebar import Sidebar
from qwen_vl.ui.strings import label

FIRST_STYLES = ("precise", "creative")  # two that differ


def lay_out(compare: Compare, side: Sidebar, page: gr.Blocks) -> dict[str, Component]:
    """Builds the tab inside the current Blocks, which are `page`, and wires it.

    Returns the components whose values are a visitor's own, by name.
    """
    left, right = compare.columns
    is_two = left.engine is not right.engine
    own: dict[str, Component] = {}
    names = []
    with gr.Row(elem_id="columns"):
        for column, first in zip(compare.columns, FIRST_STYLES, strict=True):
            with gr.Column(min_width=300):
                names.append(gr.Markdown(visible=is_two, elem_classes="column-model"))
                own |= _lay_out_column(column, "balanced" if is_two else first)
    box = gr.MultimodalTextbox(
        elem_id="compare-box",
        show_label=False,
        placeholder=label("compare_hint"),
        file_types=["image"],
        file_count="multiple",
        sources=["upload"],
        max_plain_text_length=adding.PASTED_CHARS,
        lines=1,
        max_lines=4,
    )
    adding.wire(adding.Adding(left), box)
    with gr.Row(elem_classes="under-box"):
        gr.Markdown(label("compare_note"), elem_id="compare-note")
        new = gr.Button(label("new_chat"), size="sm", elem_id="compare-new", min_width=100, scale=0)
    histories = [own["left"], own["right"]]
    asked = box.submit(
        compare.send, [box, *histories, side.system_prompt], [box, *histories], **SOON
    )
    for column in compare.columns:
        place = column.place
        seen = [own[place], own[f"{place}_style"], own[f"{place}_detail"]]
        asked.then(
            *side.answering(column.answer, *seen),
            [own[place], box],
            concurrency_limit=ANSWERS_AT_ONCE,
            concurrency_id=f"compare-{place}",
            **QUIET,
        ).then(compare.after, None, box, **SOON)
    box.stop(compare.stop, None, None, **UNQUEUED)
    new.click(compare.clear, None, [box, *histories], **SOON)
    if is_two:
        page.load(compare.names, None, names, **SOON)
    return {**own, "compare_box": box}


def _lay_out_column(column: Column, first_style: str) -> dict[str, Component]:
    place = column.place
    with gr.Row(elem_classes="column-settings"):
        style = _choice("style", STYLES, first_style, place)
        detail = _choice("detail", DETAILS, "balanced", place)
    chatbot = bubbles(
        f"{place}-chat",
        label("compare_empty"),
        "max(200px, calc(100dvh - var(--around-columns)))",
        elem_classes="column-chat",
    )
    return {place: chatbot, f"{place}_style": style, f"{place}_detail": detail}


def _choice(name: str, values: tuple[str, ...], first: str, place: str) -> gr.Dropdown:
    choices: list[Any] = [(label(f"{name}_{value}"), value) for value in (*values, OWN)]
    return gr.Dropdown(
        choices, value=first, label=label(name), min_width=120, elem_id=f"{place}-{name}"
    )
