"""Keyframes that tell the story: changes of every kind, the clearest picture, enough of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from qwen_vl.bench.clips import (
    GRADUAL_S,
    KINDS,
    SCENE_S,
    SCENES,
    SMALL,
    World,
    f1,
    ours,
    true_changes,
    write,
)
from qwen_vl.config import Settings
from qwen_vl.media.blends import is_blend, shows_nothing
from qwen_vl.media.choosing import best, clearness, filled
from qwen_vl.media.clips import Keyframe, extract_keyframes

SETTINGS = Settings()


def keyframes(path: Path, method: str, **options: int) -> list[Keyframe]:
    return extract_keyframes(path, method, SETTINGS, **options)  # type: ignore[arg-type]


# --- changes of every kind; the same clips as in the benchmark ---


@pytest.mark.parametrize("kind", ["fades", "dissolves", "flashes", "camera motion"])
def test_changes_are_found_and_nothing_else(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "clip.mp4", KINDS[kind](World(11, SMALL)))  # not the benchmark's seed
    assert f1(ours(path), true_changes(kind)) >= 0.9
    if kind not in ("fades", "dissolves"):
        return
    frames = keyframes(path, "scenes")
    assert len(frames) == SCENES
    for number, frame in enumerate(frames):
        within_s = frame.time_s - number * SCENE_S
        assert 0 <= within_s <= SCENE_S - GRADUAL_S + 0.2  # before the next one shines through


def test_half_way_of_a_pan_is_no_mixture() -> None:
    noise = np.random.default_rng(0).uniform(0, 255, (40, 40)).astype(np.float32)
    wide = cv2.resize(noise, (400, 40), interpolation=cv2.INTER_CUBIC)
    pan = [wide[:, at : at + 60] for at in (0, 20, 40, 60, 80)]
    mixed = [pan[0] + share * (pan[4] - pan[0]) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert is_blend(mixed)
    assert not is_blend(pan)
    assert not is_blend([pan[0], pan[0], pan[4], pan[4], pan[4]])  # a cut
    assert not is_blend([pan[0] * light for light in (1, 0.9, 0.8, 0.7, 0.6)])  # a lamp goes down


def test_black_and_white_show_nothing() -> None:
    assert shows_nothing(np.full((9, 16), 3))
    assert shows_nothing(np.full((9, 16), 252))
    assert not shows_nothing(np.full((9, 16), 128))


# --- the picture that is taken ---


def test_the_clearest_moment_near_the_middle_is_taken() -> None:
    assert best([(0.0, 9.0), (1.0, 5.0), (2.0, 5.0), (3.0, 5.0), (4.0, 5.0)], 2.0)[0] == 2.0
    blurred = [(0.0, 5.0), (1.0, 5.0), (2.0, 0.5), (3.0, 4.8), (4.0, 5.0)]
    assert best(blurred, 2.0)[0] in (1.0, 3.0)
    texture = np.random.default_rng(0).integers(0, 255, (60, 80)).astype(np.uint8)
    sharp, soft = clearness(texture), clearness(cv2.GaussianBlur(texture, (9, 9), 3))
    dark = clearness((texture // 40).astype(np.uint8))
    assert sharp > 3 * soft
    assert soft > dark


def test_a_blurred_middle_is_not_chosen(tmp_path: Path) -> None:
    def pictures() -> Iterator[np.ndarray]:
        still = World(2, SMALL).picture(0, 0.0)
        for index in range(75):
            is_blurred = 30 <= index < 45  # the middle
            yield cv2.GaussianBlur(still, (31, 31), 9) if is_blurred else still

    (frame,) = keyframes(write(tmp_path / "focus.mp4", pictures()), "scenes")
    assert not 1.2 <= frame.time_s < 1.8
    assert 0.4 < frame.time_s < 2.6


# --- enough of them ---


def film(lengths_s: list[float]) -> Callable[[], Iterator[np.ndarray]]:
    def pictures() -> Iterator[np.ndarray]:
        world = World(4, SMALL)
        for scene, length_s in enumerate(lengths_s):
            for index in range(round(length_s * 25)):
                yield world.picture(scene, index / 25)

    return pictures


@pytest.mark.parametrize(
    ("lengths_s", "least"),
    [([10.0], 8), ([5.0, 5.0], 8), ([3.0], 3), ([0.5], 1), ([1.0] * 12, 12)],
    ids=["one scene", "two scenes", "short", "very short", "many scenes"],
)
def test_auto_gives_enough_and_one_of_each_scene(
    tmp_path: Path, lengths_s: list[float], least: int
) -> None:
    frames = keyframes(write(tmp_path / "film.mp4", film(lengths_s)()), "auto")
    times_s = [frame.time_s for frame in frames]
    assert times_s == sorted(set(times_s))
    assert least <= len(frames) <= max(8, len(lengths_s))
    ends_s = np.cumsum(lengths_s)
    assert {int(np.searchsorted(ends_s, t, side="right")) for t in times_s} == set(
        range(len(lengths_s))
    )


def test_black_and_white_stretches_between_cuts_give_no_keyframe(tmp_path: Path) -> None:
    def pictures() -> Iterator[np.ndarray]:
        world = World(6, SMALL)
        for index in range(12 * 25):
            shown = world.picture(index // 75, index / 25)
            is_black = index < 50 or 125 <= index < 200
            yield np.full_like(shown, 0 if is_black else 255) if is_black or index >= 250 else shown

    frames = keyframes(write(tmp_path / "black.mp4", pictures()), "scenes")
    assert frames
    for frame in frames:
        assert np.asarray(frame.image).std() > 10


@pytest.mark.parametrize("count", [1, 7, 32])
def test_n_frames_are_n_frames(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "film.mp4", film([4.0])())
    assert len(keyframes(path, "even", count=count)) == count


def test_filling_goes_where_the_gaps_are() -> None:
    assert filled([6.0], 10.0, 3, 1.0) == pytest.approx([0.0, 10 / 3])
    assert filled([], 10.0, 4, 1.0) == [0.0, 2.5, 5.0, 7.5]
    assert filled([0.0, 1.0, 2.0], 3.0, 8, 1.0) == []
