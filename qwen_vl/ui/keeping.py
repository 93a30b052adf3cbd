"""What comes back after a reload, a lost connection or a restart of the server.

The browser keeps it (`keeping.js`); nothing of it goes through the server until a page is opened.
Then it is checked like everything a browser sends: files by `check_paths`, values by their
component, turns by their shape, and their text is made safe anew. What does not fit is left out.
Knows components and turns; knows nothing of engines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.components import Component
from gradio.utils import get_upload_folder
from pydantic import BaseModel, ValidationError

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest
from qwen_vl.ui.conversation import QUIET
from qwen_vl.ui.history import Turn, check_paths, file_block, page_turn, text_block, user_turns
from qwen_vl.ui.markup import from_page, to_page
from qwen_vl.ui.strings import language_of, say

# These change by a visitor alone, or a visitor wants to see what the server put there. The others,
# such as sampling values, are set by the server, too: only a visitor's own choice is kept.
FOLLOWED = (gr.Chatbot, gr.MultimodalTextbox, gr.Textbox, gr.Video)
BROWSER: dict[str, Any] = {**QUIET, "queue": False}


class KeptFile(BaseModel):
    path: str


class KeptBlock(BaseModel):
    type: Literal["text", "file"]
    text: str = ""
    file: KeptFile | None = None


class KeptOption(BaseModel):
    label: str
    value: str


class KeptTurn(BaseModel):
    """A turn as the browser has it; what the page needs of it."""

    role: Literal["user", "assistant"]
    content: list[KeptBlock]
    metadata: dict[str, Any] | None = None
    options: list[KeptOption] | None = None


class KeptChat(BaseModel):
    turns: list[KeptTurn]


class KeptBox(BaseModel):
    text: str | None = ""
    files: list[KeptFile] = []


class Keeping:
    """The components whose values are kept, each under its name."""

    def __init__(
        self, settings: Settings, limits: Callable[[], Mapping[str, float]] = dict
    ) -> None:
        """`limits` are where sliders end by now, by name: another model may run."""
        self.settings = settings
        self.limits = limits
        self.components: dict[str, Component] = {}

    def keep(self, components: Mapping[str, Component], keeper: str = "keeping") -> None:
        """From now on the browser keeps their values. Call it inside the Blocks.

        `keeper` is the script that takes them.
        """
        self.components |= components
        for name, component in components.items():
            event = "change" if isinstance(component, FOLLOWED) else "input"
            put = f"(value) => {keeper}.put({json.dumps(name)}, value)"
            getattr(component, event)(None, component, None, js=put, **BROWSER)

    def forget_on(self, trigger: Any, names: Sequence[str]) -> None:
        """What the server sets anew at this event is the visitor's choice no more."""
        trigger(None, None, None, js=f"() => keeping.forget({json.dumps(list(names))})", **BROWSER)

    def wire(self, after: Any) -> Any:
        """Gives the page what the browser keeps, `after` the page's own start."""
        carrier = gr.Textbox(visible=False)
        back = after.then(
            *(self.restore, carrier, list(self.components.values())),
            js="() => keeping.read()",
            **QUIET,
        )
        back.then(None, None, None, js="() => keeping.begin()", **BROWSER)
        return back

    def restore_on(self, trigger: Any, names: Sequence[str]) -> None:
        """At this event the server has set these anew: what a visitor chose wins."""

        def restore(text: str, request: gr.Request) -> list[Any]:
            return self.values(object_in(text), names, request)

        trigger(
            restore,
            gr.Textbox(visible=False),
            [self.components[name] for name in names],
            js="() => keeping.kept()",
            **QUIET,
        )

    def restore(self, text: str, request: gr.Request) -> list[Any]:
        """What the browser kept, as JSON -> a value for each component, or a skip."""
        return self.values(object_in(text), self.components, request)

    def values(
        self, kept: Mapping[str, Any], names: Iterable[str], request: gr.Request
    ) -> list[Any]:
        """A value for each of these components, where a kept one fits it; else a skip."""
        lang, limits = language_of(request), self.limits()
        return [
            self._value(name, kept[name], limits, lang) if name in kept else gr.skip()
            for name in names
        ]

    def _value(self, name: str, value: Any, limits: Mapping[str, float], lang: str) -> Any:
        component = self.components[name]
        try:
            if isinstance(component, gr.Chatbot):
                return kept_turns(value, lang) or gr.skip()
            if isinstance(component, gr.MultimodalTextbox):
                return _box(KeptBox.model_validate(value), lang)
            if isinstance(component, gr.Video):
                return _clip(value, lang)
        except ValidationError:  # kept by another version of the page
            return gr.skip()
        if not self._fits(component, value):
            return gr.skip()
        return min(value, limits[name]) if name in limits else value

    def _fits(self, component: Any, value: Any) -> bool:
        """Whether a visitor could have set this value here."""
        if isinstance(component, gr.Checkbox):
            return isinstance(value, bool)
        if isinstance(component, gr.Textbox):
            return isinstance(value, str) and len(value) <= self.settings.max_prompt_chars
        if isinstance(component, (gr.Radio, gr.Dropdown)):
            chosen = any(value == choice for _, choice in component.choices)
            return chosen or (value is None and isinstance(component, gr.Radio))
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        low, high = component.minimum, component.maximum
        return (low is None or low <= value) and (high is None or value <= high)


