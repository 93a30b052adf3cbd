"""What `video` promises, on real clips whose pictures tell which frame they are (see `clips`)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support import clip_files as clips

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, NotFound, TooLarge, UnsupportedMedia
from qwen_vl.media.clips import extract_keyframes
from qwen_vl.media.limits import MAX_FPS
from qwen_vl.media.scenes import KEPT_PER_SCENE, MIN_SCENE_S, SceneFinder, change, thin

SETTINGS = Settings()
CONTAINERS = sorted(clips.CODECS)
METHODS = ("interval", "even", "scenes", "auto")
UNEVEN_S = (0, 0.1, 0.2, 1.5, 1.6, 4.0, 4.04, 9.0)


def indices(frames) -> list[int]:
    return [clips.read_index(frame.image) for frame in frames]


@pytest.fixture(scope="module", params=CONTAINERS)
def four_scenes(request, tmp_path_factory) -> Path:
    """4 s at 10 frames a second in every container; the scenes last 1 s each."""
    path = tmp_path_factory.mktemp("clips") / f"clip{request.param}"
    return clips.write(path, clips.scenes([10, 10, 10, 10]))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_in_every_container(four_scenes, method):
    """Four frames, one from each second, upright RGB, each at the time it is shown at."""
    frames = extract_keyframes(four_scenes, method, SETTINGS, every_s=1, count=4)
    found = indices(frames)
    assert [index // 10 for index in found] == [0, 1, 2, 3]
    for frame, index in zip(frames, found, strict=True):
        assert frame.time_s == pytest.approx(index / 10, abs=0.01)
        assert (frame.image.mode, frame.image.size) == ("RGB", (clips.WIDTH, clips.HEIGHT))
    if method in ("scenes", "auto"):
        assert all(3 <= index % 10 <= 7 for index in found)  # the middle of the scene
    else:
        assert found == [0, 10, 20, 30]


def test_what_a_clip_is_in_every_container(four_scenes):
    clip = clips.facts(four_scenes, SETTINGS)
    assert (clip.width, clip.height, clip.frame_count) == (clips.WIDTH, clips.HEIGHT, 40)
    assert clip.duration_s == pytest.approx(4.0, abs=0.05)
    assert clip.fps == pytest.approx(10)


def test_colours_are_red_green_blue(tmp_path):
    blue = np.full((64, 64, 3), (255, 0, 0), np.uint8)  # OpenCV counts from blue
    path = clips.write(tmp_path / "blue.mp4", [blue] * 5)
    red, green, blue = extract_keyframes(path, "even", SETTINGS)[0].image.getpixel((32, 32))
    assert blue > 200 > 50 > max(red, green)


@pytest.mark.parametrize("method", METHODS)
def test_max_frames_covers_the_whole_clip(tmp_path, method):
    """Asked for more than is allowed, the frames still reach into the last part of the clip."""
    path = clips.write(tmp_path / "long.mp4", clips.scenes([10] * 12))
    frames = extract_keyframes(path, method, SETTINGS, every_s=0.5, count=24, max_frames=4)
    assert len(frames) == 4
    assert frames[0].time_s < 1.0
    assert frames[-1].time_s >= 9.0
    assert max(b.time_s - a.time_s for a, b in pairwise(frames)) <= 8.0
    few = Settings(max_frames=3)
    assert len(extract_keyframes(path, method, few, every_s=0.5, count=24, max_frames=9)) == 3


def test_more_frames_than_there_are(tmp_path):
    path = clips.write(tmp_path / "short.mp4", clips.scenes([5]))
    assert indices(extract_keyframes(path, "even", SETTINGS, count=20)) == [0, 1, 2, 3, 4]


def test_defaults(tmp_path):
    path = clips.write(tmp_path / "slow.mp4", clips.scenes([22]), fps=2)
    assert [f.time_s for f in extract_keyframes(path, "interval", SETTINGS)] == [0, 5, 10]
    assert len(extract_keyframes(path, "even", SETTINGS)) == 8


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mov", "uneven.mkv", "uneven.avi"])
def test_variable_frame_rate(tmp_path, name):
    """Times come from the container: the first frame at or after 0, 2, 4, 6 and 8 seconds.

    x264 reorders frames here (B-frames), which makes frame numbers a bad clock.
    """
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = clips.write_timed(tmp_path / name, UNEVEN_S, codec)
    frames = extract_keyframes(path, "interval", SETTINGS, every_s=2)
    assert indices(frames) == [0, 5, 7]
    assert [f.time_s for f in frames] == pytest.approx([0.0, 4.0, 9.0], abs=0.002)
    everything = extract_keyframes(path, "interval", SETTINGS, every_s=0.01, max_frames=4)
    assert indices(everything)[0] == 0
    assert everything[-1].time_s == pytest.approx(9.0, abs=0.002)


def test_recording_without_a_duration(tmp_path):
    """What a browser records: the header knows no length, so it is measured."""
    path = clips.write_timed(tmp_path / "live.webm", [i / 10 for i in range(40)], "libvpx", True)
    with_cv2 = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    assert with_cv2.get(cv2.CAP_PROP_FRAME_COUNT) <= 0  # or this test tests nothing
    clip = clips.facts(path, SETTINGS)
    assert clip.frame_count == 40
    assert clip.duration_s == pytest.approx(4.0, abs=0.05)
    assert indices(extract_keyframes(path, "even", SETTINGS, count=4)) == [0, 10, 20, 30]


@pytest.mark.parametrize("claim_s", [0.5, 60.0])
def test_container_that_lies_about_its_length(tmp_path, claim_s):
    path = clips.write(tmp_path / "lie.mkv", clips.scenes([40]))
    clips.claim_seconds(path, claim_s)
    assert clips.facts(path, SETTINGS).duration_s == pytest.approx(4.0, abs=0.05)  # measured
    assert indices(extract_keyframes(path, "even", SETTINGS, count=4)) == [0, 10, 20, 30]
    many = extract_keyframes(path, "interval", SETTINGS, every_s=0.1, max_frames=8)
    assert indices(many) == [0, 5, 10, 15, 20, 25, 30, 35]
    some = extract_keyframes(path, "interval", SETTINGS, every_s=1, max_frames=8)
    assert indices(some) == [0, 10, 20, 30]


def test_container_without_times(tmp_path):
    """Some files stamp every frame with the same time: then the frame rate is the clock.

    This one tells no rate either, and 25 a second is assumed.
    """
    path = clips.forget_times(clips.write(tmp_path / "clip.avi", clips.scenes([40])))
    frames = extract_keyframes(path, "interval", SETTINGS, every_s=0.4)
    assert indices(frames) == [0, 10, 20, 30]
    assert [f.time_s for f in frames] == pytest.approx([0, 0.4, 0.8, 1.2])


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_rotated_clip_comes_out_upright(tmp_path, suffix):
    """A quarter turn clockwise: what is stored on the left is shown at the top."""
    lying = np.zeros((64, 128, 3), np.uint8)
    lying[:, :64] = (0, 0, 255)  # red on the left, blue on the right
    lying[:, 64:] = (255, 0, 0)
    path = clips.write(tmp_path / f"phone{suffix}", [lying] * 5)
    clips.turn(path, clips.RIGHT_SIDE_DOWN)
    clip = clips.facts(path, SETTINGS)
    assert (clip.width, clip.height) == (64, 128)
    image = extract_keyframes(path, "even", SETTINGS, count=1)[0].image
    assert image.size == (64, 128)
    top, bottom = image.getpixel((32, 16)), image.getpixel((32, 112))
    assert top[0] > 200 > 50 > top[2]
    assert bottom[2] > 200 > 50 > bottom[0]


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("method", METHODS)
def test_clip_of_one_frame(tmp_path, suffix, method):
    path = clips.write(tmp_path / f"one{suffix}", [clips.frame(77)])
    (frame,) = extract_keyframes(path, method, SETTINGS)
    assert (clips.read_index(frame.image), frame.time_s) == (77, 0.0)


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".avi"])
def test_truncated_clip_gives_the_frames_up_to_the_break(tmp_path, suffix):
    noise = np.random.default_rng(0)
    pictures = clips.scenes([100])
    for picture in pictures:  # so that all frames weigh about the same
        picture[:32] = noise.integers(0, 255, (32, 128, 3), np.uint8)
    path = clips.write(tmp_path / f"cut{suffix}", pictures)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    found = indices(extract_keyframes(path, "even", SETTINGS, count=4))
    assert len(found) == 4
    steps = [b - a for a, b in pairwise(found)]
    assert found[0] == 0
    assert found[-1] < 100
    assert max(steps) - min(steps) <= 2  # spread over what is there
    assert extract_keyframes(path, "scenes", SETTINGS)


def test_pictures_are_bounded(tmp_path):
    path = clips.write(tmp_path / "clip.mp4", clips.scenes([3]))
    image = extract_keyframes(path, "even", SETTINGS, count=1, max_side_px=32)[0].image
    assert image.size == (32, 16)


# What is refused, and with which words


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def picture_bytes(path: Path) -> bytes:
    Image.new("RGB", (8, 8)).save(path, "PNG")
    return path.read_bytes()


def test_files_that_are_no_clips(tmp_path):
    def read(path, settings):
        return extract_keyframes(path, "even", settings)

    path = tmp_path / "clip.mp4"
    with pytest.raises(NotFound):
        read(path, SETTINGS)
    with pytest.raises(BadRequest, match="empty"):
        read(write_bytes(path, b""), SETTINGS)
    with pytest.raises(UnsupportedMedia, match="MP4, MOV"):
        read(write_bytes(path, b"not a clip at all\n" * 50), SETTINGS)
    with pytest.raises(UnsupportedMedia):
        read(write_bytes(path, picture_bytes(tmp_path / "x.png")), SETTINGS)
    noise = np.random.default_rng(0).bytes(5000)
    with pytest.raises(BadRequest, match="broken"):
        read(write_bytes(path, b"\0\0\0\x18ftypmp42" + noise), SETTINGS)
    with pytest.raises(BadRequest, match="sound and no pictures"):
        read(clips.write_sound(tmp_path / "sound.mp4"), SETTINGS)


def test_playlist_never_reaches_the_decoder(tmp_path):
    """FFmpeg would open the files and addresses that a playlist names."""
    clips.write(tmp_path / "secret.mp4", [clips.frame(1)] * 3)
    for text in ("#EXTM3U\n#EXTINF:1,\nsecret.mp4\n", "ffconcat version 1.0\nfile secret.mp4\n"):
        with pytest.raises(UnsupportedMedia):
            extract_keyframes(write_bytes(tmp_path / "a.mp4", text.encode()), "even", SETTINGS)


def test_truncated_mp4_without_its_index(tmp_path):
    path = clips.write(tmp_path / "clip.mp4", clips.scenes([40]))
    path.write_bytes(path.read_bytes()[:-200])  # the index is written last
    with pytest.raises(BadRequest, match="broken or incomplete"):
        extract_keyframes(path, "even", SETTINGS)


def test_limit_on_bytes(four_scenes):
    with pytest.raises(TooLarge, match=r"0\.001 MB"):
        clips.facts(four_scenes, Settings(max_video_mb=0.001))


def test_limit_on_seconds(four_scenes):
    with pytest.raises(TooLarge, match="3 seconds"):
        clips.facts(four_scenes, Settings(max_video_seconds=3))
    assert clips.facts(four_scenes, Settings(max_video_seconds=5))


@pytest.mark.parametrize("method", METHODS)
def test_limit_on_seconds_against_a_lying_header(tmp_path, method):
    path = clips.write(tmp_path / "lie.mkv", clips.scenes([40]))
    clips.claim_seconds(path, 0.5)
    with pytest.raises(TooLarge, match="2 seconds"):
        extract_keyframes(path, method, Settings(max_video_seconds=2))


def test_limit_on_decoded_frames(tmp_path):
    path = clips.write(tmp_path / "fast.mp4", [clips.frame(0)] * (MAX_FPS + 20), fps=500)
    with pytest.raises(TooLarge):
        extract_keyframes(path, "even", Settings(max_video_seconds=1))


def test_limit_on_pixels_and_shape(four_scenes, tmp_path):
    with pytest.raises(TooLarge, match="million pixels"):
        clips.facts(four_scenes, Settings(max_image_megapixels=0.001))
    thin_clip = clips.write(tmp_path / "thin.avi", [np.zeros((8, 1680, 3), np.uint8)])
    with pytest.raises(BadRequest, match="1680x8"):
        clips.facts(thin_clip, SETTINGS)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("interval", {"every_s": 0}),
        ("interval", {"every_s": float("nan")}),
        ("even", {"count": 0}),
        ("even", {"max_frames": 0}),
        ("sometimes", {}),
    ],
)
def test_choices_that_make_no_sense(four_scenes, method, options):
    with pytest.raises(BadRequest):
        extract_keyframes(four_scenes, method, SETTINGS, **options)


# Progress and stopping


@pytest.mark.parametrize("method", METHODS)
def test_progress_rises_to_one(four_scenes, method):
    seen: list[float] = []
    extract_keyframes(four_scenes, method, SETTINGS, on_progress=seen.append)
    assert all(a < b for a, b in pairwise(seen))
    assert seen[0] < 0.1
    assert seen[-1] == 1.0
    assert len(seen) > 10


@pytest.mark.parametrize("method", METHODS)
def test_stopping_ends_the_work(four_scenes, method):
    """Asked at every frame or so of such a short clip; what was found by then comes back."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 15  # in the middle of the second scene, or before

    frames = extract_keyframes(
        four_scenes, method, SETTINGS, every_s=1, count=4, should_stop=should_stop
    )
    assert asked > 15
    assert all(index < 15 for index in indices(frames))


