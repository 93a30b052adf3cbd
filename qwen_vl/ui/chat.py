"""The Chat tab: questions with pictures, over many turns.

Handlers first, then the layout and its wiring. Knows nothing of models beyond the Engine protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gradio as gr
from gradio.components.chatbot import ExampleMessage

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.errors import UserError
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Message
from qwen_vl.ui import adding, chats, cost, regions, task_chips
from qwen_vl.ui.bubbles import bubbles
from qwen_vl.ui.conversation import (
    ANSWERS_AT_ONCE,
    QUIET,
    SOON,
    UNQUEUED,
    Conversation,
    index_of,
    session_of,
)
from qwen_vl.ui.examples import Example, spoken_in
from qwen_vl.ui.history import (
    Turn,
    take_back,
    up_to_question,
    user_turns,
    with_edit,
    with_text,
)
from qwen_vl.ui.markup import toast
from qwen_vl.ui.places import Places
from qwen_vl.ui.refusals import told
from qwen_vl.ui.runs import Runs
from qwen_vl.ui.sidebar import Knobs, Sidebar
from qwen_vl.ui.strings import label, language_of, say

Box = dict[str, Any]  # the input box: {"text": str, "files": [path]}


def box_value(text: str = "", files: Sequence[str] = ()) -> Box:
    return {"text": text, "files": list(files)}


def box_state(answering: bool, value: Box | None = None) -> Any:
    """The input box: Stop in place of Send while an answer is written; None leaves its value."""
    if value is None:
        return gr.MultimodalTextbox(submit_btn=not answering, stop_btn=answering)
    return gr.MultimodalTextbox(value=value, submit_btn=not answering, stop_btn=answering)


def add_picture(box: Box | None, path: str | None) -> Any:
    """A webcam picture goes into the input box, next to what is there; the camera is free again."""
    if path is None:
        return gr.skip(), gr.skip()
    box = box or box_value()
    return box_value(box.get("text") or "", [*(box.get("files") or []), path]), None


def add_shot(box: dict[str, Any] | None, shot: dict[str, Any] | None) -> Any:
    """`add_picture` with the values as the browser sends them.

    Gradio would otherwise decode the picture here, in this process, before anything is checked.
    """
    files = [file["path"] for file in (box or {}).get("files") or []]
    text = (box or {}).get("text") or ""
    return add_picture(box_value(text, files), shot["path"] if shot else None)


class Chat(Conversation):
    """The handlers of the Chat tab."""

    def __init__(
        self, engine: Engine, settings: Settings, runs: Runs, examples: Sequence[Example] = ()
    ) -> None:
        super().__init__(engine, settings, runs, "chat", examples)
        self.shown_files: set[str] = set()  # Gradio deletes them with its own, after layout

    def send(
        self, box: Box | None, history: list[Turn], system_prompt: str, request: gr.Request
    ) -> tuple[Any, Any]:
        """Moves the question from the box into the history, or says why not and leaves both."""
        lang = language_of(request)
        text, files = (box or {}).get("text") or "", (box or {}).get("files") or []
        if (run := self.announced(request)) is not None:
            gr.Info(say("busy_here", lang))
            # Sending empties the box a moment later: what was asked since goes back into it, unless
            # it is the same question, as when Enter is pressed twice.
            emptied = not run.running and run.question != (text, files)
            return box_value(text, files) if emptied else gr.skip(), gr.skip()
        if not text.strip() and not files:
            gr.Info(say("nothing_to_send", lang))
            return gr.skip(), gr.skip()
        if any(path.lower().endswith(".pdf") for path in files):
            gr.Info(say("pages_coming", lang))
            return gr.skip(), gr.skip()
        asked = [*history, *user_turns(text, files)]
        if not self._accepted(asked, bool(files), system_prompt, request):
            return gr.skip(), gr.skip()
        self.begin(request, asked, (text, files))
        return box_state(True, box_value()), asked

    def _accepted(
        self, asked: list[Turn], new_files: bool, system_prompt: str, request: gr.Request
    ) -> bool:
        if new_files and self.engine.status().is_text_only:
            gr.Warning(say("text_only", language_of(request)))
            return False
        try:
            self.messages(asked, system_prompt, session_of(request))
        except UserError as error:
            gr.Warning(toast(told(error, language_of(request))))
            return False
        return True

    def retry(self, history: list[Turn], event: gr.RetryData, request: gr.Request) -> Any:
        """Answers the same question anew."""
        asked = up_to_question(history, index_of(event))
        if not asked:
            return gr.skip(), gr.skip()
        self.begin(request, asked)
        return box_state(True), asked

    def undo(self, history: list[Turn], event: gr.UndoData, request: gr.Request) -> Any:
        """Takes a question back into the box and drops its answer."""
        self.drop(request)
        before, text, files = take_back(history, index_of(event))
        return box_state(False, box_value(text, files)), before

    def edit(self, history: list[Turn], event: gr.EditData, request: gr.Request) -> Any:
        """Replaces an earlier question by a changed one. Drops everything after it."""
        text = event.value if isinstance(event.value, str) else ""
        if not text.strip():  # the page shows the empty text already
            gr.Info(say("empty_edit", language_of(request)))
            return gr.skip(), with_text(history, index_of(event), event.previous_value)
        asked = with_edit(history, index_of(event), text)
        self.begin(request, asked)
        return box_state(True), asked

    def example(self, event: gr.SelectData, request: gr.Request) -> Any:
        """Runs an example. Only its number is taken from the browser."""
        chosen = spoken_in(self.examples, language_of(request))[index_of(event)]
        if chosen.images and self.engine.status().is_text_only:
            gr.Warning(say("text_only", language_of(request)))
            return gr.skip(), gr.skip()
        asked = user_turns(chosen.text, chosen.images)
        self.begin(request, asked)
        return box_state(True), asked

    def show_examples(self, request: gr.Request) -> Any:
        """The example cards in the language of the page; all of them are about pictures."""
        spoken = (
            []
            if self.engine.status().is_text_only
            else spoken_in(self.examples, language_of(request))
        )
        return gr.Chatbot(examples=[_card(example) for example in spoken])

    def answer(
        self,
        history: list[Turn],
        knobs: Knobs,
        request: gr.Request,
    ) -> Iterator[tuple[Any, Any]]:
        """Streams the answer. Yields (history, box)."""
        make = partial(self.messages, system_prompt=knobs.system_prompt)
        for shown, question in self.stream(history, make, knobs, request):
            yield shown, gr.skip() if question is None else box_value(*question)

    def places_in(self, messages: Sequence[Message], params: SamplingParams) -> Places:
        return Places(messages, self.engine.status().family, params.max_image_tokens)

    def shown_places(self, places: Places, answer: str, is_over: bool, lang: str) -> list[Turn]:
        turns = super().shown_places(places, answer, is_over, lang)
        self.shown_files.update(places.files.values())
        return turns

    def after(self, request: gr.Request) -> Any:
        """The box when an answer has ended, or was not begun because another one is running."""
        return box_state(self.is_wanted(request))

    def reset_clear(self, request: gr.Request) -> tuple[Any, list[Turn]]:
        history = self.clear(request)
        return box_state(False), history

    def lay_out(self, side: Sidebar) -> tuple[gr.Chatbot, gr.MultimodalTextbox, gr.Accordion]:
        """Builds the tab inside the current Blocks and wires it."""
        chatbot = bubbles(
            "chat",
            label("chat_empty"),
            "max(320px, calc(100dvh - var(--around-chat) - var(--added)))",
            examples=[_card(example) for example in spoken_in(self.examples, "en")],
            editable="user",
        )
        self.shown_files = chatbot.temp_files
        task_chips.lay_out()
        line = cost.lay_out("chat")
        box = gr.MultimodalTextbox(
            elem_id="chat-box",
            show_label=False,
            placeholder=label("chat_hint"),
            file_types=["image", ".pdf"],
            file_count="multiple",
            sources=["upload"],
            max_plain_text_length=adding.PASTED_CHARS,
            lines=1,
            max_lines=8,
        )
        pages = adding.lay_out_pages()
        adding.wire(adding.Adding(self), box, pages)
        with gr.Row(elem_classes="under-box"):
            webcam = gr.Accordion(label("webcam"), open=False, elem_id="webcam-panel")
            with webcam:
                camera = gr.Image(
                    sources=["webcam"],
                    webcam_options=gr.WebcamOptions(mirror=False),  # print stays readable
                    type="filepath",
                    show_label=False,
                    height=260,
                    elem_id="webcam",
                )
            regions.lay_out(regions.Regions(self), box, chatbot)
            chats.lay_out_button()
            new_chat = gr.Button(
                label("new_chat"), size="sm", elem_id="new-chat", min_width=100, scale=0
            )
        cost.wire(cost.CostLine(self), line, side, box, chatbot)
        both = [box, chatbot]
        cut = partial(chats.before_cut, "chats")
        retried = chatbot.retry(self.retry, chatbot, both, js=cut("retry"), **SOON)
        edited = chatbot.edit(self.edit, chatbot, both, js=cut("edit"), **SOON)
        undone = chatbot.undo(self.undo, chatbot, both, js=cut("undo"), **SOON)
        for handled in (retried, edited, undone):
            chats.after(handled, chatbot, chats.released("chats"))
        for asked in (
            box.submit(self.send, [box, chatbot, side.system_prompt], both, **SOON),
            retried,
            edited,
            chatbot.example_select(self.example, None, both, **SOON),
        ):
            asked.then(
                *side.answering(self.answer, chatbot),
                [chatbot, box],
                concurrency_limit=ANSWERS_AT_ONCE,
                concurrency_id="chat",
                **QUIET,
            ).then(self.after, None, box, **SOON)
        box.stop(self.stop, None, None, **UNQUEUED)
        anew: list[Any] = [chatbot.clear, new_chat.click]
        cleared = gr.on(anew, self.reset_clear, None, both, js=chats.LEAVE, **SOON)
        chats.after(cleared, chatbot, chats.arrived("chats"))
        shot = camera.change(add_shot, [box, camera], [box, camera], preprocess=False, **SOON)
        for put in (shot, undone):
            adding.tell(put.then, box)
        return chatbot, box, webcam


def _card(example: Example) -> ExampleMessage:
    return {"text": example.text, "files": list(example.images)}
