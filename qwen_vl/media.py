"""Untrusted picture in, safe RGB picture out.

Knows bytes, `data:` URIs and Pillow. Does not know where a picture came from, the model, HTTP or
Gradio, and never opens an address or a path that a user wrote: a `Path` given here was made by the
server itself. What comes out is 8-bit RGB, upright, without alpha and without metadata, and no
larger than the settings allow.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, NotFound, TooLarge, UnsupportedMedia, UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # the plugins that may parse input
FORMATS_TEXT = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
BYTES_PER_MB = 1024 * 1024  # as the page's upload limit counts
MAX_KEPT_PIXELS = 16_777_216  # what Qwen-VL processors scale down to by default: more is never seen
MAX_ASPECT_RATIO = 200  # the Qwen-VL image processors refuse anything longer

# What Pillow's parsers raise on damaged files, by experiment and by its documentation. A
# MemoryError or a bug of ours is not in the list and keeps its traceback.
_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(ZeroDivisionError, RuntimeError, struct.error, zlib.error),
)

# The number of pixels is checked here, against the settings, before anything is decoded; Pillow's
# own warning about it would only repeat that on the server's console.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")  # how readable pictures begin

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DATA_URI = re.compile(r"data:(?P<kind>\w+)/[\w.+-]+(?:;[\w-]+=[^;,]*)*;base64,", re.IGNORECASE)


def load_image(source: bytes | Path, settings: Settings) -> Image.Image:
    """Decodes one picture; of an animation, its first frame.

    Returns an RGB picture of at most MAX_KEPT_PIXELS, with EXIF rotation applied and alpha
    flattened on white. Raises TooLarge
    (bytes or pixels, both before decoding), UnsupportedMedia (not a picture, judged by content and
    never by name), BadRequest (empty, damaged, or longer than 200:1) and NotFound (the file is
    gone).
    """
    data = _read(source, settings)
    try:
        picture = Image.open(BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise _unknown_format(data) from None
    except Image.DecompressionBombError:
        raise TooLarge(_too_many_pixels("picture", settings)) from None
    except _DECODE_ERRORS as error:
        raise BadRequest(_damaged(error)) from error
    with picture:
        check_size(*picture.size, settings)
        try:
            picture.load()  # raises on truncated data: LOAD_TRUNCATED_IMAGES stays off
            rgb = _to_rgb(picture)
        except Image.DecompressionBombError:
            raise TooLarge(_too_many_pixels("picture", settings)) from None
        except _DECODE_ERRORS as error:
            raise BadRequest(_damaged(error)) from error
        return _bounded(_upright(picture, rgb))


def load_data_uri(uri: str, settings: Settings) -> Image.Image:
    """Decodes `data:image/...;base64,...`; every other address is a BadRequest.

    Raises what `load_image` raises, too. The size is checked before the base64 is decoded.
    """
    return load_image(data_uri_bytes(uri, "image", settings.max_image_mb), settings)


class _Opened:
    """Stands in until pictures are decoded in workers."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.size, self.key = image.size, content_hash(image)

    def decode(self) -> Image.Image:
        return self._image

    def abandon(self) -> None:
        pass


def open_image(source: bytes | Path, settings: Settings) -> _Opened:
    return _Opened(load_image(source, settings))


def open_data_uri(uri: str, settings: Settings) -> _Opened:
    return _Opened(load_data_uri(uri, settings))


