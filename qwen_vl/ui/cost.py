"""What a question will cost, told in one small line before Send.

Counted by the engine from sizes alone; `cost.js` says when. Knows conversations, the sidebar and
the Engine protocol; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import gradio as gr
from gradio.components import Component

from qwen_vl.errors import UserError
from qwen_vl.schema import Cost, Message
from qwen_vl.ui import refusals
from qwen_vl.ui.conversation import ASKERS_FAULT, SOON, UNQUEUED, Conversation, session_of
from qwen_vl.ui.frames import Frame
from qwen_vl.ui.history import Turn, user_turns
from qwen_vl.ui.presets import image_tokens, lower_detail, lower_frame_tokens
from qwen_vl.ui.sidebar import Knobs, Sidebar
from qwen_vl.ui.strings import language_of, say
from qwen_vl.ui.video import COMPACT, VideoChat
from qwen_vl.ui.waiting import duration

MOST_ADDENDS = 3  # pictures whose tokens are added up before a reader's eyes

Noun = Literal["picture", "frame"]
Place = Literal["chat", "video"]  # as cost.js calls the tabs


@dataclass(frozen=True)
class Lower:
    """What one click goes to, so that it costs less: `to` for cost.js, `name` for people."""

    to: str
    name: str


@dataclass(frozen=True)
class Told:
    """What a tab's line tells besides the sum: the last `count` pictures, by this noun.

    `lower(cost, tokens)` is what one click goes to where a picture has so many tokens at most.
    """

    noun: Noun
    count: int
    lower: Callable[[Cost, int], Lower | None]


class CostLine:
    """The handler of the Chat tab."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation

    def of_draft(
        self, box: dict[str, Any] | None, history: list[Turn], knobs: Knobs, request: gr.Request
    ) -> Iterator[str]:
        """The line for what is in the box of the Chat tab, as HTML; "" where nothing is known."""
        text, files = (box or {}).get("text") or "", (box or {}).get("files") or []
        if not text.strip() and not files:
            yield ""
            return

        def make(session: str) -> list[Message]:
            asked = [*history, *user_turns(text, files)]
            return self.conversation.messages(asked, knobs.system_prompt, session)

        def lower(cost: Cost, tokens: int) -> Lower | None:
            settings, status = self.conversation.settings, self.conversation.engine.status()
            detail = lower_detail(tokens, settings, status)
            if detail is None or most_tokens(cost) <= image_tokens(detail, settings, status):
                return None  # it would change nothing
            return Lower(detail, say(f"detail_{detail}", language_of(request)))

        told = Told("picture", len(files), lower)
        yield counted_html(self.conversation, make, told, knobs, request)


class ClipCostLine:
    """The handler of the Video tab."""

    def __init__(self, video: VideoChat) -> None:
        self.video = video

    def of_clip(
        self,
        question: str,
        history: list[Turn],
        frames: list[Frame],
        kept: list[int],
        compact: str,
        knobs: Knobs,
        request: gr.Request,
    ) -> Iterator[str]:
        """The line for a question about a clip, as HTML; "" where nothing is known.

        Without a question it is that for a timeline, which a click asks for.
        """
        has_frames, is_first = bool(frames and kept), not history
        if not has_frames or not (question.strip() or is_first):
            yield ""
            return
        asked = question if question.strip() else self.video.engine.status().family.timeline_prompt

        def make(session: str) -> list[Message]:
            turns = [*history, *user_turns(asked, [])]
            return self.video.frame_messages(
                turns, knobs.system_prompt, frames, kept, session, COMPACT[compact]
            )

        def lower(cost: Cost, tokens: int) -> Lower | None:
            fewer = lower_frame_tokens(min(tokens, most_tokens(cost)))
            name = say("cost_per_frame", language_of(request), n=fewer)
            return Lower(str(fewer), name) if fewer else None

        told = Told("frame", len(kept), lower)
        yield counted_html(self.video, make, told, knobs, request)


def counted_html(
    conversation: Conversation,
    make: Callable[[str], list[Message]],
    told: Told,
    knobs: Knobs,
    request: gr.Request,
) -> str:
    """The line for what `make(session)` gives, a refusal included; "" where nothing is known."""
    engine, settings = conversation.engine, conversation.settings
    lang, status, session = language_of(request), engine.status(), session_of(request)
    if not status.answers:
        return ""
    try:
        messages = make(session)
        params = knobs.params(settings, status.family)
        params = conversation.shaped(params, messages[-1].text)
        cost = engine.count(messages, params, f"page {session}")
    except UserError as error:
        return _refusal(refusals.told(error, lang)) if error.status in ASKERS_FAULT else ""
    if cost is None:
        return ""
    cheaper = told.lower(cost, params.max_image_tokens)
    return line_html(cost, told.count, cheaper, lang, told.noun)


