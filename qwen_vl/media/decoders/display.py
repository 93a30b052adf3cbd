"""A decoded frame -> the picture that a player shows: RGB, upright, pixels square, for SDR.

Knows colour spaces, pixel shapes and display matrices. Does not know files or times.

Sources: ITU-R BT.601, BT.709, BT.2020 and BT.2100 (matrices and transfer functions), ITU-T H.273
(their numbers), BT.2408 (reference white at 203 cd/m2), ISO 14496-12 (the display matrix).
"""

from __future__ import annotations

import errno
import struct
from fractions import Fraction
from functools import cache
from typing import Any

import av
import av.video.reformatter
import cv2
import numpy as np

from qwen_vl.errors import UnsupportedMedia

_UNKNOWN, _BT709, _BT601, _YCGCO, _BT2020 = 2, 1, 5, 8, 9  # colour spaces, and primaries
_NOT_CONVERTED = {10: "BT.2020 with constant luminance", 14: "ICtCp"}
_FULL_RANGE = 2
_PQ, _HLG = 16, 18  # transfer characteristics
_HD_PX = 720  # from this height on, BT.709 where nothing is said
_WHITE_NITS, _PEAK_NITS = 203.0, 1000.0
_KNEE = 0.8  # of SDR's white: darker colours stay as they are
_TO_BT709 = np.array(  # from BT.2020's primaries, in linear light (BT.2087)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
MOST_STRETCH = 20  # pixels that are longer than this are a mistake


class Display:
    """Makes pictures of frames; keeps what converting them needs."""

    def __init__(self) -> None:
        self._reformatter = av.video.reformatter.VideoReformatter()

    def picture(self, frame: Any, pixel_shape: Fraction | None, max_side_px: int) -> np.ndarray:
        """uint8 [height, width, 3], RGB, no side longer than `max_side_px`.

        `pixel_shape` is the width of a pixel by its height. Raises UnsupportedMedia for colours
        that are not converted here, and MemoryError.
        """
        is_hdr = int(frame.color_trc) in (_PQ, _HLG)
        pixels = self._rgb(frame, "rgb48le" if is_hdr else "rgb24")
        width, height = stretched(frame.width, frame.height, pixel_shape)
        scale = min(1.0, max_side_px / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if size != (pixels.shape[1], pixels.shape[0]):
            smaller = size[0] * size[1] <= pixels.shape[0] * pixels.shape[1]
            how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            pixels = cv2.resize(pixels, size, interpolation=how)
        if is_hdr:
            is_wide = int(frame.color_primaries) in (_UNKNOWN, _BT2020)
            pixels = _to_sdr(pixels, int(frame.color_trc), is_wide)
        return turned(pixels, frame)

    def small(self, frame: Any, side_px: int) -> np.ndarray:
        """The same, small, as it lies in the file and in whatever colours: to compare frames."""
        scale = min(1.0, side_px / max(frame.width, frame.height))
        size = [max(1, round(length * scale)) for length in (frame.width, frame.height)]
        if int(frame.colorspace) not in (*_NOT_CONVERTED, _YCGCO):
            how = av.video.reformatter.Interpolation.AREA
            width, height = size
            small = self._reformatter.reformat(
                frame, width, height, format="rgb24", interpolation=how, threads=1
            )
            return small.to_ndarray()
        return cv2.resize(self._rgb(frame, "rgb24"), size, interpolation=cv2.INTER_AREA)

    def _rgb(self, frame: Any, pixel_format: str) -> np.ndarray:
        space = int(frame.colorspace)
        try:
            if space in _NOT_CONVERTED:
                raise ValueError(_NOT_CONVERTED[space])
            if space == _YCGCO:
                return self._from_ycgco(frame)
            told = {}
            if space == _UNKNOWN:
                told["src_colorspace"] = _BT709 if frame.height >= _HD_PX else _BT601
            converted = self._reformatter.reformat(frame, format=pixel_format, threads=1, **told)
            return converted.to_ndarray()
        except (av.error.FFmpegError, ValueError) as error:
            if getattr(error, "errno", 0) == errno.ENOMEM:
                raise MemoryError from None
            colours = _NOT_CONVERTED.get(space, f"colour space {space}")
            raise UnsupportedMedia(
                f"The colours of this video ({frame.format.name}, {colours}) are not read here. "
                "Save it as MP4 with H.264 and send that."
            ) from None

    def _from_ycgco(self, frame: Any) -> np.ndarray:
        is_full = int(frame.color_range) == _FULL_RANGE or "yuvj" in frame.format.name
        frame.colorspace = _BT601  # one that swscale knows: samples are only brought to one size
        whole = "yuvj444p" if is_full else "yuv444p"
        planes = self._reformatter.reformat(frame, format=whole, threads=1)
        frame.colorspace = _YCGCO
        luma, green, orange = planes.to_ndarray().astype(np.float32)
        if is_full:
            luma, green, orange = luma, green - 128, orange - 128
        else:
            luma = (luma - 16) * (255 / 219)
            green, orange = (green - 128) * (255 / 224), (orange - 128) * (255 / 224)
        base = luma - green
        pixels = np.stack([base + orange, luma + green, base - orange], axis=-1)
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def stretched(width: int, height: int, pixel_shape: Fraction | None) -> tuple[int, int]:
    """(width, height) in square pixels. As players do, the side that is too short grows."""
    shape = pixel_shape or Fraction(1)
    if not Fraction(1, MOST_STRETCH) <= shape <= MOST_STRETCH:
        return width, height
    return (round(width * shape), height) if shape > 1 else (width, round(height / shape))


def turned(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """The pixels as the frame's display matrix shows them, in quarter turns and mirrored."""
    a, b, c, d = _matrix_of(frame)
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    if d < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def swaps_sides(frame: Any) -> bool:
    """Whether width and height change places when it is shown."""
    a, b, c, d = _matrix_of(frame)
    return abs(b) + abs(c) > abs(a) + abs(d)


def _matrix_of(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d): a pixel at (x, y), y downwards, is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
    return a, b, c, d


def _to_sdr(pixels: np.ndarray, transfer: int, is_wide: bool) -> np.ndarray:
    """uint16 RGB in PQ or HLG -> uint8 sRGB: darker colours as they are, lights eased.

    `is_wide`: the primaries are BT.2020's, else BT.709's. Brightness is eased along the largest of
    red, green and blue, so that hues stay.
    """
    light = _linear(transfer)[pixels]  # 1.0 is SDR's white
    if transfer == _HLG:  # the display's part: gamma 1.2 of the luminance
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light = light * np.power(np.maximum(luminance, 1e-6), 0.2)[..., None]
        light *= _PEAK_NITS / _WHITE_NITS
    if is_wide:
        light = np.maximum(light @ _TO_BT709.T, 0)
    top = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    light *= _eased(top) / top
    low, high = light * 12.92, 1.055 * np.power(np.maximum(light, 1e-6), 1 / 2.4) - 0.055
    return np.clip(np.rint(np.where(light <= 0.0031308, low, high) * 255), 0, 255).astype(np.uint8)


def _eased(top: np.ndarray) -> np.ndarray:
    """Up to the knee unchanged, from there to the peak bent down to 1, always rising."""
    over, most = (top - _KNEE) / (1 - _KNEE), (_PEAK_NITS / _WHITE_NITS - _KNEE) / (1 - _KNEE)
    bent = over * (1 + over / most**2) / (1 + over)  # Reinhard's extended curve: `most` becomes 1
    return np.where(top <= _KNEE, top, np.minimum(_KNEE + (1 - _KNEE) * bent, 1))


@cache
def _linear(transfer: int) -> np.ndarray:
    """float32 [65536]: the light of each code, in units of SDR's white (of HLG: 0..1)."""
    code = np.arange(65536, dtype=np.float64) / 65535
    if transfer == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    else:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        power = code ** (1 / m2)
        light = (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
        light *= 10_000 / _WHITE_NITS
    return light.astype(np.float32)
