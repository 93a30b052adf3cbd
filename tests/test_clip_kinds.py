"""Clips of every kind that people have: each frame's time and picture, as a player shows them.

The clips are written here, and their pictures tell which frame they are (`support.clip_files`).
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from support import clip_files as clips

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge, UnsupportedMedia
from qwen_vl.media.clips import Clip, Keyframe, extract_keyframes

SETTINGS = Settings()
FPS = 10
FRAMES = 20
MILLISECOND = Fraction(1, 1000)


def written(
    path: Path,
    codec: str = "libx264",
    *,
    times_s: list[float] | None = None,
    pixels: str = "yuv420p",
    size: tuple[int, int] = (clips.WIDTH, clips.HEIGHT),
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    shape: Fraction | None = None,
    sound: bool = False,
    rate: int = FPS,
    picture: Callable[[int], np.ndarray] = clips.frame,
) -> Path:
    """Frame i, scaled to `size`, at times_s[i]."""
    times = [i / FPS for i in range(FRAMES)] if times_s is None else times_s
    with clips.same_priority(), av.open(str(path), "w", options=container or {}) as out:
        stream: Any = out.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        counts_frames = codec.startswith("mpeg") or path.suffix == ".avi"
        ticks = Fraction(1, rate) if counts_frames else MILLISECOND
        stream.codec_context.time_base = ticks
        if shape:
            stream.codec_context.sample_aspect_ratio = shape
        packets = []
        if sound:
            heard: Any = out.add_stream("aac", rate=48000)
            for at in range(0, round((times[-1] + 0.1) * 48000), 1024):
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), "fltp", "mono"
                )
                silence.sample_rate, silence.pts = 48000, at
                silence.time_base = Fraction(1, 48000)
                packets += heard.encode(silence)
            packets += heard.encode(None)
        for i, time_s in enumerate(times):
            shown = np.asarray(Image.fromarray(picture(i)[..., ::-1].copy()).resize(size))
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            frame.pts, frame.time_base = round(time_s / ticks), ticks
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in sorted(packets, key=lambda one: one.dts * one.time_base):
            out.mux(packet)
    return path


def read(path: Path, count: int = FRAMES, **options: Any) -> tuple[list[Keyframe], Clip]:
    told: list[Clip] = []
    frames = extract_keyframes(path, "even", SETTINGS, count=count, on_clip=told.append, **options)
    return frames, told[0]


def indices(frames: list[Keyframe]) -> list[int]:
    return [clips.read_index(frame.image) for frame in frames]


# --- containers, codecs and clocks ---

KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264-without-b.mp4": {"options": {"bf": "0"}},
    "h264-many-b.mp4": {"options": {"bf": "5", "g": "20"}},
    "h264-open-gop.mkv": {"options": {"x264-params": "open-gop=1:keyint=6"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "hevc-10-bit.mkv": {
        **{"codec": "libx265", "options": {"x265-params": "log-level=none"}},
        "pixels": "yuv420p10le",
    },
    "h264-10-bit.mp4": {"pixels": "yuv420p10le"},
    "h264-422.mov": {"pixels": "yuv422p"},
    "h264.mov": {},
    "h264.m4v": {},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mp4": {"codec": "libsvtav1"},
    "av1.mkv": {"codec": "libsvtav1"},
    "h264.mkv": {},
    "h264.flv": {},
    "h264.ts": {},
    "camcorder.m2ts": {"container": {"mpegts_m2ts_mode": "1"}},
    "mpeg2.ts": {"codec": "mpeg2video", "rate": 25},
    "mpeg2.mpg": {"codec": "mpeg2video", "rate": 25},
    "mpeg1.mpg": {"codec": "mpeg1video", "rate": 25},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "odd.mkv": {"codec": "ffv1", "pixels": "yuv444p", "size": (161, 97)},
    "rgb.mp4": {"codec": "libx264rgb", "pixels": "rgb24"},
    "pal-dv-like.avi": {"codec": "huffyuv", "pixels": "yuv422p"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_there_at_its_time(tmp_path: Path, name: str) -> None:
    given = dict(KINDS[name])
    step_s = 1 / given.get("rate", FPS)
    given["times_s"] = [i * step_s for i in range(FRAMES)]
    path = (
        written(tmp_path / name.split("-")[0], **given)
        if "." not in name
        else written(tmp_path / name, **given)
    )
    frames, clip = read(path)
    assert indices(frames) == list(range(FRAMES))
    first_s = frames[0].time_s
    assert first_s <= 0.25  # some containers leave room in front for frames out of order
    for i, frame in enumerate(frames):
        assert frame.time_s - first_s == pytest.approx(i * step_s, abs=0.002)
    assert clip.duration_s == pytest.approx(FRAMES * step_s, abs=0.06)
    assert (clip.width, clip.height) == given.get("size", (clips.WIDTH, clips.HEIGHT))
    assert clip.damaged_s == ()


OWN = [("late.mp4", True, 4.0), ("late.mov", True, 4.0), ("late.mkv", True, 4.0)]
OFFSETS = [("clock.webm", False, 30.0), ("clock.mkv", False, 30.0), ("clock.mp4", False, 30.0)]


@pytest.mark.parametrize(("name", "sound", "start_s"), [*OWN, *OFFSETS])
def test_a_picture_that_comes_late_and_a_clock_that_starts_late_keep_their_times(
    tmp_path: Path, name: str, sound: bool, start_s: float
) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264"
    times_s = [start_s + i / FPS for i in range(FRAMES)]
    path = written(tmp_path / name, codec, times_s=times_s, sound=sound)
    frames, clip = read(path, count=4)
    assert indices(frames) == [0, 5, 10, 15]
    assert [f.time_s for f in frames] == pytest.approx(
        [start_s + i / 2 for i in range(4)], abs=0.01
    )
    assert clip.start_s == pytest.approx(start_s, abs=0.01)
    assert clip.duration_s == pytest.approx(2.0, abs=0.06)


@pytest.mark.parametrize("name", ["late.ts", "late.avi", "late.flv"])
def test_other_containers_count_from_their_beginning(tmp_path: Path, name: str) -> None:
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = written(tmp_path / name, codec)
    frames, _ = read(path, count=2)
    assert frames[0].time_s == pytest.approx(0.0, abs=0.25)
    assert frames[1].time_s - frames[0].time_s == pytest.approx(1.0, abs=0.002)


def test_a_beginning_that_is_cut_off_by_an_edit_is_not_shown(tmp_path: Path) -> None:
    times_s = [i / FPS - 0.3 for i in range(FRAMES)]
    frames, _ = read(written(tmp_path / "edited.mp4", times_s=times_s))
    assert indices(frames) == list(range(3, FRAMES))
    assert frames[0].time_s == pytest.approx(0.0, abs=0.002)


# --- seeking ---


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("seek.mp4", "libx264", {"g": "24", "bf": "3"}),
        ("seek.mkv", "libx264", {"g": "24"}),
        ("seek.webm", "libvpx", {"g": "24"}),
        ("seek.ts", "libx264", {"g": "24"}),
        ("seek.avi", "mpeg4", {"g": "24"}),
        ("seek.flv", "libx264", {"g": "24"}),
        ("one-keyframe.mp4", "libx264", {"g": "9999", "x264-params": "scenecut=0"}),
    ],
)
def test_seeking_finds_what_a_pass_finds(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    """More frames than are read in one pass; the bars repeat after 256, the colour does not."""

    def picture(index: int) -> np.ndarray:
        return clips.frame(index % 256, (40 + 60 * (index // 256), 90, 90))

    times_s = [i / 25 for i in range(620)]
    given: dict[str, Any] = {"times_s": times_s, "options": options, "rate": 25}
    path = written(tmp_path / name, codec, picture=picture, **given)
    frames, clip = read(path, count=5)
    assert indices(frames) == [0, 124, 248, 372 - 256, 496 - 256]
    first_s = frames[0].time_s
    told = [frame.time_s - first_s for frame in frames]
    assert told == pytest.approx([0, 4.96, 9.92, 14.88, 19.84], abs=0.002)
    assert clip.duration_s == pytest.approx(24.8, abs=0.06)
    every = extract_keyframes(path, "interval", SETTINGS, every_s=10)
    assert indices(every) == [0, 250, 500 - 256]


# --- as a player shows it ---


@pytest.mark.parametrize(
    ("shape", "shown"),
    [(Fraction(2), (256, 64)), (Fraction(16, 11), (186, 64)), (Fraction(1, 2), (128, 128))],
)
@pytest.mark.parametrize("name", ["wide.mp4", "wide.mkv"])
def test_pixels_that_are_not_square(
    tmp_path: Path, name: str, shape: Fraction, shown: tuple[int, int]
) -> None:
    frames, clip = read(written(tmp_path / name, shape=shape), count=3)
    assert {frame.image.size for frame in frames} == {shown}
    assert (clip.width, clip.height) == shown
    assert indices(frames) == [0, 7, 14]


CORNERS = [(10, 10), (118, 10), (10, 54), (118, 54)]  # of a picture whose corners have colours


def corners(index: int) -> np.ndarray:
    picture = np.zeros((clips.HEIGHT, clips.WIDTH, 3), np.uint8)
    half = (slice(0, 32), slice(32, 64)), (slice(0, 64), slice(64, 128))
    colours = [(0, 0, 220), (0, 220, 0), (220, 0, 0), (220, 220, 220)]  # blue first
    for i, colour in enumerate(colours):
        picture[half[0][i // 2], half[1][i % 2]] = colour
    return picture


@pytest.mark.parametrize(
    ("matrix", "order", "size"),
    [
        ((1, 0, 0, 1), "RGBW", (128, 64)),
        ((0, 1, -1, 0), "BRWG", (64, 128)),
        ((-1, 0, 0, -1), "WBGR", (128, 64)),
        ((0, -1, 1, 0), "GWRB", (64, 128)),
        ((-1, 0, 0, 1), "GRWB", (128, 64)),
        ((1, 0, 0, -1), "BWRG", (128, 64)),
        ((0, 1, 1, 0), "RBGW", (64, 128)),
    ],
)
def test_turned_and_mirrored(
    tmp_path: Path, matrix: tuple[int, int, int, int], order: str, size: tuple[int, int]
) -> None:
    path = written(tmp_path / "turned.mp4", picture=corners, pixels="yuv444p")
    frames, clip = read(clips.turn(path, matrix), count=1)
    image = frames[0].image
    assert image.size == size == (clip.width, clip.height)
    width, height = size
    found = ""
    for place in ((8, 8), (width - 8, 8), (8, height - 8), (width - 8, height - 8)):
        r, g, b = image.getpixel(place)  # type: ignore[misc]
        found += "W" if min(r, g, b) > 120 else "RGB"[int(np.argmax((r, g, b)))]
    assert found == order


def test_a_cover_is_not_the_clip(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    film = written(tmp_path / "film.mp4")
    cover = io.BytesIO()
    Image.new("RGB", (600, 600), "red").save(cover, "JPEG")
    with av.open(str(film)) as source, av.open(str(path), "w") as out:
        art: Any = out.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt = 600, 600, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        target = out.add_stream_from_template(source.streams.video[0])
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = art, 0, 0
        out.mux(packet)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = target
                out.mux(packet)
    frames, _ = read(path, count=2)
    assert indices(frames) == [0, 10]


# Which of several a player shows; told by Chromium (`test_clip_times`).
SECOND_IS_SHOWN = {"two.mp4": True, "two.mov": True, "two.mkv": False, "two.webm": False}


def two_streams(path: Path) -> Path:
    """The second one is the default, and its colour is another."""
    webm = path.suffix == ".webm"
    with av.open(str(path), "w") as out:
        streams: list[Any] = []
        for kind in (av.stream.Disposition(0), av.stream.Disposition.default):
            stream: Any = out.add_stream("libvpx" if webm else "libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = clips.WIDTH, clips.HEIGHT, "yuv420p"
            stream.disposition = kind
            streams.append(stream)
        for index in range(FRAMES):
            for stream, blue in zip(streams, (40, 220), strict=True):
                picture = clips.frame(index, (blue, 90, 90))
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        for stream in streams:
            out.mux(stream.encode())
    return path


def shows_second(image: Image.Image) -> bool:
    red, _, blue = image.convert("RGB").getpixel((8, 8))  # type: ignore[misc]
    return bool(blue > red)


@pytest.mark.parametrize("name", SECOND_IS_SHOWN)
def test_of_several_streams_the_one_is_read_that_a_player_shows(tmp_path: Path, name: str) -> None:
    frames, _ = read(two_streams(tmp_path / name), count=2)
    assert indices(frames) == [0, 10]
    assert {shows_second(frame.image) for frame in frames} == {SECOND_IS_SHOWN[name]}


def test_interlaced_pictures_are_made_whole(tmp_path: Path) -> None:
    """A bar that moves from left to right: its two fields were taken at different times."""

    def combed(index: int) -> np.ndarray:
        picture = np.full((clips.HEIGHT, clips.WIDTH, 3), 20, np.uint8)
        for field in (0, 1):
            at = 8 + 5 * index + 12 * field  # far apart, as in fast motion
            picture[field::2, at : at + 8] = 235
        return picture

    options = {"flags": "+ilme+ildct", "x264-params": "tff=1", "crf": "1"}
    path = written(tmp_path / "tv.mkv", picture=combed, options=options, pixels="yuv422p")
    frames, _ = read(path, count=10)
    assert len(frames) == 10
    for frame in frames[1:-1]:  # the first and the last have no neighbour to look at
        rows = np.asarray(frame.image.convert("L"), np.float32)[8:-8]
        teeth = np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean()
        raw = combed(0)[8:-8, :, 0].astype(np.float32)
        assert teeth < np.abs(raw[1:-1] - (raw[:-2] + raw[2:]) / 2).mean() / 3
    assert [f.time_s for f in frames] == pytest.approx([i / 5 for i in range(10)], abs=0.002)


# --- colours ---

WEIGHTS = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114), "bt2020nc": (0.2627, 0.0593)}
SKIN, SKY = (224, 172, 140), (90, 140, 220)


def painted(path: Path, rgb: tuple[int, int, int], matrix: str, full: bool, size: int = 64) -> Path:
    """One colour in raw samples, made by the matrix of the standard, and said so in H.264."""
    r, g, b = (value / 255 for value in rgb)
    if matrix == "ycgco":
        luma, first, second = r / 4 + g / 2 + b / 4, -r / 4 + g / 2 - b / 4, r / 2 - b / 2
    else:
        red, blue = WEIGHTS["smpte170m" if matrix == "unknown" and size < 720 else
                            "bt709" if matrix == "unknown" else matrix]  # fmt: skip
        luma = red * r + (1 - red - blue) * g + blue * b
        first, second = (b - luma) / (2 * (1 - blue)), (r - luma) / (2 * (1 - red))
    gain, base, chroma = (255, 0, 255) if full else (219, 16, 224)
    samples = (luma * gain + base, first * chroma + 128, second * chroma + 128)
    named = {"unknown": "undef", "ycgco": "YCgCo"}.get(matrix, matrix)
    told = f"colormatrix={named}:range={'pc' if full else 'tv'}:log-level=none"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=10, options={"x264-params": told, "crf": "1"})
        stream.width = stream.height = size
        stream.pix_fmt, stream.codec_context.color_range = "yuv444p", 2 if full else 1
        for _ in range(2):
            frame = av.VideoFrame(size, size, "yuv444p")
            for plane, value in zip(frame.planes, samples, strict=True):
                plane.update(bytes([round(value)]) * plane.buffer_size)
            frame.color_range = 2 if full else 1
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [*WEIGHTS, "ycgco", "unknown"])
@pytest.mark.parametrize("rgb", [SKIN, SKY])
def test_matrices_and_ranges(
    tmp_path: Path, rgb: tuple[int, int, int], matrix: str, full: bool
) -> None:
    frames, _ = read(painted(tmp_path / "c.mp4", rgb, matrix, full), count=1)
    assert frames[0].image.getpixel((30, 30)) == pytest.approx(rgb, abs=5)


def test_unnamed_colours_of_a_large_picture_are_those_of_hd(tmp_path: Path) -> None:
    frames, _ = read(painted(tmp_path / "hd.mp4", SKIN, "unknown", False, 720), count=1)
    assert frames[0].image.getpixel((30, 30)) == pytest.approx(SKIN, abs=5)


def pq(nits: float) -> float:
    """SMPTE ST 2084: light -> 0..1."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (nits / 10_000) ** m1
    return float(((c1 + c2 * power) / (1 + c3 * power)) ** m2)


