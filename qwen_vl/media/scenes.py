"""Pictures in the order of time -> when each scene is best seen.

Knows hue, saturation, value and seconds. Does not know files, decoders or the model. Works in one
pass over small pictures, of which it keeps those of the last moments only.

Cuts are found by adaptive content detection, as PySceneDetect's documentation describes it: at a
cut the picture changes several times more than just before and just after, which tells it from a
fast camera. What comes back after a moment was a flash and no cut. Dissolves and fades are found by
`blends`. A scene that shows nothing (the black between two fades) gives no keyframe.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np

from qwen_vl.media.blends import BlendFinder, shows_nothing, smaller
from qwen_vl.media.choosing import Seen, best, clearness, is_alike, without_repeats

MIN_SCENE_S = 0.6  # a new scene must last this long to be believed
NEIGHBOURS_S = 0.25  # how far a cut's neighbours lie to each side, at most
RATIO = 3.0  # a cut changes this many times what its neighbours change, and at least
MIN_SCORE = 12.0  # (of 230) in a film, where smaller changes are noise or light;
STILL_SCORE = 4.0  # where nothing else moves, as between the slides of a recorded talk;
LONE_SCORE = 24.0  # where pictures are too far apart to have neighbours
STILL_MEAN = 0.3  # what a screen recording changes by at most while nothing happens
MIN_PARTED = 0.2  # of a picture's colours that were not in the one before: a cut in fast motion,
PARTED_RATIO = 2.2  # where so many times less is new just before and after
FLASH_S = 0.5  # after which a flash is over
FLASH_SHARE = 0.5  # of a cut's change: what is left of it after a flash, at most
PIECES_S = 0.1  # two transitions that are no further apart are one
KEPT_PER_SCENE, KEPT_OF_ALL = 16, 64  # moments
MOMENT_S = 0.25  # between two of all, at least
_HELD = 32  # small pictures of the last moments; more than come before a cut is decided
_EPSILON_S = 1e-6
_COS, _SIN = (turn(np.arange(180, dtype=np.float32) * (np.pi / 90)) for turn in (np.cos, np.sin))


class SceneFinder:
    """Give `add` the pictures in the order of time, then take the keyframes from `finish`.

    `starts_s` are the beginnings of the scenes so far, those that show nothing left out. `moments`
    are pictures from all over the clip that show something.
    """

    def __init__(self, max_scenes: int) -> None:
        self._max_scenes = max_scenes
        self._found: list[Seen] = []  # one for each finished scene
        self._kept: list[Seen] = []  # of the scene that runs and of what may be the next one
        self._changes: list[tuple[float, float]] = []  # (time_s, score) of every picture
        self._decided = 0  # how many of them were looked at
        self._start_s = 0.0  # of the scene that runs
        self._small: dict[int, np.ndarray] = {}  # the latest pictures by their number
        self._shown_s: list[float] = []  # when pictures showed something, from `_start_s` on
        self._blank: Seen | None = None  # for a clip that shows nothing at all
        self._colours: np.ndarray | None = None  # of the latest picture
        self._parted: list[float] = []  # how much of the colours each picture does not share
        self._blends = BlendFinder()
        self._blend_end_s = -1.0  # of the latest transition
        self.starts_s: list[float] = []
        self.moments: list[Seen] = []

    def add(self, time_s: float, hsv: np.ndarray) -> None:
        """`hsv` is small: uint8 [height, width, 3], hue 0..179."""
        number = len(self._changes)
        before = self._small.get(number - 1)
        score = 0.0 if before is None else change(before, hsv)
        self._small[number] = hsv
        self._small.pop(number - _HELD, None)
        self._changes.append((time_s, score))
        colours = colours_of(hsv)
        parted = 0.0 if self._colours is None else float(np.abs(colours - self._colours).sum()) / 2
        self._parted.append(parted)
        self._colours = colours
        grey = lightness(hsv)
        small = smaller(grey)
        self._decide(time_s)  # first: thinning could drop the only picture of a scene that is over
        blend = self._blends.add(time_s, small)
        if blend is not None:
            self._part(blend)
        seen = None
        if not shows_nothing(grey):
            self._shown_s.append(time_s)
            spacing_s = max(MOMENT_S, time_s / KEPT_OF_ALL)
            if not self.moments or time_s - self.moments[-1].time_s >= spacing_s:
                seen = _seen(time_s, hsv, grey, small)
                self.moments.append(seen)
                thin(self.moments, KEPT_OF_ALL)
        # The longer a scene has run, the fewer pictures are needed to hit its middle. A picture
        # that may begin a new scene is kept at once, for the clip may end soon after it.
        spacing_s = (time_s - self._start_s) / (KEPT_PER_SCENE / 2)
        if not self._kept or score >= STILL_SCORE or time_s - self._kept[-1][0] >= spacing_s:
            self._kept.append(seen or _seen(time_s, hsv, grey, small))
            thin(self._kept, KEPT_PER_SCENE)

    def finish(self, end_s: float) -> list[Seen]:
        """The best of each scene, in the order of time; over `max_scenes`, spread over the clip.

        A scene that looks like the one before it gives none.
        """
        self._decide(end_s)
        blend = self._blends.finish()
        if blend is not None:
            self._part(blend)
        if self._kept:
            self._close_scene(end_s)
        return without_repeats(self._found or [seen for seen in (self._blank,) if seen])

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
        stands_out = score >= max(RATIO * mean, STILL_SCORE if mean <= STILL_MEAN else MIN_SCORE)
        if not (stands_out or (score >= MIN_SCORE and self._has_other_colours(index))):
            return False
        return not self._is_flash(index, score)

    def _has_other_colours(self, index: int) -> bool:
        """Whether its colours are others, all at once: a camera brings them bit by bit."""
        time_s, parted = self._changes[index][0], self._parted[index]
        around = [
            self._parted[i]
            for i in range(max(0, index - 8), min(index + 9, len(self._changes)))
            if i != index and abs(self._changes[i][0] - time_s) <= NEIGHBOURS_S
        ]
        return parted >= max(MIN_PARTED, PARTED_RATIO * sum(around) / max(1, len(around)))

    def _is_flash(self, index: int, score: float) -> bool:
        """Whether the picture before comes back soon, or this one was there a moment ago."""
        time_s = self._changes[index][0]
        soon = self._nearest(index, time_s + FLASH_S)
        lately = self._nearest(index, time_s - FLASH_S)
        pairs = ((index - 1, soon), (lately, index))
        return any(
            change(self._small[one], self._small[other]) < FLASH_SHARE * score
            for one, other in pairs
            if one in self._small and other in self._small
        )

    def _nearest(self, index: int, time_s: float) -> int:
        """The picture that is nearest to `time_s`, of those about `index`; -1 if none is near."""
        around = range(max(0, index - _HELD), min(len(self._changes), index + _HELD))
        found = min(around, key=lambda i: abs(self._changes[i][0] - time_s))
        return found if abs(self._changes[found][0] - time_s) < FLASH_S / 2 else -1

    def _part(self, blend: tuple[float, float]) -> None:
        """A transition has ended: the scenes part in its middle. It may be seen in two pieces."""
        goes_on = blend[0] <= self._blend_end_s + PIECES_S
        self._blend_end_s = blend[1]
        middle_s = (blend[0] + blend[1]) / 2
        if not goes_on and middle_s - self._start_s >= MIN_SCENE_S - _EPSILON_S:
            self._close_scene(middle_s)

    def _close_scene(self, end_s: float) -> None:
        mine = [kept for kept in self._kept if kept.time_s < end_s]
        shown = bisect_left(self._shown_s, end_s)  # later ones belong to the next scene
        if mine and shown:
            self.starts_s.append(self._start_s)
            self._take(best(mine, (self._start_s + end_s) / 2))
        elif mine:
            self._blank = mine[len(mine) // 2]
        self._kept = [kept for kept in self._kept if kept.time_s >= end_s]
        del self._shown_s[:shown]
        self._start_s = end_s

    def _take(self, seen: Seen) -> None:
        """Over the limit, what was seen before goes first."""
        is_full = len(self._found) >= self._max_scenes
        if not (is_full and any(is_alike(seen, one) for one in self._found)):
            self._found.append(seen)
            thin(self._found, self._max_scenes)


def _seen(time_s: float, hsv: np.ndarray, grey: np.ndarray, small: np.ndarray) -> Seen:
    """A red and a green thing of one lightness look different, so it keeps colours, too."""
    colour = hsv[..., 1] * (hsv[..., 2] / np.float32(255))
    planes = (smaller(colour * along[hsv[..., 0]]) for along in (_COS, _SIN))
    return Seen(time_s, clearness(grey), np.stack([small, *planes]))


def lightness(hsv: np.ndarray) -> np.ndarray:
    """float32 [height, width], 0..255: white is lighter than yellow, which value does not tell."""
    saturation, value = (hsv[..., i].astype(np.float32) for i in (1, 2))
    return value * (1 - saturation / 510)


def change(before: np.ndarray, after: np.ndarray) -> float:
    """How much two HSV pictures of one size differ, 0..230: the mean over the three channels.

    Hue is a circle of 180 steps, so half of it is the most that two can differ; it counts twice to
    weigh like the others. It means nothing where there is no colour, so it counts by saturation:
    the noise of a black-and-white film would look like cuts otherwise.
    """
    if before.shape != after.shape:  # the picture changed its size midway
        return 230.0
    far = np.maximum(before, after) - np.minimum(before, after)
    hue = np.minimum(far[..., 0], 180 - far[..., 0]).astype(np.float32)
    coloured = np.vdot(hue, np.minimum(before[..., 1], after[..., 1]).astype(np.float32))
    plain = int(far[..., 1].sum(dtype=np.int64)) + int(far[..., 2].sum(dtype=np.int64))
    return (float(coloured) * (2 / 255) + plain) / (3 * hue.size)


def colours_of(hsv: np.ndarray) -> np.ndarray:
    """The share of each of 8 x 4 x 4 colours; they add up to 1."""
    hue, saturation, value = (hsv[..., i].astype(np.int32) for i in range(3))
    number = np.minimum(hue * 8 // 180, 7) * 16 + saturation // 64 * 4 + value // 64
    return np.bincount(number.ravel(), minlength=128) / number.size


def thin(items: list[Any], limit: int) -> None:
    """Drops items until `limit` are left, always the one whose neighbours in time are closest.

    So what stays covers the whole time. The first item stays, and the last one if limit > 1.
    """
    while len(items) > limit:
        inner = range(1, len(items) - 1)
        gap = min(inner, key=lambda i: items[i + 1][0] - items[i - 1][0], default=len(items) - 1)
        del items[gap if limit > 1 else -1]
