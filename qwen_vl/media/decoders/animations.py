"""GIF, WebP and APNG that move, as clips: the same frames and times as of any other (`reader`).

Pillow decodes them. A frame that asks for no time, or for less than browsers give, is shown for
0.1 s, as they do. Knows animations and limits. There is nothing to seek to: reading is one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import (
    GifImagePlugin,  # noqa: F401 - these by name: later, no file can be opened
    Image,
    ImageSequence,
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge, UnsupportedMedia
from qwen_vl.media.decoders.containers import BROKEN
from qwen_vl.media.decoders.reader import TIME_SLACK_S
from qwen_vl.media.headers import ANIMATIONS, HEAD_BYTES, container_of
from qwen_vl.media.limits import MAX_FPS, check_size

USUAL_MS, LEAST_MS = 100, 20  # of browsers: less than LEAST_MS becomes USUAL_MS
Image.preinit()  # Pillow would import other formats late, when no file can be opened
_FORMATS = ("GIF", "WEBP", "PNG")
_ERRORS = (OSError, ValueError, SyntaxError, EOFError)  # what Pillow raises for a damaged file


def is_animation(file: BinaryIO) -> bool:
    file.seek(0)
    return container_of(file.read(HEAD_BYTES)) in ANIMATIONS


class Reader:
    """See `reader.Reader`."""

    def __init__(self, file: BinaryIO, settings: Settings) -> None:
        self._file, self._settings = file, settings
        self._shown: Any = None
        self.measured, self.start_s = False, 0.0
        self.time_s = self.length_s = 0.0
        with self._opened() as animation:
            if not getattr(animation, "is_animated", False):
                raise UnsupportedMedia(
                    "This is a picture that does not move, not a video. Add it as a picture."
                )
            self.size = animation.size
            self.frame_count = int(getattr(animation, "n_frames", 1))
            self._check_length(0.0, self.frame_count)

    @property
    def fps(self) -> float:
        return self.frame_count / self.length_s if self.length_s else 1000 / USUAL_MS

    def numbers(self) -> dict[str, Any]:
        width, height = self.size
        return {
            **{"duration_s": self.length_s, "start_s": 0.0, "fps": self.fps},
            **{"width": width, "height": height, "frame_count": self.frame_count},
            "damaged_s": [],
        }

    def is_worth_seeking(self, wanted: int) -> bool:
        return False

    def measure(self) -> None:
        """Nothing: only a pass tells how long an animation is."""

    def frames_at(self, wanted_s: Sequence[float], coarse: bool = False) -> Iterator[float]:
        left = list(wanted_s)
        for time_s in self.frames():
            if left and left[0] <= time_s + TIME_SLACK_S:
                yield time_s
                left = [one_s for one_s in left if one_s > time_s + TIME_SLACK_S]

    def frames(self, coarse: bool = False) -> Iterator[float]:
        """Yields the time of each frame; what cannot be decoded ends them."""
        end_s, count = 0.0, 0
        with self._opened() as animation:
            try:
                for frame in ImageSequence.Iterator(animation):
                    self._shown = frame
                    self.time_s, count = end_s, count + 1
                    frame.load()  # here, where an error means a damaged file
                    shown_ms = frame.info.get("duration", 0)
                    end_s += (shown_ms if shown_ms >= LEAST_MS else USUAL_MS) / 1000
                    self._check_length(end_s, count)
                    yield self.time_s
            except _ERRORS:
                if not count:
                    raise BadRequest(BROKEN) from None
        self.length_s, self.frame_count, self.measured = end_s, count, True

    def keyframes(self) -> Iterator[float]:
        return self.frames()  # each is whole

    def picture(self, max_side_px: int) -> np.ndarray:
        """The current frame on white: uint8 [height, width, 3], RGB."""
        shown = self._shown.convert("RGBA")
        shown.thumbnail((max_side_px, max_side_px), Image.Resampling.BOX)
        white = Image.new("RGBA", shown.size, "white")
        white.alpha_composite(shown)
        return np.asarray(white.convert("RGB"))

    def small(self, side_px: int) -> np.ndarray:
        pixels = self.picture(2 * side_px)
        scale = min(1.0, side_px / max(pixels.shape[:2]))
        size = [max(1, round(length * scale)) for length in pixels.shape[1::-1]]
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)

    def _opened(self) -> Image.Image:
        self._file.seek(0)
        try:
            animation = Image.open(self._file, formats=_FORMATS)
        except _ERRORS:
            raise BadRequest(BROKEN) from None
        check_size(*animation.size, self._settings, "video")
        return animation

    def _check_length(self, time_s: float, count: int) -> None:
        limit_s = self._settings.max_video_seconds
        if time_s > limit_s or count > limit_s * MAX_FPS:
            raise TooLarge(f"The video is longer than {limit_s} seconds. Cut it and send a part.")
