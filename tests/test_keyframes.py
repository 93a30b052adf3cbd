"""Keyframes that tell the story: changes of every kind, the clearest picture, enough of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from qwen_vl import EXAMPLES
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
from qwen_vl.errors import BadRequest
from qwen_vl.media.blends import is_blend, shows_nothing
from qwen_vl.media.choosing import Seen, best, clearness, filled, is_alike
from qwen_vl.media.clips import Clip, Keyframe, extract_keyframes
from qwen_vl.media.decoders.clips import found_in, worth_reading
from qwen_vl.media.scenes import SceneFinder

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
    def of(*clear: float) -> list[Seen]:
        return [Seen(float(i), one, np.zeros((2, 2))) for i, one in enumerate(clear)]

    assert best(of(9.0, 5.0, 5.0, 5.0, 5.0), 2.0).time_s == 2.0
    assert best(of(5.0, 5.0, 0.5, 4.8, 5.0), 2.0).time_s in (1.0, 3.0)
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
            yield cv2.GaussianBlur(still, (15, 15), 4) if is_blurred else still

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


def moments(times_s: Sequence[float], pictures: Sequence[int] = (0,)) -> list[Seen]:
    """Equally clear ones; `pictures` are the seeds of what they show, over and over."""
    shown = {
        seed: np.random.default_rng(seed).uniform(0, 255, (27, 48)).astype(np.float32)
        for seed in pictures
    }
    each = itertools.cycle(pictures)
    return [Seen(time_s, 5.0, shown[next(each)]) for time_s in times_s]


def test_filling_covers_the_clip_and_goes_where_the_gaps_are() -> None:
    every_s = [i / 4 for i in range(41)]
    (known,) = moments([5.0])
    covered = [seen.time_s for seen in filled([known], moments(every_s), 5)]
    assert 5.0 in covered
    assert [int(time_s // 2) for time_s in covered] == [0, 1, 2, 3, 4]
    assert len(filled(moments([0.5, 1.0, 1.5, 2.0]), moments(every_s), 5)) == 5
    farthest = filled(moments([0.5, 1.0, 1.5, 2.0]), moments(every_s), 5)[-1]
    assert farthest.time_s > 8


def test_what_is_new_is_filled_in_before_what_was_seen() -> None:
    (known,) = moments([0.0], [1])
    other = moments([i / 4 for i in range(1, 41)], [1, 1, 1, 2])
    shown = [seen for seen in filled([known], other, 4) if not is_alike(seen, known)]
    assert len(shown) == 3


@pytest.mark.parametrize("length_s", [8, 10, 14])
def test_a_still_clip_is_covered_evenly(tmp_path: Path, length_s: int) -> None:
    still = World(2, SMALL).picture(0, 0.0)
    path = write(tmp_path / "still.mp4", (still for _ in range(length_s * 25)))
    times_s = [frame.time_s for frame in keyframes(path, "auto")]
    assert len(times_s) == 8
    assert [int(time_s * 8 / length_s) for time_s in times_s] == list(range(8))


def test_black_is_not_filled_in(tmp_path: Path) -> None:
    def pictures() -> Iterator[np.ndarray]:
        world = World(6, SMALL)
        for index in range(12 * 25):
            shown = world.picture(0, index / 25)
            yield shown if 100 <= index < 250 else np.zeros_like(shown)

    frames = keyframes(write(tmp_path / "black.mp4", pictures()), "auto")
    assert len(frames) == 8
    for frame in frames:
        assert np.asarray(frame.image).std() > 10


def test_a_scene_that_looks_like_the_one_before_gives_no_second_frame(tmp_path: Path) -> None:
    """A cutaway to black and back to the same picture; and a new line of text is new."""

    def pictures() -> Iterator[np.ndarray]:
        page = np.full((*SMALL[::-1], 3), 240, np.uint8)
        cv2.putText(page, "First line", (40, 80), 0, 1.0, (20, 20, 20), 2)
        longer = cv2.putText(page.copy(), "Second line", (40, 160), 0, 1.0, (20, 20, 20), 2)
        for shown in (page, np.zeros_like(page), page, longer):
            yield from (shown for _ in range(50))

    times_s = [frame.time_s for frame in keyframes(write(tmp_path / "p.mp4", pictures()), "scenes")]
    assert [int(time_s // 2) for time_s in times_s] == [0, 3]


def test_over_the_limit_what_comes_back_goes_first(tmp_path: Path) -> None:
    def pictures() -> Iterator[np.ndarray]:
        world = World(6, SMALL)
        for scene in (0, 1, 2, 3, 0, 1, 0, 1):
            still = world.picture(scene, 0.0)
            yield from (still for _ in range(25))

    path = write(tmp_path / "back.mp4", pictures())
    frames = keyframes(path, "scenes", max_frames=4)
    assert [int(frame.time_s) for frame in frames] == [0, 1, 2, 3]
    assert len(keyframes(path, "scenes")) == 8


# --- fast ---


class Counting(SceneFinder):
    count = 0

    def add(self, time_s: float, hsv: np.ndarray) -> None:
        self.count += 1
        super().add(time_s, hsv)


def test_fast_finds_the_same_in_fewer_pictures(tmp_path: Path) -> None:
    def pictures() -> Iterator[np.ndarray]:
        world = World(4, SMALL)
        for scene in range(3):
            still = world.picture(scene, 0.0)
            yield from (still for _ in range(150))

    path = write(tmp_path / "film.mp4", pictures(), keyframe_every=10)
    found, looked = [], []
    for fast in (False, True):
        finder = Counting(8)
        with path.open("rb") as file:
            found_in(file, finder, SETTINGS, fast)
        found.append(finder.starts_s)
        looked.append(finder.count)
    assert found[1] == pytest.approx(found[0], abs=0.2)
    assert len(found[1]) == 3
    assert looked[1] < looked[0] / 2
    assert len(keyframes(path, "auto", fast=True)) == 8


def test_fast_reads_on_where_keyframes_tell_nothing(tmp_path: Path) -> None:
    """Each frame is one, or only the first."""
    for path in (
        write(tmp_path / "rare.mp4", film([2.0, 2.0])(), keyframe_every=9999),
        write(tmp_path / "dense.mp4", film([2.0, 2.0])(), keyframe_every=1),
    ):
        times_s = [frame.time_s for frame in keyframes(path, "scenes", fast=True)]
        assert [int(time_s // 2) for time_s in times_s] == [0, 1]


def test_a_stretch_is_read_that_ends_in_something_new() -> None:
    keys = [(0.0, False), (2.0, False), (4.0, True), (6.0, False), (8.0, False), (9.0, False)]
    times_s = worth_reading(keys, 10.0)
    assert times_s[:2] == [0.0, 2.0]
    within = [time_s for time_s in times_s if 2.0 <= time_s <= 4.7]
    assert np.diff(within) == pytest.approx([0.1] * (len(within) - 1))
    assert [time_s for time_s in times_s if 4.8 < time_s < 9.0] == [6.0, 8.0]
    assert times_s[-1] == pytest.approx(10.0)


def test_fast_goes_with_what_looks_at_the_clip_only(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="fast"):
        keyframes(write(tmp_path / "film.mp4", film([1.0])()), "even", fast=True)


def test_fast_tells_the_missing_end_of_a_clip_and_nothing_else(tmp_path: Path) -> None:
    world = World(4, SMALL)
    scenes = (world.picture(index // 100, 0.0) for index in range(400))
    path = write(tmp_path / "half.mkv", scenes, keyframe_every=10)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])
    told: list[Clip] = []
    extract_keyframes(path, "scenes", SETTINGS, fast=True, on_clip=told.append)
    ((start_s, end_s),) = told[-1].damaged_s
    assert start_s == pytest.approx(told[-1].duration_s, abs=0.1)
    assert end_s == pytest.approx(16.0, abs=0.1)


def test_bright_colours_on_white_are_something_to_see(tmp_path: Path) -> None:
    """Yellow is as bright as white, and no darker than it in any channel but blue."""

    def pictures() -> Iterator[np.ndarray]:
        for colour in ((0, 230, 255), (255, 255, 0), (40, 40, 40)):  # B, G, R
            shown = np.full((*SMALL[::-1], 3), 255, np.uint8)
            cv2.rectangle(shown, (40, 20), (200, 160), colour, -1)
            yield from (shown for _ in range(75))

    path = write(tmp_path / "bright.mp4", pictures())
    assert [int(frame.time_s / 3) for frame in keyframes(path, "scenes")] == [0, 1, 2]
    frames = keyframes(path, "auto")
    assert [int(frame.time_s * 8 / 9) for frame in frames] == list(range(8))


def test_the_example_is_covered_from_its_beginning_to_its_end() -> None:
    times_s = [frame.time_s for frame in keyframes(EXAMPLES / "clip.webm", "auto")]
    assert len(times_s) == 8
    assert {int(time_s / 5) for time_s in times_s} == {0, 1, 2, 3}
