"""One untrusted picture -> its pixels: RGB, upright, bounded. Runs in a worker.

Only pixels count: metadata that is large, broken or has a wrong checksum is cut off before a parser
sees it. Works through a picture in bands, so that it never needs a second copy of all pixels. Knows
Pillow and the structure of the files.
"""

from __future__ import annotations

import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge, UnsupportedMedia
from qwen_vl.media.headers import damaged, jpeg_segments, not_read, png_chunks
from qwen_vl.media.limits import check_size, kept_size

MAX_JPEG_SCANS = 500  # libjpeg's own advice; progressive files have about ten
_BAND_PX = 1 << 18
_SAMPLE_PX = 1 << 20
_LIGHT = 170  # grey levels from here on are hard to tell from white
_OPENERS = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
# What Pillow's parsers raise on damaged files, by experiment and by its documentation. A
# MemoryError or a bug of ours is not in the list and keeps its traceback.
_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(ZeroDivisionError, RuntimeError, struct.error, zlib.error),
)
_NOT_SUPPORTED = ("unknown pixel mode", "nsupported", "not supported", "cannot handle", "unknown")
# The number of pixels is checked here, against the settings, before anything is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
Image.MAX_IMAGE_PIXELS = None

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Message = tuple[dict[str, Any], bytes]


def read(data: bytes, request: dict[str, Any], settings: Settings) -> Iterator[Message]:
    """`request` has the `format` and `orientation` of the header. "do": "measure" says the size.

    Yields {"size": [width, height]} in px, then bands of rows from the top, RGB.
    """
    form, orientation = request["format"], request["orientation"]
    if request["do"] == "measure":  # AVIF, whose size only its decoder knows
        picture = _open(data, form)
        check_size(*picture.size, settings)
        yield {"size": picture.size, "orientation": picture.getexif().get(0x0112, 1)}, b""
        return
    rgb = _load(data, form, settings)
    turn = None if form == "TIFF" else _UPRIGHT.get(orientation)  # Pillow turns those itself
    rgb = rgb if turn is None else rgb.transpose(turn)
    yield {"size": rgb.size}, b""
    for top, bottom in _bands(*rgb.size):
        yield {"rows": [top, bottom]}, rgb.crop((0, top, rgb.width, bottom)).tobytes()


def _load(data: bytes, form: str, settings: Settings) -> Image.Image:
    picture = _open(data, form)
    check_size(*picture.size, settings)
    try:
        picture.load()  # raises on truncated data: LOAD_TRUNCATED_IMAGES stays off
    except _DECODE_ERRORS as error:
        if form == "JPEG" and "truncated" in str(error):
            return _jpeg_without_end(data, settings)
        raise _refusal(error, form) from error
    return _to_rgb(picture)


def _open(data: bytes, form: str) -> Image.Image:
    bare = {"PNG": _bare_png, "JPEG": _bare_jpeg, "AVIF": _bare_avif}.get(form, bytes)
    try:
        return _OPENERS[form](BytesIO(bare(data)))
    except _DECODE_ERRORS as error:
        raise _refusal(error, form) from error


def _refusal(error: Exception, form: str) -> Exception:
    if any(words in str(error) for words in _NOT_SUPPORTED):
        return UnsupportedMedia(not_read(f"This kind of {form}"))
    return BadRequest(damaged(str(error)))


def _bare_png(data: bytes) -> bytes:
    """Only what pixels are made of, so that text, profiles and their checksums do not count.

    What is missing after the last pixel is put back: the end of its chunk, and the end of the file.
    """
    kept = [data[:8]]
    for kind, start, end in png_chunks(data):
        if kind == b"IEND":
            break
        if kind == b"tRNS" or (kind == b"IDAT" and end > len(data)):
            kept.append(_chunk(kind, data[start + 8 : end - 4]))
        elif kind in (b"PLTE", b"IDAT") or (kind == b"IHDR" and len(kept) == 1):
            kept.append(data[start:end])
    return b"".join((*kept, _chunk(b"IEND", b"")))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _bare_jpeg(data: bytes) -> bytes:
    """Without metadata, without what stands between segments, and without what follows the end."""
    kept = [data[:2]]
    for marker, start, end in jpeg_segments(data):
        if marker == 0xDA:
            stop = data.find(b"\xff\xd9", start) + 2
            if data.count(b"\xff\xda", start, stop if stop > 1 else end) > MAX_JPEG_SCANS:
                raise TooLarge(
                    f"The JPEG is stored in more than {MAX_JPEG_SCANS} passes. Save it again."
                )
            kept.append(data[start:stop] if stop > 1 else data[start:])
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE) or _tells_colours(data[start:end]):
            kept.append(data[start:end])
    return b"".join(kept)


