"""Writes small clips whose pictures tell which frame they are.

Along the bottom of each frame run eight bars, the bits of its index in Gray code: light is 1, and
only one bar changes from frame to frame, so that the bars are no scene cuts. The rest is a colour
that stands for the scene. `read_index` gets the index back from a decoded picture, so a test can
compare what a frame shows with the time it claims.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from qwen_vl.config import Settings
from qwen_vl.media.clips import Clip, extract_keyframes

WIDTH, HEIGHT = 128, 64
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}
COLOURS = ((40, 40, 200), (110, 20, 20), (220, 220, 220), (20, 70, 20), (200, 40, 200))  # B, G, R
RIGHT_SIDE_DOWN = (0, 1, -1, 0)  # a quarter turn clockwise, as phones held upright write it


def frame(index: int, colour: tuple[int, int, int] = (90, 90, 90)) -> np.ndarray:
    """uint8 [HEIGHT, WIDTH, 3], blue first."""
    picture = np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
    for bit in range(8):
        bar = slice(bit * WIDTH // 8, (bit + 1) * WIDTH // 8)
        picture[HEIGHT * 3 // 4 :, bar] = 190 if (index ^ index >> 1) >> bit & 1 else 60
    return picture


def read_index(image: Image.Image) -> int:
    """The index that `frame` wrote, at any scale."""
    strip = np.asarray(image.convert("L").resize((WIDTH, HEIGHT)))[HEIGHT * 13 // 16 : -4]
    bars = strip.mean(axis=0).reshape(8, -1)[:, 4:-4].mean(axis=1)
    gray = sum(1 << bit for bit in range(8) if bars[bit] > 125)
    return gray ^ gray >> 1 ^ gray >> 2 ^ gray >> 3 ^ gray >> 4 ^ gray >> 5 ^ gray >> 6 ^ gray >> 7


def scenes(lengths: Sequence[int]) -> list[np.ndarray]:
    """Frames counted from 0, one colour for each length (in frames)."""
    colours = [COLOURS[i % len(COLOURS)] for i, length in enumerate(lengths) for _ in range(length)]
    return [frame(i, colour) for i, colour in enumerate(colours)]


def write(path: Path, pictures: Iterable[np.ndarray], fps: float = 10) -> Path:
    """Frame i is shown at i / fps seconds. The container comes from the name."""
    writer: cv2.VideoWriter | None = None
    for picture in pictures:
        if writer is None:
            code = cv2.VideoWriter.fourcc(*CODECS[path.suffix])
            size = (picture.shape[1], picture.shape[0])
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, size)
            assert writer.isOpened(), f"this OpenCV cannot write {path.suffix}"
        writer.write(picture)
    assert writer is not None
    writer.release()
    return path


@contextmanager
def same_priority() -> Iterator[None]:
    """Undoes what SVT-AV1 does to the thread that calls it, where that may: with root's rights it
    becomes a real-time one. All processes that it starts from then on are real-time ones, too, a
    browser for one, and nobody else gets the processor any more."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


def write_timed(
    path: Path, times_s: Sequence[float], codec: str = "libx264", live: bool = False
) -> Path:
    """Frame i is shown at times_s[i], a variable frame rate. `live` leaves the duration out."""
    tick = Fraction(1, 1000)
    with av.open(str(path), "w", options={"live": "1"} if live else {}) as out:
        stream = out.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = tick
        for index, time_s in enumerate(times_s):
            picture = av.VideoFrame.from_ndarray(frame(index), format="bgr24")
            picture.pts, picture.time_base = round(time_s * 1000), tick
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return path


def forget_times(path: Path) -> Path:
    """A new MKV of the same frames, each stamped with 0, that tells no frame rate."""
    target = path.with_name("timeless.mkv")
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream, packet.pts, packet.dts = stream, 0, 0
                out.mux(packet)
    return target


def write_sound(path: Path) -> Path:
    """A second of silence, without a picture."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        out.mux(stream.encode(silence))
        out.mux(stream.encode())
    return path


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Sets the display matrix (a, b, c, d) of an MP4 or MOV, as ISO 14496-12 keeps it in `tkhd`.

    A pixel at (x, y), y downwards, is shown at (a x + c y, b x + d y).
    """
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of fields come before the matrix
    a, b, c, d = (value * 0x10000 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path


def claim_seconds(path: Path, seconds: float) -> Path:
    """Overwrites the duration in the header of an MKV, in ms as a double (element 0x4489)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"\x44\x89\x88") + 3
    data[start : start + 8] = struct.pack(">d", seconds * 1000)
    path.write_bytes(data)
    return path


def facts(path: Path, settings: Settings) -> Clip:
    """What reading a clip tells of it."""
    told: list[Clip] = []
    extract_keyframes(path, "even", settings, count=1, on_clip=told.append)
    return told[0]
