"""How the Video tab looks and what calls what; the handlers are in `video`."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from qwen_vl.media.clips import LOOKING, Method
from qwen_vl.ui import chats, cost
from qwen_vl.ui.bubbles import bubbles
from qwen_vl.ui.conversation import ANSWERS_AT_ONCE, QUIET, SOON, UNQUEUED
from qwen_vl.ui.presets import (
    FRAME_TOKENS,
    FRAME_TOKENS_STEP,
    LEAST_FRAME_TOKENS,
    MOST_FRAME_TOKENS,
)
from qwen_vl.ui.sidebar import Sidebar
from qwen_vl.ui.strings import label
from qwen_vl.ui.video import COMPACT, VideoChat

EXTRACTIONS_AT_ONCE = 4
METHODS: tuple[Method, ...] = get_args(Method)


def lay_out(
    video: VideoChat, side: Sidebar
) -> tuple[gr.Dataset, dict[str, Any], dict[str, Component]]:
    """Builds the tab inside the current Blocks and wires it.

    Returns the example clips, how a clip is read (the arguments of such an event), and the
    components whose values are a visitor's own, by name.
    """
    most = video.settings.max_frames
    frames = gr.State([])
    with gr.Row(elem_classes="video-top", equal_height=False):
        with gr.Column(scale=4, min_width=300):
            clip = gr.Video(
                sources=["upload"],
                include_audio=True,
                label=label("clip"),
                show_label=False,
                height=230,
                elem_id="clip",
            )
        with gr.Column(scale=6, min_width=300):
            strip = gr.HTML("", elem_id="frames")
            note = gr.Markdown("", elem_id="video-note")
            kept = gr.CheckboxGroup([], label=label("use_frames"), visible=False, elem_id="kept")
            clips = gr.Dataset(
                components=[gr.Video(visible=False), gr.Textbox(visible=False)],
                samples=[[item.video, item.text] for item in video.examples],
                type="index",
                label=label("clip_examples"),
                visible=bool(video.examples),
                elem_id="clip-examples",
            )
    with gr.Accordion(label("choose_frames"), open=False, elem_id="choose-frames"):
        method = gr.Radio(
            [(str(label(f"method_{name}")), name) for name in METHODS],
            value=METHODS[0],
            label=label("method"),
            elem_id="method",
        )
        with gr.Row():
            every_s = gr.Number(
                5,
                minimum=0.1,
                label=label("every_s"),
                min_width=130,
                visible=False,
                elem_id="every-s",
            )
            count = gr.Number(
                min(8, most),
                minimum=1,
                maximum=most,
                precision=0,
                label=label("count"),
                min_width=130,
                visible=False,
                elem_id="count",
            )
            max_frames = gr.Number(
                min(16, most),
                minimum=1,
                maximum=most,
                precision=0,
                label=label("max_frames"),
                min_width=130,
                elem_id="max-frames",
            )
            frame_tokens = gr.Slider(
                LEAST_FRAME_TOKENS,
                MOST_FRAME_TOKENS,
                FRAME_TOKENS,
                step=FRAME_TOKENS_STEP,
                label=label("frame_tokens"),
                elem_id="frame-tokens",
                buttons=[],
            )
        with gr.Row():
            fast = gr.Checkbox(False, label=label("fast"), info=label("fast_info"), elem_id="fast")
            compact = gr.Radio(
                [(str(label(f"compact_{name}")), name) for name in COMPACT],
                value="auto",
                label=label("compact"),
                info=label("compact_info"),
                visible=video.engine.status().family.pairs_frames,
                elem_id="compact",
            )
        extract = gr.Button(label("extract"), variant="primary", elem_id="extract")
    chatbot = bubbles(
        "video-chat",
        label("video_empty"),
        "max(200px, calc(100dvh - 566px))",
        editable="user",
    )
    video.shown_files = chatbot.temp_files
    line = cost.lay_out("video")
    with gr.Row(elem_classes="ask-row"):
        question = gr.Textbox(
            show_label=False,
            placeholder=label("question"),
            lines=1,
            max_lines=6,
            scale=6,
            min_width=240,
            elem_id="question",
        )
        ask = gr.Button(label("ask"), variant="primary", scale=1, min_width=70, elem_id="ask")
        timeline = gr.Button(label("timeline"), scale=2, min_width=110, elem_id="timeline")
        stop = gr.Button(
            label("stop_answer"),
            variant="stop",
            scale=1,
            min_width=70,
            interactive=False,
            elem_id="video-stop",
        )
    buttons = [ask, timeline, stop]
    found = [frames, strip, kept, note]
    seen = [chatbot, frames, kept]
    questions = [question, chatbot, *buttons]
    method.change(method_controls, method, [every_s, count, max_frames, fast], **SOON)
    example = clips.click(video.use_example, clips, [clip, question, chatbot, *found], **SOON)
    read: dict[str, Any] = {
        "inputs": [clip, method, every_s, count, max_frames, fast],
        "outputs": found,
        "concurrency_limit": EXTRACTIONS_AT_ONCE,
        "concurrency_id": "extract",
        "show_progress": "full",
        "show_progress_on": strip,
        "api_visibility": "private",
        "trigger_mode": "multiple",  # else a new clip would not be read while the old one is
    }
    fresh = gr.on(
        [clip.upload, clip.clear],
        video.new_clip,
        None,
        [*questions, *found],
        trigger_mode="multiple",  # a clip in the place of another one: cleared, then uploaded
        **SOON,
    )
    fresh.then(video.extract, **read)
    extract.click(video.extract, **read)
    clip_cost = cost.ClipCostLine(video)
    look: dict[str, Any] = {"compact": compact, "frame_tokens": frame_tokens}
    cost.wire_clip(clip_cost, line, side, question, *seen, **look)
    gr.on([ask.click, timeline.click], None, None, None, js="() => cost.video.sent()", **UNQUEUED)
    cut = partial(chats.before_cut, "videoChat")
    retried = chatbot.retry(video.retry, seen, questions, js=cut("retry"), **SOON)
    edited = chatbot.edit(video.edit, seen, questions, js=cut("edit"), **SOON)
    undone = chatbot.undo(video.undo, chatbot, questions, js=cut("undo"), **SOON)
    for handled in (retried, edited, undone):
        chats.after(handled, chatbot, chats.released("videoChat"))
    for asked in (
        example.then(video.extract, **read).then(video.ask, [question, *seen], questions, **SOON),
        gr.on(
            [ask.click, question.submit],
            video.ask,
            [question, *seen],
            questions,
            **SOON,
        ),
        timeline.click(video.ask_timeline, seen, questions, **SOON),
        retried,
        edited,
    ):
        asked.then(
            *side.answering(video.answer, *seen, compact, max_image_tokens=frame_tokens),
            [chatbot, question],
            concurrency_limit=ANSWERS_AT_ONCE,
            concurrency_id="video",
            **QUIET,
        ).then(video.after, None, buttons, **SOON)
    stop.click(video.stop, None, None, **UNQUEUED)
    chatbot.clear(video.clear_all, None, questions, **SOON)
    own = {"clip": clip, "video_chat": chatbot, "question": question, "method": method}
    own |= {"every_s": every_s, "count": count, "max_frames": max_frames, "fast": fast}
    return clips, read, {**own, "frame_tokens": frame_tokens, "compact": compact}


def method_controls(method: Method) -> tuple[Any, Any, Any, Any]:
    """Shows the controls that mean something for this way of choosing frames."""
    return (
        gr.Number(visible=method == "interval"),
        gr.Number(visible=method == "even"),
        gr.Number(visible=method != "even"),
        gr.Checkbox(visible=method in LOOKING),
    )
