"""How large a picture or clip may be, by numbers alone: bytes, pixels and shape.

Knows the settings and the words of a refusal. Does not open anything.
"""

from __future__ import annotations

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge

BYTES_PER_MB = 1024 * 1024  # as the page's upload limit counts
MAX_KEPT_PIXELS = 16_777_216  # what Qwen-VL processors scale down to by default: more is never seen
MAX_ASPECT_RATIO = 200  # the Qwen-VL image processors refuse anything longer

MAX_FPS = 240  # a clip may hold this many frames for every second of the longest clip allowed


def check_size(width: int, height: int, settings: Settings, what: str = "picture") -> None:
    """Refuses more pixels than the settings allow, and shapes that no Qwen-VL processor takes."""
    if width < 1 or height < 1:
        raise BadRequest(f"The {what} has no pixels. Try another file.")
    if width * height > settings.max_image_megapixels * 1_000_000:
        raise TooLarge(
            f"The {what} has more than {settings.max_image_megapixels:g} million pixels. "
            "Scale it down and send it again."
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise BadRequest(
            f"The {what} is {width}x{height} pixels; the model takes at most {MAX_ASPECT_RATIO} "
            "times as long as wide. Crop it or cut it into parts."
        )


def check_bytes(size_bytes: int, limit_mb: float, what: str) -> None:
    """Refuses empty and too large files by their size alone."""
    if size_bytes == 0:
        raise BadRequest(f"The {what} file is empty. Choose the file again.")
    if size_bytes > limit_mb * BYTES_PER_MB:
        raise TooLarge(too_many_bytes(what, limit_mb))


def too_many_bytes(what: str, limit_mb: float) -> str:
    """The refusal of a file over the limit."""
    return f"The {what} file is larger than {limit_mb:g} MB. Send a smaller or shorter one."


def kept_size(width: int, height: int) -> tuple[int, int]:
    """What a picture of this size (in px) is scaled down to: at most MAX_KEPT_PIXELS."""
    shrink = (MAX_KEPT_PIXELS / (width * height)) ** 0.5
    if shrink >= 1:
        return width, height
    return max(1, int(width * shrink)), max(1, int(height * shrink))