def data_uri_bytes(uri: str, kind: str, limit_mb: float) -> bytes:
    """What a base64 data: URI of a media type `kind`/... holds. Raises BadRequest and TooLarge."""
    what = {"image": "picture", "video": "clip"}[kind]
    head = _DATA_URI.match(uri)
    if head is None or head["kind"].lower() != kind:
        example = {"image": "data:image/png", "video": "data:video/mp4"}[kind]
        raise BadRequest(
            f"Only data: URIs are accepted here. Send the {what} as {example};base64,..."
        )
    if (len(uri) - head.end()) * 3 // 4 - 2 > limit_mb * BYTES_PER_MB:
        raise TooLarge(_too_many_bytes(what, limit_mb))
    try:
        return base64.b64decode(uri[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(
            "The base64 of the data: URI is not valid. Use the standard alphabet with its padding "
            "and no spaces or line breaks."
        ) from None


def as_data_uri(data: bytes) -> str:
    """A picture's bytes as `load_data_uri` takes them; the format is found out there."""
    return f"data:image/unknown;base64,{base64.b64encode(data).decode()}"


def content_hash(image: Image.Image) -> str:
    """The same text (32 hex digits) for the same mode, size and pixels; for caches."""
    digest = hashlib.blake2b(f"{image.mode} {image.width}x{image.height} ".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def check_size(width: int, height: int, settings: Settings, what: str = "picture") -> None:
    """Refuses more pixels than the settings allow, and shapes that no Qwen-VL processor takes."""
    if width < 1 or height < 1:
        raise BadRequest(f"The {what} has no pixels. Try another file.")
    if width * height > settings.max_image_megapixels * 1_000_000:
        raise TooLarge(_too_many_pixels(what, settings))
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
        raise TooLarge(_too_many_bytes(what, limit_mb))


def _read(source: bytes | Path, settings: Settings) -> bytes:
    if isinstance(source, bytes):
        check_bytes(len(source), settings.max_image_mb, "picture")
        return source
    try:
        check_bytes(source.stat().st_size, settings.max_image_mb, "picture")
        return source.read_bytes()
    except FileNotFoundError:
        raise NotFound("The picture is no longer on the server. Add it again.") from None


def _upright(picture: Image.Image, rgb: Image.Image) -> Image.Image:
    """Applies the EXIF orientation; EXIF that cannot be read does not cost the picture."""
    try:
        orientation = picture.getexif().get(_EXIF_ORIENTATION)
    except _DECODE_ERRORS:
        orientation = None
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.info.clear()  # no EXIF, GPS position or colour profile goes any further
    return upright


def _bounded(image: Image.Image) -> Image.Image:
    """Scales down what no model would see, so that many large pictures do not fill the memory."""
    shrink = (MAX_KEPT_PIXELS / (image.width * image.height)) ** 0.5
    if shrink >= 1:
        return image
    size = (max(1, int(image.width * shrink)), max(1, int(image.height * shrink)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns a 16-bit scan white.
        return _from_grey(np.asarray(picture).astype(np.float64), 0.0, 65535.0)
    if picture.mode in ("I", "F"):
        # 32-bit data (depth maps, science) has no agreed range: stretch what is there.
        values = np.asarray(picture).astype(np.float64)
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
        return _from_grey(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")  # a copy, free of the file, also where the mode is RGB already


def _from_grey(values: np.ndarray, black: float, white: float) -> Image.Image:
    scaled = (values - black) * (255.0 / (white - black)) if white > black else values * 0.0
    return Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8)).convert("RGB")


def _unknown_format(data: bytes) -> UserError:
    """No Pillow plugin wants the data. Says what it is instead, where its first bytes tell."""
    head = data[:1024].lstrip()
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if data.startswith(_MAGIC) or head[8:12] == b"WEBP" or brand == b"avif":
        return BadRequest(_damaged(None))
    if b"<svg" in head:
        return UnsupportedMedia("This is an SVG drawing. Export it as PNG and send that.")
    if brand in (b"heic", b"heix", b"mif1", b"msf1"):
        return UnsupportedMedia("This is a HEIC photo. Save it as JPEG and send that.")
    if brand or head.startswith(b"\x1aE\xdf\xa3") or head[8:12] == b"AVI ":
        return UnsupportedMedia(
            "This is a video, not a picture, whatever its name says. Add it as a video."
        )
    return UnsupportedMedia(f"This is not a picture that can be read here. Send {FORMATS_TEXT}.")


def _too_many_bytes(what: str, limit_mb: float) -> str:
    return f"The {what} file is larger than {limit_mb:g} MB. Send a smaller or shorter one."


def _too_many_pixels(what: str, settings: Settings) -> str:
    limit = settings.max_image_megapixels
    return f"The {what} has more than {limit:g} million pixels. Scale it down and send it again."


def _damaged(error: Exception | None) -> str:
    cut = "truncated" in str(error) or "EOF" in str(error)
    state = "incomplete: its end is missing" if cut else "damaged and cannot be decoded"
    return f"The picture is {state}. Save or download it again, then send the new file."
