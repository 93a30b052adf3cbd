"""The row of buttons that put a task's words into the question box; `tasks.js` does it."""

from __future__ import annotations

import json

import gradio as gr

from qwen_vl.ui.keeping import BROWSER
from qwen_vl.ui.strings import label
from qwen_vl.ui.tasks import TASKS


def lay_out() -> None:
    """Builds and wires the row. The server is not asked: it may be busy."""
    with gr.Row(elem_id="tasks"):
        for task in TASKS:
            chip = gr.Button(
                label(f"task_{task.name}"), size="sm", min_width=0, elem_classes="chip"
            )
            chip.click(None, js=f"() => tasks.write({json.dumps(task.prompts)})", **BROWSER)
