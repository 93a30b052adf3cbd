"""Keyframes as a session keeps them, and the ways they are shown and sent.

Knows pictures, times and messages; knows nothing of clips on disk, pages or models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from qwen_vl.media.kept import KeptImage
from qwen_vl.schema import Compact, ImagePart, Message, as_wished

THUMB_SIDE_PX = 320
_TIME = re.compile(r"(?<![\d.:])(\d{1,5}(?:\.\d{1,3})?) ?(?:s\b|sec|seconds?\b|秒)")


@dataclass(frozen=True)
class Frame:
    """A keyframe as the session keeps it: seconds after the start, and its picture."""

    time_s: float
    picture: KeptImage


def seconds(time_s: float) -> str:
    """A time as captions show it: one decimal where that tells it, else up to three."""
    short = f"{time_s:.1f}"
    return (
        f"{short} s" if abs(time_s - float(short)) < 0.005 else f"{time_s:.3f}".rstrip("0") + " s"
    )


def gallery_of(frames: Sequence[Frame], kept: Sequence[int]) -> list[Any]:
    """(thumbnail, caption) of every frame; those left out are pale and crossed."""
    pictures = []
    for index, frame in enumerate(frames):
        thumb = frame.picture.decode()
        thumb.thumbnail((THUMB_SIDE_PX, THUMB_SIDE_PX))
        caption = seconds(frame.time_s)
        if index not in kept:
            thumb = Image.blend(thumb.convert("L").convert("RGB"), _grey(thumb), 0.7)
            caption = f"✕ {caption}"
        pictures.append((thumb, caption))
    return pictures


def _grey(like: Image.Image) -> Image.Image:
    return Image.new("RGB", like.size, (128, 128, 128))


def with_frames(
    messages: Sequence[Message], frames: Sequence[Frame], compact: Compact = False
) -> list[Message]:
    """The frames go before the first question, in order of time; in pairs as `compact` says."""
    in_order = sorted(frames, key=lambda frame: frame.time_s)
    shown = [ImagePart(frame.picture, frame.time_s) for frame in in_order]
    parts = tuple(as_wished(shown, compact))
    first = next(i for i, message in enumerate(messages) if message.role == "user")
    question = replace(messages[first], parts=parts + messages[first].parts)
    return [*messages[:first], question, *messages[first + 1 :]]


def times_in(text: str, end_s: float, most: int = 12) -> list[float]:
    """The times in seconds that an answer names, each once, in its order, none after `end_s`."""
    times = dict.fromkeys(float(found) for found in _TIME.findall(text))
    return [time_s for time_s in times if time_s <= end_s][:most]
