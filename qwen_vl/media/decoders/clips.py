"""One untrusted clip -> keyframes with their times. Runs in a worker.

Knows which frames are wanted: evenly, at an interval, one for each scene, or the best of these.
`reader` gets them.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, BinaryIO, Protocol, TypeAlias

import cv2
import numpy as np
from PIL import Image

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest
from qwen_vl.media.choosing import Seen, filled
from qwen_vl.media.decoders import animations, containers, reader
from qwen_vl.media.decoders.reader import TIME_SLACK_S
from qwen_vl.media.scenes import FLASH_S, STILL_SCORE, SceneFinder, change

ANALYSIS_STEP_S = 0.1  # scene detection looks at ten pictures a second
ANALYSIS_SIDE_PX = 96
KEYFRAME_STEP_S, KEYFRAME_GAP_S = 0.5, 12.0  # nearer ones are left out, farther ones not trusted
DENSE_KEYFRAMES = 8  # for each that is looked at
MOST_READ = 0.7  # of a clip, from which on one pass is cheaper
AUTO_LEAST, AUTO_STEP_S = 8, 1.0  # so many frames, or one for each such step of a shorter clip
_PROGRESS_STEP = 0.01

Message: TypeAlias = tuple[dict[str, Any], bytes]
Spread: TypeAlias = Callable[[float], list[float]]  # length in s -> the times wanted, from 0
Found: TypeAlias = Iterator["tuple[float, Image.Image] | dict[str, Any]"]
Look: TypeAlias = Callable[["Frames", SceneFinder], Found]


class Frames(Protocol):
    """One clip, as `reader.Reader` and `animations.Reader` read it."""

    start_s: float
    time_s: float
    measured: bool

    @property
    def length_s(self) -> float: ...
    def numbers(self) -> dict[str, Any]: ...
    def frames(self, coarse: bool = False) -> Iterator[float]: ...
    def keyframes(self) -> Iterator[float]: ...
    def is_worth_seeking(self, wanted: int) -> bool: ...
    def measure(self) -> None: ...
    def frames_at(self, wanted_s: Sequence[float], coarse: bool = False) -> Iterator[float]: ...
    def picture(self, max_side_px: int) -> np.ndarray: ...
    def small(self, side_px: int) -> np.ndarray: ...


def read(file: BinaryIO, request: dict[str, Any], settings: Settings) -> Iterator[Message]:
    """`request` has the `method` and its numbers.

    Yields {"progress": 0..1}, {"time_s", "size"} with the pixels of a keyframe (RGB), {"again":
    True} where the keyframes so far do not count, and at the end {"clip": numbers}.
    """
    kind = animations.Reader if animations.is_animation(file) else reader.Reader
    clip: Frames = kind(file, settings)
    limit, side_px = request["max_frames"], request["max_side_px"]
    look = _looked_at_keyframes if request["fast"] else _looked_through
    if request["method"] == "scenes":
        found = _scenes(clip, look, limit, side_px)
    elif request["method"] == "auto":
        found = _auto(clip, look, limit, side_px)
    elif request["method"] == "interval":
        found = _at_times(clip, _every(request["every_s"], limit), side_px)
    else:
        found = _at_times(clip, _even(min(request["count"], limit)), side_px)
    seen, told = False, 0.0
    for item in found:
        if isinstance(item, tuple):
            seen = True
            time_s, image = item
            yield {"time_s": time_s, "size": image.size}, image.tobytes()
        elif "again" in item:
            yield item, b""
        elif (done := min(item["progress"], 1 - _PROGRESS_STEP)) - told >= _PROGRESS_STEP:
            told = done
            yield {"progress": done}, b""
    if not seen:
        raise BadRequest(containers.BROKEN)
    yield {"progress": 1.0}, b""
    yield {"clip": clip.numbers()}, b""


def _even(count: int) -> Spread:
    return lambda length_s: [i * length_s / count for i in range(count)]


def _every(every_s: float, limit: int) -> Spread:
    def spread(length_s: float) -> list[float]:
        if length_s - TIME_SLACK_S > limit * every_s:
            return _even(limit)(length_s)
        return [i * every_s for i in range(limit)]  # those past the end find nothing

    return spread


def _at_times(clip: Frames, spread: Spread, max_side_px: int) -> Found:
    """Takes the first frame at or after each time wanted, counted from the first frame."""
    if clip.is_worth_seeking(len(spread(clip.length_s))):
        clip.measure()
    if clip.measured:
        wanted = [clip.start_s + after_s for after_s in spread(clip.length_s)]
        for i, time_s in enumerate(clip.frames_at(wanted)):
            yield time_s, _to_image(clip.picture(max_side_px))
            yield {"progress": (i + 1) / len(wanted)}
    else:
        yield from _in_a_pass(clip, spread, max_side_px)


def _in_a_pass(clip: Frames, spread: Spread, max_side_px: int) -> Found:
    """The container's length may be missing (0) or wrong (broken-off clips, variable frame rates).

    A pass measures it, and where the measured one asks for other times a second pass takes those.
    """
    while True:
        wanted, was_measured = spread(clip.length_s), clip.measured
        times_s = array("d")  # of all frames, after the first one
        taken: list[int] = []
        for time_s in clip.frames():
            yield {"progress": _share(clip)}
            times_s.append(time_s - clip.start_s)
            if len(taken) < len(wanted) and wanted[len(taken)] <= times_s[-1] + TIME_SLACK_S:
                yield time_s, _to_image(clip.picture(max_side_px))
                while len(taken) < len(wanted) and wanted[len(taken)] <= times_s[-1] + TIME_SLACK_S:
                    taken.append(len(times_s) - 1)
        if was_measured or _first_at(times_s, spread(clip.length_s)) == taken:
            return
        yield {"again": True}


def _first_at(times_s: Sequence[float], wanted_s: Sequence[float]) -> list[int]:
    """The number of the first frame at or after each wanted time, if there is one."""
    found = (bisect_left(times_s, want_s - TIME_SLACK_S) for want_s in wanted_s)
    return [i for i in found if i < len(times_s)]


def _scenes(clip: Frames, look: Look, limit: int, max_side_px: int) -> Found:
    finder = SceneFinder(limit)
    yield from look(clip, finder)
    yield from _taken(clip, finder.finish(clip.length_s), max_side_px)


def _auto(clip: Frames, look: Look, limit: int, max_side_px: int) -> Found:
    """One of each scene, and where these are few, more of an even spread."""
    finder = SceneFinder(limit)
    yield from look(clip, finder)
    scenes = finder.finish(clip.length_s)
    count = min(AUTO_LEAST, limit, math.ceil(clip.length_s / AUTO_STEP_S))
    yield from _taken(clip, filled(scenes, finder.moments, max(1, count)), max_side_px)


def _taken(clip: Frames, moments: Sequence[Seen], max_side_px: int) -> Found:
    for time_s in clip.frames_at([clip.start_s + seen.time_s for seen in moments]):
        yield time_s, _to_image(clip.picture(max_side_px))


def _looked_through(clip: Frames, finder: SceneFinder) -> Found:
    next_s = 0.0
    for time_s in clip.frames(coarse=True):
        yield {"progress": _share(clip)}
        if time_s - clip.start_s + TIME_SLACK_S >= next_s:
            next_s = time_s - clip.start_s + ANALYSIS_STEP_S
            finder.add(time_s - clip.start_s, _hsv(clip))


def _looked_at_keyframes(clip: Frames, finder: SceneFinder) -> Found:
    """First at the clip's keyframes, then at the stretches between those that differ."""
    keys: list[tuple[float, bool]] = []  # s after the first frame, whether it shows something new
    before, count = None, 0
    for time_s in clip.keyframes() if clip.length_s else ():
        yield {"progress": _share(clip) / 4}  # a guess: the rest takes longer
        count += 1
        if keys and time_s - clip.start_s - keys[-1][0] < KEYFRAME_STEP_S:
            if count > DENSE_KEYFRAMES * (len(keys) + 1):
                break  # every frame is one: there is nothing to save
            continue
        now = _hsv(clip)
        is_new = before is not None and change(before, now) >= STILL_SCORE
        keys.append((time_s - clip.start_s, is_new))
        before = now
    else:
        wanted_s = worth_reading(keys, clip.length_s)
        if keys and len(wanted_s) * ANALYSIS_STEP_S < MOST_READ * clip.length_s:
            clip.measure()
            for time_s in clip.frames_at([clip.start_s + one_s for one_s in wanted_s], coarse=True):
                yield {"progress": _share(clip)}
                finder.add(time_s - clip.start_s, _hsv(clip))
            return
    yield from _looked_through(clip, finder)


