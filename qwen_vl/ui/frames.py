"""Keyframes as a session keeps them, and the ways they are shown and sent.

Knows pictures, times and messages; knows nothing of clips on disk, pages or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qwen_vl.media.kept import KeptImage
from qwen_vl.schema import Compact, ImagePart, Message, as_wished


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