def object_in(text: str) -> dict[str, Any]:
    """What a browser sends as JSON; nothing where it cannot be read."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_here(path: str) -> bool:
    """Whether the server has this upload still; False for a path that is none of its uploads."""
    try:
        check_paths([path], Path(get_upload_folder()))
        return Path(path).is_file()
    except (BadRequest, OSError, ValueError):  # too long a name, or a zero byte in it
        return False


def kept_turns(value: Any, lang: str) -> list[Turn] | None:
    """A conversation as a browser keeps it -> as the page shows it; None for anything else.

    In the place of pictures that are gone stands a note.
    """
    try:
        kept = KeptChat(turns=value)
    except ValidationError:  # kept by another version of the page, or altered
        return None
    turns: list[Turn] = []
    for turn in kept.turns:
        text = from_page("".join(block.text for block in turn.content))
        files = [block.file.path for block in turn.content if block.file]
        here = [path for path in files if _is_here(path)]
        title = from_page(str((turn.metadata or {}).get("title") or ""))
        if turn.role == "user":
            if len(here) < len(files):
                turns.append(page_turn(say("pictures_gone", lang, n=len(files) - len(here))))
            turns += user_turns(text, here)
        elif not title:
            turns.append({"role": "assistant", "content": [text_block(to_page(text))]})
        elif text or here or not files:
            turns += _page_turns(turn, title, [text_block(to_page(text))], here)
    return turns


def _page_turns(
    turn: KeptTurn, title: str, said: list[dict[str, Any]], files: Sequence[str]
) -> list[Turn]:
    """A note, a drawing, a thought or buttons of the page; nothing for a wait that is over."""
    metadata = turn.metadata or {}
    was_waiting = metadata.get("status") == "pending"
    if was_waiting and not said[0]["text"]:
        return []
    more = {"id": str(metadata["id"])} if metadata.get("id") is not None else {}
    if metadata.get("status"):
        more["status"] = "done"
    note = page_turn(to_page(title), [file_block(path) for path in files] or said, **more)
    if turn.options:
        note["options"] = [option.model_dump() for option in turn.options]
    return [note]


def _box(kept: KeptBox, lang: str) -> Any:
    """The draft; says how many of its pictures are gone."""
    here = [file.path for file in kept.files if _is_here(file.path)]
    if len(here) < len(kept.files):
        gr.Info(say("pictures_gone", lang, n=len(kept.files) - len(here)))
    return {"text": kept.text or "", "files": here} if kept.text or here else gr.skip()


def _clip(value: Any, lang: str) -> Any:
    if value is None:
        return gr.skip()
    path = KeptFile.model_validate(value).path
    if _is_here(path):
        return path
    gr.Info(say("clip_gone", lang))
    return gr.skip()