def most_tokens(cost: Cost) -> int:
    """The visual tokens of the largest picture; 0 without one."""
    return max(cost.picture_tokens, default=0)


def line_html(
    cost: Cost, new_pictures: int, lower: Lower | None, lang: str, noun: Noun = "picture"
) -> str:
    """The last `new_pictures` pictures are told one by one; `lower` is None without a button."""
    button = ""
    if lower is not None:
        name = say("cost_less_name", lang, detail=lower.name)
        words = escape(say("cost_less", lang)) + _where_wide(name)
        to = escape(lower.to)
        button = f'<button type="button" class="less-detail" data-to="{to}">{words}</button>'
    figures = {"n": f"{cost.prompt_tokens:,}", "most": f"{cost.most_tokens:,}"}
    if cost.is_too_long:
        return _refusal(say("cost_too_long", lang, **figures), button)
    share = say(
        "cost_share", lang, percent=max(1, round(100 * cost.prompt_tokens / cost.most_tokens))
    )
    facts = [escape(say("cost_prompt", lang, **figures)) + _where_wide(share)]
    if new_pictures:
        total = picture_sum(cost.picture_tokens[-new_pictures:])
        key = f"cost_{noun}" if new_pictures == 1 else f"cost_{noun}s"
        facts.append(escape(say(key, lang, sum=total)))
    if cost.ttft_s is not None:
        facts.append(escape(say("cost_first", lang, time=duration(cost.ttft_s, lang))))
    parts = [*(f"<span>{fact}</span>" for fact in facts), *([button] if button else [])]
    return f"<p>{' · '.join(parts)}</p>"


def _where_wide(words: str) -> str:
    """Words that give way on a narrow screen, as HTML."""
    return f'<span class="where-wide">{escape(words)}</span>'


def picture_sum(tokens: Sequence[int]) -> str:
    """The visual tokens of pictures and their sum: "256", "2 × 256 = 512", "256 + 180 = 436"."""
    total, least, most = f"{sum(tokens):,}", min(tokens), max(tokens)
    if len(tokens) == 1:
        return total
    if least == most:
        return f"{len(tokens)} × {least:,} = {total}"
    if len(tokens) > MOST_ADDENDS:
        return f"{len(tokens)} × {least:,}–{most:,} = {total}"
    return f"{' + '.join(f'{one:,}' for one in tokens)} = {total}"


def _refusal(words: str, button: str = "") -> str:
    """What Send will be refused for."""
    return f'<p class="refused" title="{escape(words)}"><span>{escape(words)}</span> {button}</p>'


def lay_out(place: Place) -> gr.HTML:
    """The line; what it tells is set later."""
    return gr.HTML("", elem_id=f"{place}-cost", padding=False)


def wire(line: CostLine, shown: gr.HTML, side: Sidebar, box: Component, chatbot: Component) -> None:
    """Builds the button that the line's script presses, and wires both."""
    handler, inputs = side.answering(line.of_draft, box, chatbot)
    tokens = side.controls["max_image_tokens"]
    _wire("chat", (handler, inputs), shown, side, box, [chatbot, tokens])


def wire_clip(
    line: ClipCostLine,
    shown: gr.HTML,
    side: Sidebar,
    *seen: Component,
    compact: Component,
    frame_tokens: Component,
) -> None:
    """As `wire`. `seen` are the question, the chat, the frames and which of them are used."""
    own = (*seen, compact)
    handler, inputs = side.answering(line.of_clip, *own, max_image_tokens=frame_tokens)
    question, chatbot, _, kept = seen
    changing = [chatbot, kept, compact, frame_tokens]
    _wire("video", (handler, inputs), shown, side, question, changing)
    typed: Any = question
    typed.change(None, question, None, js="(draft) => cost.video.draft(draft)", **UNQUEUED)
    lower = gr.Button(elem_id="lower-frame-tokens")
    told = lower.click(None, None, frame_tokens, js="() => cost.frameTokens", **UNQUEUED)
    told.then(None, None, None, js="() => cost.video.changed()", **UNQUEUED)


def _wire(
    place: Place,
    counting: tuple[Callable[..., Any], set[Component]],
    shown: gr.HTML,
    side: Sidebar,
    box: Any,
    changing: Sequence[Any],
) -> None:
    script = f"cost.{place}"
    button = gr.Button(elem_id=f"count-{place}-cost")
    handler, inputs = counting
    # A later wish waits for the one that is being counted, and takes the place of those before it.
    counted = button.click(handler, set(inputs), shown, trigger_mode="always_last", **SOON)
    counted.then(None, None, None, js=f"() => {script}.told()", **UNQUEUED)
    box.submit(None, None, None, js=f"() => {script}.sent()", **UNQUEUED)
    thinking: Any = side.controls["enable_thinking"]
    for changed in (*changing, side.system_prompt, thinking):
        changed.change(None, None, None, js=f"() => {script}.changed()", **UNQUEUED)