def _bare_avif(data: bytes) -> bytes:
    """Hides the EXIF, which does not count here: an AVIF says elsewhere how it is turned."""
    return re.sub(rb"(infe.{8})Exif", rb"\1none", data, flags=re.DOTALL)


def _tells_colours(segment: bytes) -> bool:
    """JFIF and Adobe's segment say whether the colours are RGB, YCbCr or CMYK."""
    jfif = segment[1] == 0xE0 and segment[4:9] == b"JFIF\0" and len(segment) >= 18
    return jfif or (segment[1] == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16)


def _jpeg_without_end(data: bytes, settings: Settings) -> Image.Image:
    """A JPEG whose end marker is missing, if all of its pixels are there.

    Decoders silently fill missing pixels from the bits that follow. So a second reading puts other
    bits there: where they change a pixel, pixels were missing.
    """
    data = data.rstrip(b"\xff")
    last = data.rfind(b"\xff\xda")
    scan = data[last + 4 : last + 2 + int.from_bytes(data[last + 2 : last + 4], "big")]
    other = bytes((i * 151 + i // 7) % 255 for i in range(4096))  # any bits, without a marker
    first = _load(data + b"\xff\xd9", "JPEG", settings)
    second = _load(data + other + b"\xff\xd9", "JPEG", settings)
    # A progressive file may break off between two passes: the last one brings the last bits.
    whole = bool(scan) and scan[-1] & 15 == 0
    if not whole or any(
        first.crop(band).tobytes() != second.crop(band).tobytes()
        for band in ((0, top, first.width, bottom) for top, bottom in _bands(*first.size))
    ):
        raise BadRequest(damaged("truncated"))
    return first


def _bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """(first row, row after the last) of pieces of about _BAND_PX."""
    rows = max(1, _BAND_PX // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _to_rgb(picture: Image.Image) -> Image.Image:
    """RGB of at most MAX_KEPT_PIXELS, without the metadata, made band by band."""
    size = kept_size(*picture.size)
    if picture.mode == "RGB" and size == picture.size and not picture.has_transparency_data:
        return picture
    convert = _conversion(picture)
    out = Image.new("RGB", size)
    scale = picture.height / size[1]
    for top, bottom in _bands(*size):
        if size == picture.size:
            rgb = convert(picture.crop((0, top, size[0], bottom)))
        else:  # with the rows around, which the filter looks at too
            above = max(0, math.floor((top - 3) * scale))
            below = min(picture.height, math.ceil((bottom + 3) * scale))
            rows = convert(picture.crop((0, above, picture.width, below)))
            box = (0, top * scale - above, picture.width, bottom * scale - above)
            rgb = rows.resize((size[0], bottom - top), Image.Resampling.BICUBIC, box)
        out.paste(rgb, (0, top))
    return out


def _conversion(picture: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """How a band of this picture becomes RGB."""
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns a 16-bit scan white.
        return lambda band: _from_grey(np.asarray(band).astype(np.float64), 0.0, 65535.0)
    if picture.mode in ("I", "F"):
        # 32-bit data (depth maps, science) has no agreed range: stretch what is there.
        low, high = _range(picture)

        def stretch(band: Image.Image) -> Image.Image:
            values = np.asarray(band).astype(np.float64)
            values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
            return _from_grey(values, low, high)

        return stretch
    if picture.has_transparency_data:
        background = _background(picture)

        def flatten(band: Image.Image) -> Image.Image:
            layer = band.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, background), layer).convert(
                "RGB"
            )

        return flatten
    return lambda band: band.convert("RGB")


def _range(picture: Image.Image) -> tuple[float, float]:
    low, high = math.inf, -math.inf
    for top, bottom in _bands(*picture.size):
        values = np.asarray(picture.crop((0, top, picture.width, bottom))).astype(np.float64)
        known = values[np.isfinite(values)]
        if known.size:
            low, high = min(low, float(np.min(known))), max(high, float(np.max(known)))
    return (low, high) if low <= high else (0.0, 0.0)


def _from_grey(values: np.ndarray, black: float, white: float) -> Image.Image:
    scaled = (values - black) * (255.0 / (white - black)) if white > black else values * 0.0
    return Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8)).convert("RGB")


def _background(picture: Image.Image) -> str:
    """White, as most viewers show it; black where that would hide a mostly light drawing."""
    width, height = picture.size
    step = math.ceil((width * height / _SAMPLE_PX) ** 0.5)  # some pixels tell enough
    sample = picture.resize((-(-width // step), -(-height // step)), Image.Resampling.NEAREST)
    layer = sample.convert("RGBA")
    alpha = layer.getchannel("A")
    bright = layer.convert("L").point([0] * _LIGHT + [255] * (256 - _LIGHT))
    weight = sum(level * count for level, count in enumerate(alpha.histogram()))
    light = sum(level * count for level, count in enumerate(alpha.histogram(mask=bright)))
    return "black" if light * 2 > weight else "white"
