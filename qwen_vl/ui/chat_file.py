"""What a chat was asked with, for the file that the browser makes of it (`chat_file.js`).

The words and pictures lie in the browser already. Knows settings and versions; no conversations.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import gradio as gr

from qwen_vl import __version__
from qwen_vl.engine import Engine
from qwen_vl.ui.conversation import SOON
from qwen_vl.ui.keeping import BROWSER
from qwen_vl.ui.sidebar import Knobs, Sidebar

PACKAGES = ("gradio", "transformers", "torch", "pillow")  # what an answer may depend on


class ChatFile:
    """The handler."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def describe(self, knobs: Knobs, request: gr.Request) -> Iterator[str]:
        """-> JSON: time, versions, model, system prompt and the controls' values (seed -1: any)."""
        yield json.dumps(self.about(knobs))

    def about(self, knobs: Knobs) -> dict[str, Any]:
        status = self.engine.status()
        return {
            "saved_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": versions(),
            "model": {"id": status.model_id, "device": status.device, "dtype": status.dtype},
            "system_prompt": knobs.system_prompt,
            "sampling": dict(knobs.sampling),
        }


def versions() -> dict[str, str]:
    """Of this demo, Python, and the packages that are installed."""
    found = {"qwen-vl-demo": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # torch, behind --engine remote
            continue
    return found


def wire(files: ChatFile, side: Sidebar) -> None:
    """A button that the scripts press to learn how the chat is set."""
    described = gr.Textbox(visible=False)
    button = gr.Button(visible="hidden", elem_id="describe-chat")
    told = button.click(*side.answering(files.describe), described, **SOON)  # type: ignore
    told.then(None, described, None, js="(text) => chatFile.described(text)", **BROWSER)
