"""A clip on disk -> keyframes with their times.

Knows what may be asked for, and the limits on bytes and time. The clip is decoded in a process of
its own (`decoders`); what happens there is in `decoders.clips`. Does not know the model, prompts or
pages.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from qwen_vl.config import Settings
from qwen_vl.errors import Abandoned, BadRequest, NotFound, UnsupportedMedia
from qwen_vl.media.decoders import POOL, OnMessage
from qwen_vl.media.headers import CONTAINERS_TEXT, HEAD_BYTES, container_of
from qwen_vl.media.limits import check_bytes

Method = Literal["auto", "scenes", "even", "interval"]
LOOKING: tuple[Method, ...] = ("auto", "scenes")  # at what the clip shows

MAX_SIDE_PX = 1024  # keyframes are scaled down to this, for the page and the API alike
MEMORY_BYTES = 480 << 20  # for decoding: a 4K film in HEVC with 10 bits takes some 400 MB of it


@dataclass(frozen=True)
class Clip:
    """What a clip is: width and height in square pixels, as a player shows them.

    `duration_s` is measured, from the first picture to the end of the last; `start_s` is when the
    player shows the first one. `frame_count` is counted where all of them were read, else what the
    container says. `damaged_s` are stretches (from, to) of what was read that were not decoded;
    the nearest of more than 20 are told as one.
    """

    path: Path
    duration_s: float
    start_s: float
    width: int
    height: int
    fps: float
    frame_count: int
    damaged_s: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Keyframe:
    """An upright RGB picture, and when a player shows it, in seconds on its clock."""

    time_s: float
    image: Image.Image


class _Stopped(Exception):
    """`should_stop` said yes."""


def extract_keyframes(
    path: Path,
    method: Method,
    settings: Settings,
    *,
    every_s: float = 5.0,
    count: int = 8,
    max_frames: int | None = None,
    max_side_px: int = MAX_SIDE_PX,
    fast: bool = False,
    on_progress: Callable[[float], None] = lambda done: None,
    on_clip: Callable[[Clip], None] = lambda clip: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Keyframe]:
    """Takes keyframes from a clip, in strictly rising time.

    "interval" is one every `every_s` seconds, "even" is `count` spread evenly: both begin at the
    start and take the first frame at or after each time, so a stretch without a new frame gives
    one only. "scenes" is the clearest picture near the middle of each scene. "auto" is that, and
    where scenes are few, more of an even spread. Where there would be more than `max_frames`
    (at most the settings' number, which is the default), they are spread over the whole clip.
    No picture is longer than `max_side_px`.

    `fast` looks for scenes among the clip's own keyframes first, and reads whole stretches only
    where these differ: what comes and goes between two alike ones is missed.

    `on_progress` gets 0..1, never falling; `on_clip`, at the end, what the clip is. `should_stop`
    is asked all the time, from another thread too; when it says yes, the decoder is ended and the
    frames found so far are returned. A clip that breaks off gives frames up to there, and a damaged
    stretch gives none.

    Raises TooLarge (bytes, seconds, frames or pixels; the time or memory to read it),
    UnsupportedMedia (not one of the containers, judged by content; colours or a codec that are not
    read), BadRequest (empty, broken, nothing to decode), Busy (too many wait) and NotFound (the
    file is gone).
    """
    if method not in get_args(Method):
        raise BadRequest(f"The method must be one of {', '.join(get_args(Method))}.")
    if not (math.isfinite(every_s) and every_s > 0):
        raise BadRequest("The seconds between frames must be more than 0.")
    if fast and method not in LOOKING:
        raise BadRequest(f"'fast' goes with the methods {' and '.join(LOOKING)} only.")
    limit = settings.max_frames if max_frames is None else min(max_frames, settings.max_frames)
    if count < 1 or limit < 1:
        raise BadRequest("The number of frames must be at least 1.")
    frames: list[Keyframe] = []

    def take(told: dict[str, Any], pixels: bytearray) -> None:
        if should_stop():
            raise _Stopped
        if "progress" in told:
            on_progress(told["progress"])
        elif "again" in told:
            frames.clear()
        elif "clip" in told:
            damaged_s = tuple((start, end) for start, end in told["clip"].pop("damaged_s"))
            on_clip(Clip(path, **told["clip"], damaged_s=damaged_s))
        else:
            width, height = told["size"]
            image = Image.frombytes("RGB", (width, height), pixels)
            frames.append(Keyframe(told["time_s"], image))

    asked = {
        **{"method": method, "every_s": every_s, "count": count},
        **{"max_frames": limit, "max_side_px": max_side_px, "fast": fast},
    }
    with contextlib.suppress(_Stopped, Abandoned):
        _read(path, asked, settings, take, should_stop)
    return frames


def _read(
    path: Path,
    asked: dict[str, Any],
    settings: Settings,
    on_message: OnMessage,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    try:
        check_bytes(path.stat().st_size, settings.max_video_mb, "video")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise NotFound("The video is no longer on the server. Add it again.") from None
    if not container_of(head):
        raise UnsupportedMedia(f"This is not a video that can be read here. Use {CONTAINERS_TEXT}.")
    limits = ("max_image_megapixels", "max_video_seconds")
    POOL.run(
        {"do": "clip", "path": str(path.resolve()), **asked}
        | {"settings": {name: getattr(settings, name) for name in limits}},
        what="video",
        limit_s=settings.max_extract_seconds,
        memory_bytes=MEMORY_BYTES,
        on_message=on_message,
        should_stop=should_stop,
    )
