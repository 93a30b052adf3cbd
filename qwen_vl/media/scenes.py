"""Pictures in the order of time -> one keyframe per scene.

Knows hue, saturation, value and seconds. Does not know files, decoders or the model. Works in one
pass with bounded memory: the picture of a scene is chosen while later scenes arrive.

This is adaptive content detection, as PySceneDetect's documentation describes it: at a cut the
picture changes several times more than just before and just after, which tells it from a fast
camera. Slow dissolves are not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image

Timed: TypeAlias = tuple[float, Image.Image]  # seconds after the start of the clip, picture

MIN_SCENE_S = 0.6  # a new scene must last this long to be believed
NEIGHBOURS_S = 0.25  # how far a cut's neighbours lie to each side, at most
RATIO = 3.0  # a cut changes this many times what its neighbours change, and at least
MIN_SCORE = 12.0  # (of 230) in a film, where smaller changes are noise or light;
STILL_SCORE = 4.0  # where nothing else moves, as between the slides of a recorded talk;
LONE_SCORE = 24.0  # where pictures are too far apart to have neighbours
STILL_MEAN = 0.3  # what a screen recording changes by at most while nothing happens
KEPT_PER_SCENE = 16
_EPSILON_S = 1e-6


class SceneFinder:
    """Give `add` the pictures in the order of time, then take the keyframes from `finish`."""

    def __init__(self, max_scenes: int) -> None:
        self._max_scenes = max_scenes
        self._found: list[Timed] = []  # one for each finished scene
        self._kept: list[Timed] = []  # of the scene that runs and of what may be the next one
        self._changes: list[tuple[float, float]] = []  # (time_s, score) of every picture
        self._decided = 0  # how many of them were looked at
        self._start_s = 0.0  # of the scene that runs
        self._before: np.ndarray | None = None

    def add(self, time_s: float, hsv: np.ndarray, image: Callable[[], Image.Image]) -> None:
        """`hsv` is small: uint8 [height, width, 3], hue 0..179. `image` makes the full picture."""
        score = 0.0 if self._before is None else change(self._before, hsv)
        self._before = hsv
        self._changes.append((time_s, score))
        self._decide(time_s)  # first: thinning could drop the only picture of a scene that is over
        # The longer a scene has run, the fewer pictures are needed to hit its middle. A picture
        # that may begin a new scene is kept at once, for the clip may end soon after it.
        spacing_s = (time_s - self._start_s) / (KEPT_PER_SCENE / 2)
        if not self._kept or score >= STILL_SCORE or time_s - self._kept[-1][0] >= spacing_s:
            self._kept.append((time_s, image()))
            thin(self._kept, KEPT_PER_SCENE)

    def finish(self, end_s: float) -> list[Timed]:
        """One keyframe from the middle of each scene; over `max_scenes`, spread over the clip."""
        self._decide(end_s)
        if self._kept:
            self._close_scene(end_s)
        return self._found

    def _decide(self, now_s: float) -> None:
        while self._decided < len(self._changes):
            time_s = self._changes[self._decided][0]
            if time_s + MIN_SCENE_S > now_s + _EPSILON_S:
                return
            if self._is_cut(self._decided):
                self._close_scene(time_s)
            self._decided += 1

    def _is_cut(self, index: int) -> bool:
        time_s, score = self._changes[index]
        if score < STILL_SCORE or time_s - self._start_s < MIN_SCENE_S - _EPSILON_S:
            return False
        nearby = self._changes[max(0, index - 8) : index + 9]  # more than fit into NEIGHBOURS_S
        around = [s for t, s in nearby if t != time_s and abs(t - time_s) <= NEIGHBOURS_S]
        if not around:
            return score >= LONE_SCORE
        mean = sum(around) / len(around)
        return score >= max(RATIO * mean, STILL_SCORE if mean <= STILL_MEAN else MIN_SCORE)

    def _close_scene(self, end_s: float) -> None:
        middle_s = (self._start_s + end_s) / 2
        mine = [kept for kept in self._kept if kept[0] < end_s]
        self._found.append(min(mine, key=lambda kept: abs(kept[0] - middle_s)))
        thin(self._found, self._max_scenes)
        self._kept = [kept for kept in self._kept if kept[0] >= end_s]
        self._start_s = end_s


def change(before: np.ndarray, after: np.ndarray) -> float:
    """How much two HSV pictures of one size differ, 0..230: the mean over the three channels.

    Hue is a circle of 180 steps, so half of it is the most that two can differ; it counts twice to
    weigh like the others. It means nothing where there is no colour, so it counts by saturation:
    the noise of a black-and-white film would look like cuts otherwise.
    """
    if before.shape != after.shape:  # the picture changed its size midway
        return 230.0
    a, b = before.astype(np.int16), after.astype(np.int16)
    far = np.abs(a - b)
    hue = np.minimum(far[..., 0], 180 - far[..., 0]) * np.minimum(a[..., 1], b[..., 1]) * (2 / 255)
    return float((hue.mean() + far[..., 1].mean() + far[..., 2].mean()) / 3)


def thin(items: list[Timed], limit: int) -> None:
    """Drops items until `limit` are left, always the one whose neighbours in time are closest.

    So what stays covers the whole time. The first item stays, and the last one if limit > 1.
    """
    while len(items) > limit:
        inner = range(1, len(items) - 1)
        gap = min(inner, key=lambda i: items[i + 1][0] - items[i - 1][0], default=len(items) - 1)
        del items[gap if limit > 1 else -1]