# Scene detection


def moving(shift_px: int, texture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.roll(texture, shift_px, axis=1)[:, :128])


@pytest.fixture
def texture() -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 255, (8, 64, 3), np.uint8)
    return cv2.resize(coarse, (512, 64), interpolation=cv2.INTER_CUBIC)


def test_a_fast_camera_is_no_cut(tmp_path, texture):
    """Every frame of a pan differs much from the one before, and none more than its neighbours."""
    path = clips.write(tmp_path / "pan.avi", [moving(8 * i, texture) for i in range(40)])
    assert len(extract_keyframes(path, "scenes", SETTINGS)) == 1


def test_a_cut_between_two_pans_is_found(tmp_path, texture):
    other = 255 - texture // 2
    pictures = [moving(2 * i, texture if i < 20 else other) for i in range(40)]
    first, second = extract_keyframes(
        clips.write(tmp_path / "pans.avi", pictures), "scenes", SETTINGS
    )
    assert 0.5 < first.time_s < 1.5
    assert 2.5 < second.time_s < 3.5


def test_colour_noise_in_a_grey_film_is_no_cut(tmp_path):
    noise = np.random.default_rng(2)
    pictures = [
        (np.full((64, 128, 3), 60 if i < 20 else 190) + noise.integers(0, 4, (64, 128, 3))).astype(
            np.uint8
        )
        for i in range(40)
    ]
    frames = extract_keyframes(clips.write(tmp_path / "grey.avi", pictures), "scenes", SETTINGS)
    assert [round(f.image.getpixel((64, 32))[0], -1) for f in frames] == [60, 190]


