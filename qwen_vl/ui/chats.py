"""The list of chats, which the browser alone keeps: what its scripts need of the server.

A chat that is opened comes from the browser like everything a browser sends: `keeping` checks its
turns, and no other visitor's chat can be named. Knows conversations and turns; knows nothing of
models.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import gradio as gr

from qwen_vl.ui.conversation import SOON, Conversation
from qwen_vl.ui.keeping import BROWSER, Keeping, kept_turns, object_in
from qwen_vl.ui.sidebar import SHOWN
from qwen_vl.ui.strings import label, language_of, say

# As the script of an event that has a handler: it runs before the server is asked.
LEAVE = "() => { chats.leave(); return []; }"
Keeper = Literal["chats", "videoChat"]  # the script that keeps what a tab shows


class Chats:
    """The handlers of one conversation's chats."""

    def __init__(self, conversation: Conversation, keeping: Keeping) -> None:
        self.conversation = conversation
        self.keeping = keeping
        self.settings = (
            "system_prompt",
            "style",
            "detail",
            *SHOWN,
        )  # that a chat from a file brings along

    def open(self, text: str, request: gr.Request) -> list[Any]:
        """A chat that the browser keeps, or read from a file, as JSON -> its turns and settings.

        Ends an answer under way: what is written of it stays in its own chat.
        """
        lang = language_of(request)
        chat = object_in(text)
        turns = kept_turns(chat.get("turns"), lang)
        if turns is None:
            gr.Warning(say("chat_unreadable", lang))
            return [gr.skip()] * (1 + len(self.settings))
        self.conversation.clear(request)
        settings = chat.get("settings")
        kept = settings if isinstance(settings, dict) else {}
        return [turns, *self.keeping.values(kept, self.settings, request)]

    @property
    def settings_outputs(self) -> list[Any]:
        """The components of `settings`, in its order."""
        return [self.keeping.components[name] for name in self.settings]


def lay_out_button() -> None:
    """The button that shows the list."""
    show = gr.Button(label("chats"), size="sm", elem_id="show-chats", min_width=80, scale=0)
    show.click(None, None, None, js="() => chatList.open()", **BROWSER)


def wire_opening(chats: Chats, chatbot: gr.Chatbot, ready: Any, box: gr.MultimodalTextbox) -> None:
    """A button that scripts press to show another chat; `ready` then gives the state of the box."""
    carrier = gr.Textbox(visible=False)
    button = gr.Button(visible="hidden", elem_id="open-chat")
    outputs = [chatbot, *chats.settings_outputs]
    opened = button.click(chats.open, carrier, outputs, js="() => chats.handed()", **SOON)
    after(opened, chatbot, arrived("chats"))
    opened.then(ready, None, box, **SOON)


def before_cut(keeper: Keeper, why: Literal["edit", "retry", "undo"]) -> str:
    """The script of an event whose handler cuts the conversation: what goes stays as a branch."""
    return f"(...values) => {{ {keeper}.hold({json.dumps(why)}); return values; }}"


def released(keeper: Keeper) -> str:
    """The script for `after` such an event."""
    return f"(turns) => {keeper}.release(turns)"


def arrived(keeper: Keeper) -> str:
    """The script for `after` an event that shows another conversation."""
    return f"(turns) => {keeper}.arrived(turns)"


def after(handled: Any, chatbot: gr.Chatbot, script: str) -> None:
    """Tells the script what the handler has made of the conversation."""
    handled.then(None, chatbot, None, js=script, **BROWSER)
