"""A clip on disk -> keyframes with their times. The only importer of cv2.

Knows containers, timestamps and limits. Does not know the model, prompts or pages, and chooses
frames by time or by content, never by what was asked. Clips are untrusted: only files that begin
like one of the containers below reach the decoder, and bytes, seconds, frames and pixels are
bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, NotFound, TooLarge, UnsupportedMedia
from qwen_vl.media import check_bytes, check_size
from qwen_vl.scenes import SceneFinder

Method = Literal["interval", "even", "scenes"]

CONTAINERS_TEXT = "MP4, MOV, WebM, MKV or AVI"
MAX_SIDE_PX = 1280  # keyframes are scaled down to this; 32 of them take 90 MB or so
MAX_FPS = 240  # a clip may hold this many frames for every second of the longest clip allowed
ASSUMED_FPS = 25.0  # where a container tells none
ANALYSIS_STEP_S = 0.1  # scene detection looks at ten pictures a second
ANALYSIS_SIDE_PX = 160
_TIME_SLACK_S = 0.0015  # WebM and MKV round times to 1 ms
_PROGRESS_STEP = 0.01


@dataclass(frozen=True)
class Clip:
    """What a container says of itself, width and height in pixels after rotation.

    `duration_s`, `fps` and `frame_count` are the container's word and may be wrong, except where
    it says nothing: there `probe` measures.
    """

    path: Path
    duration_s: float
    width: int
    height: int
    fps: float
    frame_count: int


@dataclass(frozen=True)
class Keyframe:
    """An upright RGB picture, and when it is shown, in seconds after the start of the clip."""

    time_s: float
    image: Image.Image


def probe(path: Path, settings: Settings) -> Clip:
    """Opens a clip and checks it against the limits.

    A container that knows no length (a browser's recording) is decoded once to measure it. Raises
    TooLarge (bytes, seconds, frames or pixels), UnsupportedMedia (not one of the containers, judged
    by content), BadRequest (empty, broken, nothing to decode) and NotFound (the file is gone).
    """
    clip = _open_clip(path, settings)
    if clip.duration_s:
        return clip
    reader = _Reader(clip, settings)
    for _ in reader.frames():
        pass
    return replace(clip, duration_s=reader.end_s, frame_count=reader.count)


def extract_keyframes(
    path: Path,
    method: Method,
    settings: Settings,
    *,
    every_s: float = 5.0,
    count: int = 8,
    max_frames: int | None = None,
    max_side_px: int = MAX_SIDE_PX,
    on_progress: Callable[[float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Keyframe]:
    """Takes keyframes from a clip, in strictly rising time.

    "interval" is one every `every_s` seconds, "even" is `count` spread evenly: both begin at the
    start and take the first frame at or after each time, so a stretch without a new frame gives
    one only. "scenes" is the middle of each scene. Where there would be more than `max_frames`
    (at most the settings' number, which is the default), they are spread over the whole clip.
    No picture is longer than `max_side_px`.

    `on_progress` gets 0..1, never falling. `should_stop` is asked before every frame; when it says
    yes, the frames found so far are returned. A clip that breaks off gives frames up to there.
    Raises what `probe` raises.
    """
    if method not in ("interval", "even", "scenes"):
        raise BadRequest("The method must be interval, even or scenes.")
    if not (math.isfinite(every_s) and every_s > 0):
        raise BadRequest("The seconds between frames must be more than 0.")
    limit = settings.max_frames if max_frames is None else min(max_frames, settings.max_frames)
    if count < 1 or limit < 1:
        raise BadRequest("The number of frames must be at least 1.")
    reader = _Reader(_open_clip(path, settings), settings, on_progress, should_stop)
    if method == "scenes":
        frames = _scenes(reader, limit, max_side_px)
    else:
        spread = _every(every_s, limit) if method == "interval" else _even(min(count, limit))
        frames = _at_times(reader, spread, max_side_px)
    if not frames and not reader.stopped:
        raise BadRequest(_BROKEN)
    reader.report(1.0)
    return frames


Spread = Callable[[float], list[float]]  # duration in seconds -> the times wanted, from 0


def _even(count: int) -> Spread:
    return lambda duration_s: [i * duration_s / count for i in range(count)]


def _every(every_s: float, limit: int) -> Spread:
    def spread(duration_s: float) -> list[float]:
        if duration_s - _TIME_SLACK_S > limit * every_s:
            return _even(limit)(duration_s)
        return [i * every_s for i in range(limit)]  # those past the end find nothing

    return spread


def _at_times(reader: _Reader, spread: Spread, max_side_px: int) -> list[Keyframe]:
    """Takes the first frame at or after each time wanted.

    The container's duration may be missing (0) or wrong (broken-off clips, variable frame rates). A
    pass measures it, and where the measured one asks for other times a second pass takes those.
    """
    while True:
        wanted = spread(reader.duration_s)
        found: list[Keyframe] = []
        index = 0
        for time_s in reader.frames():
            reached_s = time_s + _TIME_SLACK_S
            if index < len(wanted) and wanted[index] <= reached_s:
                found.append(Keyframe(time_s, _to_image(reader.picture(), max_side_px)))
                while index < len(wanted) and wanted[index] <= reached_s:
                    index += 1
        if reader.stopped or reader.measured or _close(wanted, spread(reader.end_s)):
            return found
        reader.use_measured()


def _close(planned: list[float], measured: list[float]) -> bool:
    """Whether two spreads take about the same frames: they start at 0, so their ends tell."""
    step_s = measured[1] if len(measured) > 1 else math.inf
    return len(planned) == len(measured) and abs(planned[-1] - measured[-1]) <= step_s / 2


def _scenes(reader: _Reader, limit: int, max_side_px: int) -> list[Keyframe]:
    finder = SceneFinder(limit)
    next_s = 0.0
    for time_s in reader.frames():
        if time_s + _TIME_SLACK_S >= next_s:
            next_s = time_s + ANALYSIS_STEP_S
            picture = reader.picture()
            finder.add(time_s, _to_hsv(picture), partial(_to_image, picture, max_side_px))
    return [Keyframe(time_s, image) for time_s, image in finder.finish(reader.end_s)]


class _Reader:
    """Sequential passes over one clip: times, limits, progress and stopping."""

    def __init__(
        self,
        clip: Clip,
        settings: Settings,
        on_progress: Callable[[float], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self._clip = clip
        self._settings = settings
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._capture: cv2.VideoCapture | None = None
        self._reported = -1.0
        self.duration_s = clip.duration_s  # 0 while unknown
        self.measured = False  # whether duration_s is
        self.stopped = False
        self.count = 0  # of frames in the latest pass
        self._last_s = 0.0  # the time of the last of them

    @property
    def end_s(self) -> float:
        """When the last frame of the latest pass ends, if it is shown as long as the mean frame.

        Measured, for the frame rate of a container is as doubtful as its duration.
        """
        shown_s = self._last_s / (self.count - 1) if self.count > 1 else 1 / self._clip.fps
        return self._last_s + shown_s

    def frames(self) -> Iterator[float]:
        """Yields the time of each frame, in seconds; `picture()` gets the one just yielded."""
        self.count, time_s = 0, 0.0
        with _capture(self._clip.path) as self._capture:
            while not self._asked_to_stop() and self._capture.grab():
                stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if self.count and stamp_s <= time_s:
                    # Raw streams and some AVI files carry no times (0 for every frame) and broken
                    # ones go back: then the frame rate is all there is to go by.
                    stamp_s = time_s + 1 / self._clip.fps
                time_s = max(stamp_s, 0.0)
                self.count += 1
                self._last_s = time_s
                self._check_length(time_s)
                if self.duration_s:
                    self.report(min(time_s / self.duration_s, 1 - _PROGRESS_STEP))
                yield time_s

    def picture(self) -> np.ndarray:
        """The current frame: uint8 [height, width, 3], blue first."""
        assert self._capture is not None
        decoded, picture = self._capture.retrieve()
        if not decoded:
            raise BadRequest(_BROKEN)
        return picture

    def use_measured(self) -> None:
        self.duration_s, self.measured = self.end_s, True

    def report(self, done: float) -> None:
        """Passes progress on where it has grown enough to be worth a message."""
        if self._on_progress and (done - self._reported >= _PROGRESS_STEP or done == 1.0):
            self._reported = done
            self._on_progress(done)

    def _asked_to_stop(self) -> bool:
        self.stopped = self.stopped or bool(self._should_stop and self._should_stop())
        return self.stopped

    def _check_length(self, time_s: float) -> None:
        """Counts what is really there: a container may claim to be short."""
        limit_s = self._settings.max_video_seconds
        if time_s > limit_s or self.count > limit_s * MAX_FPS:
            raise TooLarge(_too_long(limit_s))


@contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    # FFmpeg by name: another backend might read a name with % as a series of pictures.
    capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise BadRequest(_BROKEN)
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # phones store clips lying down
        yield capture
    finally:
        capture.release()


def _open_clip(path: Path, settings: Settings) -> Clip:
    """Checks everything that can be told without decoding it all; duration 0 if unknown."""
    try:
        check_bytes(path.stat().st_size, settings.max_video_mb, "video")
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise NotFound("The video is no longer on the server. Add it again.") from None
    if not _is_container(head):
        raise UnsupportedMedia(f"This is not a video that can be read here. Use {CONTAINERS_TEXT}.")
    with _capture(path) as capture:
        width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        check_size(width, height, settings, "video")
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if math.isfinite(fps) and fps > 0 else ASSUMED_FPS
        count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # far below 0 where unknown
        if not capture.grab():
            raise BadRequest(_BROKEN)
    if count / fps > settings.max_video_seconds:
        raise TooLarge(_too_long(settings.max_video_seconds))
    return Clip(path, count / fps, width, height, fps, count)


def _is_container(head: bytes) -> bool:
    """Whether a file begins like a clip.

    FFmpeg also opens playlists, which name other files and addresses for it to read: a text file
    called clip.mp4 must never get that far.
    """
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # MP4, MOV
        or head.startswith(b"\x1aE\xdf\xa3")  # Matroska and WebM
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
    )


def _to_image(picture: np.ndarray, max_side_px: int) -> Image.Image:
    return Image.fromarray(cv2.cvtColor(_shrink(picture, max_side_px), cv2.COLOR_BGR2RGB))


def _to_hsv(picture: np.ndarray) -> np.ndarray:
    # Skipping rows and columns first is several times cheaper than averaging all of them.
    skip = max(1, max(picture.shape[:2]) // (2 * ANALYSIS_SIDE_PX))
    return cv2.cvtColor(_shrink(picture[::skip, ::skip], ANALYSIS_SIDE_PX), cv2.COLOR_BGR2HSV)


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
