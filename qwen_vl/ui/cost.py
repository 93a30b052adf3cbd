"""What a question will cost, told in one small line before Send.

Counted by the engine from sizes alone; `cost.js` says when. Knows conversations, the sidebar and
the Engine protocol; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import gradio as gr

from qwen_vl.errors import UserError
from qwen_vl.schema import Cost
from qwen_vl.ui.conversation import ASKERS_FAULT, SOON, UNQUEUED, Conversation, session_of
from qwen_vl.ui.history import Turn, user_turns
from qwen_vl.ui.presets import Detail, image_tokens, lower_detail
from qwen_vl.ui.refusals import told
from qwen_vl.ui.sidebar import Knobs, Sidebar
from qwen_vl.ui.strings import language_of, say
from qwen_vl.ui.waiting import duration

MOST_ADDENDS = 3  # pictures whose tokens are added up before a reader's eyes


class CostLine:
    """The handler of one tab."""

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
        asked = [*history, *user_turns(text, files)]
        yield self._line(asked, len(files), knobs, request)

    def _line(self, asked: list[Turn], new_pictures: int, knobs: Knobs, request: gr.Request) -> str:
        """The line for these turns, whose last `new_pictures` pictures are told one by one."""
        engine, settings = self.conversation.engine, self.conversation.settings
        lang, status, session = language_of(request), engine.status(), session_of(request)
        if not status.answers:
            return ""
        try:
            messages = self.conversation.messages(asked, knobs.system_prompt, session)
            params = knobs.params(settings, status.family)
            params = self.conversation.shaped(params, messages[-1].text)
            cost = engine.count(messages, params, f"page {session}")
        except UserError as error:
            return _refusal(told(error, lang)) if error.status in ASKERS_FAULT else ""
        if cost is None:
            return ""
        lower = lower_detail(params.max_image_tokens, settings, status)
        if lower and max(cost.picture_tokens, default=0) <= image_tokens(lower, settings, status):
            lower = None  # it would change nothing
        return line_html(cost, new_pictures, lower, lang)


def line_html(cost: Cost, new_pictures: int, lower: Detail | None, lang: str) -> str:
    """`lower` is the preset that one click goes to; None without one."""
    button = ""
    if lower is not None:
        name = say("cost_less_name", lang, detail=say(f"detail_{lower}", lang))
        words = escape(say("cost_less", lang)) + _where_wide(name)
        button = f'<button type="button" class="less-detail" data-detail="{lower}">{words}</button>'
    figures = {"n": f"{cost.prompt_tokens:,}", "most": f"{cost.most_tokens:,}"}
    if cost.is_too_long:
        return _refusal(say("cost_too_long", lang, **figures), button)
    share = say(
        "cost_share", lang, percent=max(1, round(100 * cost.prompt_tokens / cost.most_tokens))
    )
    facts = [escape(say("cost_prompt", lang, **figures)) + _where_wide(share)]
    if new_pictures:
        total = picture_sum(cost.picture_tokens[-new_pictures:])
        key = "cost_picture" if new_pictures == 1 else "cost_pictures"
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


def lay_out() -> gr.HTML:
    """The line; what it tells is set later."""
    return gr.HTML("", elem_id="cost", padding=False)


def wire(
    line: CostLine, shown: gr.HTML, side: Sidebar, box: gr.MultimodalTextbox, chatbot: gr.Chatbot
) -> None:
    """Builds the button that the line's script presses, and wires both."""
    count = gr.Button(elem_id="count-cost")
    handler, inputs = side.answering(line.of_draft, box, chatbot)
    # A later wish waits for the one that is being counted, and takes the place of those before it.
    counted = count.click(handler, set(inputs), shown, trigger_mode="always_last", **SOON)
    counted.then(None, None, None, js="() => cost.told()", **UNQUEUED)
    box.change(None, box, None, js="(draft) => cost.draft(draft)", **UNQUEUED)
    box.submit(None, None, None, js="() => cost.sent()", **UNQUEUED)
    settings = (side.controls[name] for name in ("max_image_tokens", "enable_thinking"))
    for changed in (chatbot, side.system_prompt, *settings):
        changed.change(None, None, None, js="() => cost.changed()", **UNQUEUED)  # type: ignore
