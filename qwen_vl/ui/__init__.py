"""The page. `build` makes it for an engine, `launch_options` is what it needs from launch().

Knows the Engine protocol and everything below it; never torch, cv2 or the API.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.ui import (
    adding,
    chat_file,
    chats,
    compare_layout,
    endpoints,
    sampling,
    sidebar,
    video_file,
    video_layout,
)
from qwen_vl.ui.adding_strings import ADDING_WORDS
from qwen_vl.ui.chat import Chat
from qwen_vl.ui.chat_strings import CHAT_WORDS
from qwen_vl.ui.compare import Compare
from qwen_vl.ui.conversation import SOON, UNQUEUED
from qwen_vl.ui.examples import files_of_examples, load_examples
from qwen_vl.ui.guard import MB, PageGuard, limits_mb
from qwen_vl.ui.keeping import Keeping
from qwen_vl.ui.presets import limits
from qwen_vl.ui.runs import Runs
from qwen_vl.ui.status import Watch
from qwen_vl.ui.strings import I18N, SCRIPT_WORDS, WORDS, label
from qwen_vl.ui.uploads import outlives, own_folder, own_uploads
from qwen_vl.ui.video import VideoChat

__all__ = ["build", "launch_options"]

STYLES = (
    *("style", "chats", "reading", "first_view", "compare", "alive", "adding", "enlarging"),
    "cost",
)
SCRIPTS = (  # in the order in which they run
    *("say", "icons", "written", "thoughts", "keeping"),
    *("undo", "branches", "following", "chats", "chat_list", "video_chat", "exchange_tools"),
    *("reading", "chat_file", "report"),
    *("watching", "files", "marks", "preview", "downloads", "places", "regions"),
    *("times", "timeline", "strip", "access", "settings_panel", "tasks", "alive"),
    *("adding", "enlarging", "cost"),
)
FILES_KEPT_S = 24 * 3600
CLEAN_EVERY_S = 3600
SESSIONS = 1000  # browser tabs whose state Gradio keeps; about 100 kB each
HEAD = """
<meta name="viewport" content="width=device-width, initial-scale=1">
"""


def build(engine: Engine, settings: Settings, beside: Engine | None = None) -> gr.Blocks:
    """The page for `engine`; `beside` is that of a second model to set side by side with it.

    Building it starts nothing and loads nothing.
    """
    folder = own_folder(settings.upload_folder)  # Gradio's components ask for it as they are built
    runs = Runs()
    examples = load_examples()
    chat = Chat(engine, settings, runs, [item for item in examples if item.video is None])
    video = VideoChat(engine, settings, runs, [item for item in examples if item.video])
    compare = Compare((engine, beside or engine), settings, runs)
    watch = Watch(engine, settings)
    with gr.Blocks(
        title="Qwen-VL",
        analytics_enabled=False,
        # At the end of a server it would delete all that the server has taken.
        delete_cache=None if outlives(folder) else (CLEAN_EVERY_S, FILES_KEPT_S),
        fill_width=True,
    ) as demo:
        # First: Gradio numbers names that come twice, and handlers of the page are named too.
        endpoints.lay_out(endpoints.Endpoints(engine, settings))
        header, banner = watch.lay_out_head()
        side = sidebar.lay_out(settings, engine.status().family)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(label("chat_tab"), id="chat", elem_id="chat-tab"):
                chatbot, box, webcam = chat.lay_out(side)
            with gr.Tab(label("video_tab"), id="video", elem_id="video-tab"):
                clips, reading, clip_parts = video_layout.lay_out(video, side)
                talk: Any = clip_parts.pop("video_chat")
                carried = video_file.VideoFile(video)
                video_file.lay_out(carried, side, talk, reading["outputs"])
            with gr.Tab(label("compare_tab"), id="compare", elem_id="compare-tab"):
                compared = compare_layout.lay_out(compare, side, demo)
        gr.Markdown(label("keeps_nothing"), elem_id="keeps-nothing")
        keeping = Keeping(settings, lambda: limits(settings, engine.status()))
        keeping.keep({"chat": chatbot}, keeper="chats")
        keeping.keep({"video_chat": talk}, keeper="videoChat")
        keeping.keep({"chat_box": box, **clip_parts, **compared})
        keeping.keep({"system_prompt": side.system_prompt, **side.controls})
        keeping.keep({"style": side.style, "detail": side.detail})
        sampling.wire(sampling.Sampling(engine, settings), side, chatbot, keeping)
        chats.wire_opening(chats.Chats(chat, keeping), chatbot, chat.after, box)
        video_file.wire_opening(carried, talk, reading["outputs"])
        chat_file.wire(chat_file.ChatFile(engine), side)
        first_look, model = watch.wire(
            demo, header, banner, box, webcam, side, keeping.components["frame_tokens"]
        )
        restored = keeping.wire(first_look)
        restored.then(video.extract_kept, **reading)
        adding.tell(restored.then, box)
        model.change(None, js="() => cost.changed()", **UNQUEUED)
        keeping.restore_on(model.change, [*side.controls, "frame_tokens"])
        demo.load(chat.show_examples, None, chatbot, **SOON)
        demo.load(video.show_examples, None, clips, **SOON)
        demo.unload(chat.leave)
        demo.unload(compare.leave)
        demo.load(None, js="() => settingsPanel.restore()")
        demo.unload(video.leave)
    demo.queue(default_concurrency_limit=16)
    return demo


def launch_options(settings: Settings) -> dict[str, Any]:
    """Arguments for `demo.launch` that belong to the page: looks, words, limits."""
    guard = Middleware(
        PageGuard,
        settings=settings,
        uploads=own_uploads(settings),
        early_script=_script("language"),
    )
    return {
        "app_kwargs": {"middleware": [guard]},
        "theme": theme(),
        "head": _head(settings),
        "i18n": I18N,
        "max_file_size": int(max(limits_mb(settings).values()) * MB),
        "max_threads": 128,  # every streaming answer holds one while it waits
        "state_session_capacity": SESSIONS,
        "allowed_paths": files_of_examples(load_examples()),
        "enable_monitoring": False,
        "run_history": False,
        "ssr_mode": False,
        "footer_links": [],
        "show_error": True,
    }


def _head(settings: Settings) -> str:
    # As "css" every selector would get a prefix that breaks those for the outermost elements.
    style = f"<style>{''.join(_read(f'{name}.css') for name in STYLES)}</style>"
    all_words = (SCRIPT_WORDS, CHAT_WORDS, ADDING_WORDS)
    words = {lang: {k: v for some in all_words for k, v in some[lang].items()} for lang in WORDS}
    told = f"window.scriptWords = {json.dumps(words)};"
    told += f"window.fileLimitsMb = {json.dumps(limits_mb(settings))};"
    scripts = (told, *map(_script, SCRIPTS))
    return HEAD + style + "".join(f"<script>{{{script}}}</script>" for script in scripts)


def _script(name: str) -> str:
    return _read(f"{name}.js")


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def theme() -> gr.themes.Base:
    return gr.themes.Soft(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    ).set(
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="500",
        block_title_padding="0",
        layout_gap="10px",
        # Dark and light enough to be read by everybody.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        checkbox_label_background_fill_selected="*primary_600",
        checkbox_label_background_fill_selected_dark="*primary_600",
        link_text_color="*primary_600",
        input_placeholder_color_dark="*neutral_400",
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_label_background_fill="none",
        block_label_background_fill_dark="none",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
    )