def test_slide_show(tmp_path):
    """One frame a second: no neighbours to compare with, and each slide is a scene."""
    path = clips.write(tmp_path / "slides.mp4", clips.scenes([1, 1, 2, 1]), fps=1)
    assert indices(extract_keyframes(path, "scenes", SETTINGS)) in ([0, 1, 2, 4], [0, 1, 3, 4])


def test_last_slide_after_a_long_one(tmp_path):
    """It lasts one frame, when pictures of the scene before are long kept at wide spaces only."""
    path = clips.write(tmp_path / "slides.mp4", clips.scenes([100, 1]), fps=1)
    middle, last = indices(extract_keyframes(path, "scenes", SETTINGS))
    assert 40 <= middle <= 60
    assert last == 100


def test_hue_is_a_circle_and_means_nothing_without_colour():
    def flat(hue: int, saturation: int) -> np.ndarray:
        return np.full((4, 4, 3), (hue, saturation, 100), np.uint8)

    assert change(flat(10, 0), flat(90, 0)) == 0
    assert change(flat(1, 255), flat(179, 255)) == pytest.approx(change(flat(4, 255), flat(6, 255)))
    assert change(flat(0, 255), flat(90, 255)) > change(flat(0, 255), flat(60, 255)) > 0


def test_slides_of_a_recorded_talk(tmp_path):
    """White slides that differ in a few lines: little changes, but nothing else moves."""
    slides = [np.full((360, 640, 3), 255, np.uint8) for _ in range(3)]
    for number, slide in enumerate(slides):
        for line in range(6):
            left, top = 40 + 90 * number, 40 + 50 * line + 15 * number
            slide[top : top + 10, left : left + 160] = 40
    path = clips.write(tmp_path / "talk.mp4", [slides[i // 20] for i in range(60)])
    frames = extract_keyframes(path, "scenes", SETTINGS)
    assert [int(frame.time_s // 2) for frame in frames] == [0, 1, 2]


def test_a_flash_shorter_than_a_scene_at_the_end_is_not_one(tmp_path):
    short = int(MIN_SCENE_S * 10) - 2
    path = clips.write(tmp_path / "flash.mp4", clips.scenes([20, short]))
    assert len(extract_keyframes(path, "scenes", SETTINGS)) == 1


def test_thinning_leaves_no_large_hole():
    """Each gap it makes joins the two closest of its time, so it is at most 2 T / (limit - 1)."""
    image, limit, total = Image.new("RGB", (1, 1)), 10, 1000
    items: list[tuple[float, Image.Image]] = []
    for time_s in range(total + 1):
        items.append((float(time_s), image))
        thin(items, limit)
    times = [time_s for time_s, _ in items]
    assert len(times) == limit
    assert (times[0], times[-1]) == (0.0, total)
    assert max(b - a for a, b in pairwise(times)) <= 2 * total / (limit - 1)
    thin(items, 1)
    assert [time_s for time_s, _ in items] == [0.0]


@pytest.mark.parametrize("gap", [6, 7])
def test_two_cuts_close_together_after_a_long_scene_give_a_frame_each(gap):
    hue_and_value = [(20, 40), (90, 120), (160, 200)]
    small = [np.full((4, 4, 3), (hue, value, value), np.uint8) for hue, value in hue_and_value]
    for first in range(90, 330, 7):  # in tenths of a second, as the pictures come
        finder = SceneFinder(KEPT_PER_SCENE)
        for i in range(first + 30):
            slide = (i >= first) + (i >= first + gap)
            finder.add(i / 10, small[slide])
        found = finder.finish((first + 30) / 10)
        before, between, after = (seen.time_s for seen in found)
        assert before < first / 10 <= between < (first + gap) / 10 <= after