def hlg(nits: float) -> float:
    """BT.2100's HLG for a display of 1,000 nits, for greys: light -> 0..1."""
    scene = (nits / 1000) ** (1 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return float((3 * scene) ** 0.5 if scene <= 1 / 12 else a * np.log(12 * scene - b) + c)


@pytest.mark.parametrize(("transfer", "code"), [("smpte2084", pq), ("arib-std-b67", hlg)])
def test_hdr_is_eased_into_sdr(
    tmp_path: Path, transfer: str, code: Callable[[float], float]
) -> None:
    """A ramp of greys from 0 to 1,000 nits in 16 steps, white at 203."""
    nits = [0, 0.5, 2, 5, 10, 20, 35, 50, 75, 100, 140, 203, 300, 450, 700, 1000]
    told = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:log-level=none"
    with av.open(str(tmp_path / "hdr.mp4"), "w") as out:
        stream: Any = out.add_stream("libx264", rate=10, options={"x264-params": told, "crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 256, 16, "yuv420p10le"
        for _ in range(2):
            frame = av.VideoFrame(256, 16, "yuv420p10le")
            luma = np.repeat([round(64 + 876 * code(n)) for n in nits], 16).astype("<u2")
            row = luma.tobytes() + bytes(frame.planes[0].line_size - 512)
            frame.planes[0].update(row * 16)
            for plane in frame.planes[1:]:
                plane.update(struct.pack("<H", 512) * (plane.buffer_size // 2))
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    (frame,), _ = read(tmp_path / "hdr.mp4", count=1)
    found = np.asarray(frame.image)[8, 8::16].astype(int)
    assert np.all(np.ptp(found, axis=1) <= 3)  # greys stay grey
    steps = np.diff(found.mean(axis=1))
    assert np.all(steps >= 0)
    assert np.all(steps[:-3] > 0)
    sdr = [255 * min(1.0, 1.055 * (n / 203) ** (1 / 2.4) - 0.055) if n > 1 else 0 for n in nits]
    for shown, wanted, light in zip(found.mean(axis=1), sdr, nits, strict=True):
        if 2 <= light <= 140:  # skin and all that is not a lamp
            assert shown == pytest.approx(wanted, abs=8)
    assert found[-1].mean() >= 250


# --- clips that Pillow reads ---


@pytest.mark.parametrize("name", ["moves.gif", "moves.webp", "moves.png"])
def test_animations_are_clips(tmp_path: Path, name: str) -> None:
    pictures = [Image.fromarray(clips.frame(i)[..., ::-1].copy()) for i in range(8)]
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    pictures[0].save(
        tmp_path / name, save_all=True, append_images=pictures[1:], duration=250, **options
    )
    frames, clip = read(tmp_path / name, count=4)
    assert indices(frames) == [0, 2, 4, 6]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.5, 1.0, 1.5])
    assert (clip.duration_s, clip.frame_count) == (pytest.approx(2.0), 8)
    scenes = extract_keyframes(tmp_path / name, "scenes", SETTINGS)
    assert scenes


@pytest.mark.parametrize("name", ["still.gif", "still.webp", "still.png"])
def test_a_picture_is_no_clip(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    with pytest.raises(UnsupportedMedia, match="does not move"):
        read(tmp_path / name)


# --- what is broken ---


def noisy(index: int) -> np.ndarray:
    """A frame that fills many packets."""
    picture = clips.frame(index)
    noise = np.random.default_rng(index)
    picture[:32] = noise.integers(0, 255, (32, clips.WIDTH, 3), np.uint8)
    return picture


def test_damage_is_passed_over_and_told(tmp_path: Path) -> None:
    times_s = [i / FPS for i in range(100)]
    path = written(tmp_path / "hurt.ts", times_s=times_s, picture=noisy, options={"g": "10"})
    data = bytearray(path.read_bytes())
    third = len(data) // 3 // 188 * 188
    for at in range(third, third + len(data) // 12, 188):
        data[at + 4 : at + 188] = bytes(184)  # the packets are there, what they held is gone
    path.write_bytes(data)
    frames = extract_keyframes(path, "interval", SETTINGS, every_s=0.1, on_clip=(told := []).append)
    assert indices(frames)[0] == 0
    assert indices(frames)[-1] > 60
    (clip,) = told
    assert clip.damaged_s
    start_s, end_s = clip.damaged_s[0][0], clip.damaged_s[-1][1]
    assert 2.0 < start_s < end_s < 6.0
    for frame in frames:  # what is shown was really decoded
        first = frames[0].time_s
        assert clips.read_index(frame.image) == pytest.approx((frame.time_s - first) * 10, abs=0.1)


@pytest.mark.parametrize("name", ["none.mkv", "none.mp4", "none.webm"])
def test_a_clip_without_a_single_picture(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    options = {"movflags": "empty_moov+frag_keyframe"} if name.endswith("mp4") else {}
    codec = "libvpx" if name.endswith("webm") else "libx264"
    with av.open(str(path), "w", options=options) as out:
        stream: Any = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        out.start_encoding()
    with pytest.raises(BadRequest, match="no pictures in it"):
        read(path)


def element(name: str, content: bytes) -> bytes:
    """One of Matroska's, its size in 8 bytes."""
    return bytes.fromhex(name) + (len(content) | 1 << 56).to_bytes(8, "big") + content


def with_key(data: bytes) -> bytes:
    """A Matroska file of FFmpeg's, written live, whose stream says that a key is needed."""

    def into(data: bytes, at: int, change: Callable[[bytes], bytes]) -> bytes:
        """Changes the content of the element whose size stands at `at`."""
        width = 9 - data[at].bit_length()
        start = at + width
        end = start + int.from_bytes(data[at:start], "big") - (1 << 7 * width)
        content = change(data[start:end])
        return data[:at] + (len(content) | 1 << 56).to_bytes(8, "big") + content + data[end:]

    key = element("47E1", b"\5") + element("47E2", bytes(range(16)))
    kind = element("5031", b"\0") + element("5032", b"\1") + element("5033", b"\1")
    encrypted = element("6D80", element("6240", kind + element("5035", key)))
    tracks_at = data.rindex(bytes.fromhex("1654AE6B")) + 4  # the first one only names it
    return into(
        data,
        tracks_at,
        lambda tracks: into(tracks, tracks.index(b"\xae\1\0") + 1, lambda t: t + encrypted),
    )


def test_an_encrypted_matroska_clip_is_named_so(tmp_path: Path) -> None:
    path = written(tmp_path / "secret.mkv", container={"live": "1"})
    frames, _ = read(path, count=2)
    assert indices(frames) == [0, 10]
    path.write_bytes(with_key(path.read_bytes()))
    with pytest.raises(BadRequest, match="encrypted"):
        read(path)


def test_an_encrypted_clip_is_named_so(tmp_path: Path) -> None:
    scheme = {"encryption_scheme": "cenc-aes-ctr"}
    keys = {"encryption_key": "00112233445566778899aabbccddeeff", "encryption_kid": "0" * 32}
    path = written(tmp_path / "secret.mp4", container=scheme | keys)
    with pytest.raises(BadRequest, match="encrypted"):
        read(path)


def test_a_recording_of_television_begins_anywhere(tmp_path: Path) -> None:
    path = written(tmp_path / "tv.ts", options={"g": "5"})
    data = path.read_bytes()
    path.write_bytes(data[3 * 188 :])
    frames, _ = read(path)
    assert indices(frames)[-1] == FRAMES - 1


@pytest.mark.parametrize("name", ["half.mp4", "half.mkv", "half.webm"])
def test_what_is_missing_at_the_end_is_told(tmp_path: Path, name: str) -> None:
    times_s = [i / FPS for i in range(100)]
    codec = "libvpx" if name.endswith("webm") else "libx264"
    front = {"movflags": "faststart"} if name.endswith("mp4") else {}
    options: dict[str, Any] = {"options": {"g": "10"}, "container": front}
    path = written(tmp_path / name, codec, times_s=times_s, picture=noisy, **options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    frames, clip = read(path, count=100)
    for frame in frames:
        assert clips.read_index(frame.image) == pytest.approx(frame.time_s * FPS, abs=0.1)
    ((start_s, end_s),) = clip.damaged_s
    assert frames[-1].time_s <= start_s < 6.0
    assert end_s == pytest.approx(10.0, abs=0.06)
    assert clip.duration_s == pytest.approx(start_s + 1 / FPS, abs=0.06)


def test_no_damage_is_left_out_however_much_there_is(tmp_path: Path) -> None:
    times_s = [i / FPS for i in range(250)]
    path = written(tmp_path / "hurt.ts", times_s=times_s, picture=noisy, options={"g": "3"})
    data = bytearray(path.read_bytes())
    packets = len(data) // 188
    for part in range(1, 40):
        at = packets * part // 40 * 188
        data[at + 4 : at + 188] = bytes(184)
    path.write_bytes(data)
    _, clip = read(path, count=250)
    assert len(clip.damaged_s) <= 20
    assert clip.damaged_s[-1][1] > 20.0
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(clip.damaged_s))


def test_many_streams_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.mkv"
    with av.open(str(path), "w") as out:
        for _ in range(70):
            stream: Any = out.add_stream("rawvideo", rate=10)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        out.start_encoding()
    with pytest.raises((TooLarge, BadRequest)):
        read(path)