def worth_reading(keys: Sequence[tuple[float, bool]], end_s: float) -> list[float]:
    """Keyframes (when, and whether it shows something new) -> the times to be looked at.

    A stretch that ends in something new is read, and what follows until a flash would be over. So
    is one without a keyframe for long, and the last one.
    """
    steps = {math.ceil(after_s / ANALYSIS_STEP_S) for after_s, _ in keys}
    for (from_s, _), (to_s, is_new) in pairwise([*keys, (end_s, True)]):
        if is_new or to_s - from_s > KEYFRAME_GAP_S:
            until_s = min(end_s, to_s + FLASH_S + 2 * ANALYSIS_STEP_S)
            steps |= set(range(int(from_s / ANALYSIS_STEP_S), int(until_s / ANALYSIS_STEP_S) + 1))
    return [step * ANALYSIS_STEP_S for step in sorted(steps)]


def _hsv(clip: Frames) -> np.ndarray:
    return cv2.cvtColor(clip.small(ANALYSIS_SIDE_PX), cv2.COLOR_RGB2HSV)


def found_in(file: BinaryIO, finder: SceneFinder, settings: Settings, fast: bool = False) -> None:
    """Gives the pictures of a clip to `finder`, and ends it, here and now: for the benchmark."""
    clip = reader.Reader(file, settings)
    for _ in (_looked_at_keyframes if fast else _looked_through)(clip, finder):
        pass
    finder.finish(clip.length_s)


def _share(clip: Frames) -> float:
    """How much of the clip has been read; 0 while its length is not known."""
    return (clip.time_s - clip.start_s) / clip.length_s if clip.length_s else 0.0


def _to_image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(picture)
