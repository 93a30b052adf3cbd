"""The strip of a clip's frames as HTML: small pictures that move the player, each with its tick.

The ticks themselves are kept in the browser (`strip.js`). Knows frames; nothing of models.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from html import escape
from pathlib import Path

from gradio.processing_utils import save_pil_to_cache
from gradio.utils import get_upload_folder

from qwen_vl.ui.frames import Frame, seconds
from qwen_vl.ui.strings import say

THUMB_SIDE_PX = 320


def thumbnails(frames: Sequence[Frame]) -> list[str]:
    """A small picture of each frame, as a file in the page's cache."""
    paths = []
    for frame in frames:
        thumb = frame.picture.decode()
        thumb.thumbnail((THUMB_SIDE_PX, THUMB_SIDE_PX))
        paths.append(save_pil_to_cache(thumb, get_upload_folder(), "frame", "jpeg"))
    return paths


def strip_html(frames: Sequence[Frame], pictures: Sequence[str], clip: str, lang: str) -> str:
    """The strip; `pictures` are the files of `thumbnails`."""
    cells = "".join(_cell(frame, path, lang) for frame, path in zip(frames, pictures, strict=True))
    # A strip made anew is a new element, also where nothing in it is new.
    made, name = secrets.token_hex(8), escape(Path(clip).parent.name)
    return (
        f'<div class="strip-head"><span>{escape(say("frames", lang))}</span>'
        f'<button type="button" data-ticks="all">{escape(say("ticks_all", lang))}</button>'
        f'<button type="button" data-ticks="none">{escape(say("ticks_none", lang))}</button></div>'
        f'<p class="stale-note" role="status">{escape(say("frames_stale", lang))}</p>'
        f'<div class="strip" data-made="{made}" data-clip="{name}">{cells}</div>'
    )


def _cell(frame: Frame, path: str, lang: str) -> str:
    time = escape(seconds(frame.time_s))
    jump, use = (escape(say(key, lang, time=time)) for key in ("frame_jump", "frame_use"))
    return (
        f'<div class="frame"><button type="button" data-at="{frame.time_s}" aria-label="{jump}">'
        f'<img data-path="{escape(path)}" alt=""></button>'
        f'<label><input type="checkbox" checked data-time="{time}" aria-label="{use}">'
        f"<span>{time}</span></label></div>"
    )
