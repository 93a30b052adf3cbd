"""One untrusted clip -> keyframes with their times. Runs in a worker. Alone imports av and cv2.

The first bytes name the container and FFmpeg never guesses, so no playlist is followed. Pixels are
bounded before a frame is decoded. A frame counts only if it was decoded and converted without an
error. Knows containers, timestamps and limits. Does not know the model, prompts or pages.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, TypeAlias

import av
import av.subtitles.codeccontext  # by name: av would load it late, when no file can be opened
import av.subtitles.stream
import av.video.reformatter
import cv2
import numpy as np
from PIL import Image

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge, UnsupportedMedia
from qwen_vl.media.headers import CONTAINERS_TEXT, container_of
from qwen_vl.media.limits import MAX_FPS, check_size
from qwen_vl.media.scenes import SceneFinder

ASSUMED_FPS = 25.0  # where a container tells none
ANALYSIS_STEP_S = 0.1  # scene detection looks at ten pictures a second
ANALYSIS_SIDE_PX = 160
THREADS = 2
_ONE_THREAD_PX = 4_000_000
_TIME_SLACK_S = 0.0015  # WebM and MKV round times to 1 ms
_PROGRESS_STEP = 0.01
_COLOUR_SPACES = {8: "YCgCo", 10: "BT.2020 with constant luminance", 14: "ICtCp"}  # H.273's numbers

Message: TypeAlias = tuple[dict[str, Any], bytes]
Spread: TypeAlias = Callable[[float], list[float]]  # duration in s -> the times wanted, from 0


def read(file: BinaryIO, request: dict[str, Any], settings: Settings) -> Iterator[Message]:
    """`request` has the `method` and its numbers.

    Yields {"progress": 0..1}, {"time_s", "size"} with the pixels of a keyframe (RGB), {"again":
    True} where the keyframes so far do not count, and at the end {"clip": numbers}, measured.
    """
    reader = _Reader(file, settings)
    limit, side_px = request["max_frames"], request["max_side_px"]
    if request["method"] == "scenes":
        found = _scenes(reader, limit, side_px)
    elif request["method"] == "interval":
        found = _at_times(reader, _every(request["every_s"], limit), side_px)
    else:
        found = _at_times(reader, _even(min(request["count"], limit)), side_px)
    seen = False
    for item in found:
        if isinstance(item, tuple):
            seen = True
            time_s, image = item
            yield {"time_s": time_s, "size": image.size}, image.tobytes()
        else:
            yield item, b""
    if not seen:
        raise BadRequest(_BROKEN)
    yield {"progress": 1.0}, b""
    reader.use_measured()
    yield {"clip": reader.numbers()}, b""


Found: TypeAlias = Iterator["tuple[float, Image.Image] | dict[str, Any]"]


def _even(count: int) -> Spread:
    return lambda duration_s: [i * duration_s / count for i in range(count)]


def _every(every_s: float, limit: int) -> Spread:
    def spread(duration_s: float) -> list[float]:
        if duration_s - _TIME_SLACK_S > limit * every_s:
            return _even(limit)(duration_s)
        return [i * every_s for i in range(limit)]  # those past the end find nothing

    return spread


def _at_times(reader: _Reader, spread: Spread, max_side_px: int) -> Found:
    """Takes the first frame at or after each time wanted.

    The container's duration may be missing (0) or wrong (broken-off clips, variable frame rates). A
    pass measures it, and where the measured one asks for other times a second pass takes those.
    """
    while True:
        wanted = spread(reader.duration_s)
        index = 0
        for time_s in reader.frames():
            yield from reader.progress()
            reached_s = time_s + _TIME_SLACK_S
            if index < len(wanted) and wanted[index] <= reached_s:
                yield time_s, _to_image(reader.picture(), max_side_px)
                while index < len(wanted) and wanted[index] <= reached_s:
                    index += 1
        if reader.measured or _close(wanted, spread(reader.end_s)):
            return
        reader.use_measured()
        yield {"again": True}


def _close(planned: list[float], measured: list[float]) -> bool:
    """Whether two spreads take about the same frames: they start at 0, so their ends tell."""
    step_s = measured[1] if len(measured) > 1 else math.inf
    return len(planned) == len(measured) and abs(planned[-1] - measured[-1]) <= step_s / 2


def _scenes(reader: _Reader, limit: int, max_side_px: int) -> Found:
    finder = SceneFinder(limit)
    next_s = 0.0
    for time_s in reader.frames():
        yield from reader.progress()
        if time_s + _TIME_SLACK_S >= next_s:
            next_s = time_s + ANALYSIS_STEP_S
            picture = reader.picture()
            finder.add(time_s, _to_hsv(picture), partial(_to_image, picture, max_side_px))
    yield from finder.finish(reader.end_s)


class _Reader:
    """Sequential passes over one clip: times, limits and progress."""

    def __init__(self, file: BinaryIO, settings: Settings) -> None:
        self._file, self._settings = file, settings
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._frame: Any = None  # the current one
        self._reported = -1.0
        self.measured = False  # whether duration_s is
        self.count = 0  # of frames in the latest pass
        self._last_s = 0.0  # the time of the last of them
        self._open()
        limit_s = settings.max_video_seconds
        if self.duration_s > limit_s:
            raise TooLarge(_too_long(limit_s))

    def _open(self) -> None:
        """Reads what the container says, and the first frame."""
        with self._container() as container:
            stream = _video_stream(container)
            guessed = stream.guessed_rate or 0  # of FFmpeg; of MKV often its 1000 ticks a second
            self.fps = float(stream.average_rate or (guessed <= MAX_FPS and guessed) or ASSUMED_FPS)
            tick = stream.time_base
            if stream.duration and tick:
                self.duration_s = float(stream.duration * tick)
            else:  # 0 where it is not known
                self.duration_s = max(0.0, (container.duration or 0) / av.time_base)
            self.frame_count = stream.frames or round(self.duration_s * self.fps)
            frame = next(self._decoded(container, stream), None)
            if frame is None:
                raise BadRequest(_BROKEN)
            turned = round(frame.rotation / 90) % 2
            self.size = (frame.height, frame.width) if turned else (frame.width, frame.height)

    def numbers(self) -> dict[str, float]:
        """What `clips.Clip` holds. Its length and frames are those of the latest pass."""
        width, height = self.size
        return {
            **{"duration_s": self.duration_s, "width": width, "height": height},
            **{"fps": self.fps, "frame_count": self.frame_count},
        }

    @property
    def end_s(self) -> float:
        """When the last frame of the latest pass ends, if it is shown as long as the mean frame.

        Measured, for the frame rate of a container is as doubtful as its duration.
        """
        shown_s = self._last_s / (self.count - 1) if self.count > 1 else 1 / self.fps
        return self._last_s + shown_s

    def frames(self) -> Iterator[float]:
        """Yields the time of each frame, in seconds; `picture()` gets the one just yielded."""
        self.count, time_s = 0, 0.0
        with self._container() as container:
            stream = _video_stream(container)
            start = stream.start_time or 0
            for frame in self._decoded(container, stream):
                self._frame = frame
                stamp = frame.dts if frame.pts is None else frame.pts
                stamp_s = float((stamp - start) * stream.time_base) if stamp is not None else 0.0
                if self.count and stamp_s <= time_s:
                    # Raw streams and some AVI files carry no times (0 for every frame) and broken
                    # ones go back: then the frame rate is all there is to go by.
                    stamp_s = time_s + 1 / self.fps
                time_s = max(stamp_s, 0.0)
                self.count += 1
                self._last_s = time_s
                self._check_length(time_s)
                yield time_s

    def picture(self) -> np.ndarray:
        """The current frame: uint8 [height, width, 3], RGB, upright."""
        frame = self._frame
        try:
            picture = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        except (av.error.FFmpegError, ValueError) as error:
            _check_memory(error)
            colours = _COLOUR_SPACES.get(int(frame.colorspace), f"colour space {frame.colorspace}")
            raise UnsupportedMedia(
                f"The colours of this video ({frame.format.name}, {colours}) are not read here. "
                "Save it as MP4 with H.264 and send that."
            ) from None
        return np.rot90(picture, round(frame.rotation / 90))  # phones store clips lying down

    def use_measured(self) -> None:
        self.duration_s, self.frame_count, self.measured = self.end_s, self.count, True

    def progress(self) -> Iterator[dict[str, float]]:
        """Tells how far it is, where that has grown enough to be worth a message."""
        if self.duration_s:
            done = min(self._last_s / self.duration_s, 1 - _PROGRESS_STEP)
            if done - self._reported >= _PROGRESS_STEP:
                self._reported = done
                yield {"progress": done}

    def _container(self) -> Any:
        self._file.seek(0)
        head = self._file.read(12)
        self._file.seek(0)
        options = {"protocol_whitelist": "none"}  # a container may name other files and addresses
        try:
            return av.open(
                self._file,
                format=container_of(head),
                options=options,
                metadata_errors="replace",  # titles come in every encoding
            )
        except (av.error.FFmpegError, ValueError) as error:
            _check_memory(error)
            raise BadRequest(_BROKEN) from None

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """The frames that are sound. A damaged stretch gives none, and reading goes on after it."""
        context = stream.codec_context
        check_size(context.width or 1, context.height or 1, self._settings, "video")
        # Frames that are larger than what the container says are not even begun.
        context.options = {"max_pixels": str(int(self._settings.max_image_megapixels * 1e6))}
        large = context.width * context.height > _ONE_THREAD_PX  # each thread keeps a frame
        context.thread_count, context.thread_type = 1 if large else THREADS, "AUTO"
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
            except (av.error.FFmpegError, ValueError) as error:
                _check_memory(error)
                if isinstance(error, av.error.EOFError):
                    return
                continue
            for frame in frames:
                if not frame.is_corrupt:
                    check_size(frame.width, frame.height, self._settings, "video")
                    yield frame

    def _check_length(self, time_s: float) -> None:
        """Counts what is really there: a container may claim to be short."""
        limit_s = self._settings.max_video_seconds
        if time_s > limit_s or self.count > limit_s * MAX_FPS:
            raise TooLarge(_too_long(limit_s))


def _video_stream(container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        raise BadRequest(_BROKEN)
    if stream.codec_context is None:
        raise UnsupportedMedia(
            "The codec of this video is not read here. Save it as MP4 with H.264 and send that."
        )
    return stream


def _check_memory(error: Exception) -> None:
    if getattr(error, "errno", 0) == errno.ENOMEM:
        raise MemoryError from None


def _to_image(picture: np.ndarray, max_side_px: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(_shrink(picture, max_side_px)))


def _to_hsv(picture: np.ndarray) -> np.ndarray:
    # Skipping rows and columns first is several times cheaper than averaging all of them.
    skip = max(1, max(picture.shape[:2]) // (2 * ANALYSIS_SIDE_PX))
    return cv2.cvtColor(_shrink(picture[::skip, ::skip], ANALYSIS_SIDE_PX), cv2.COLOR_RGB2HSV)


def _shrink(picture: np.ndarray, max_side_px: int) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


_BROKEN = (
    "The video is broken or incomplete: not one picture could be decoded. Play it on your computer "
    f"to check it, then save it as {CONTAINERS_TEXT} and send that."
)


def _too_long(limit_s: int) -> str:
    return f"The video is longer than {limit_s} seconds. Cut it and send a part."
