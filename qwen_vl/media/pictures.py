"""Untrusted picture in, safe RGB picture out.

Knows bytes, `data:` URIs and what a picture's header says. Does not know where a picture came from,
the model, HTTP or Gradio, and never opens an address or a path that a user wrote: a `Path` given
here was made by the server itself. Opening a picture decodes nothing; decoding it happens in a
process of its own (`decoders`). What comes out is 8-bit RGB, upright, without alpha and without
metadata, and no larger than the settings allow.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, NotFound, TooLarge
from qwen_vl.media.decoders import LARGE_BYTES, POOL, OnMessage, out_of_memory
from qwen_vl.media.headers import Header, damaged, read_header
from qwen_vl.media.limits import (
    BYTES_PER_MB,
    check_bytes,
    check_size,
    kept_size,
    too_many_bytes,
)

KEPT_BYTES = 64 << 20  # of pixels that nobody uses just now, of all pictures together
_READING = b"1"  # changes whenever the same file gives other pixels than before
_MEASURE_S = 2.0
_HEAD_CHARS = 1024  # of a data: URI, in which its data must begin
_SPARE_BYTES = 24 << 20  # what decoding takes besides the pixels and the file
_BASE64 = re.compile(r"[;:]\s*base64\s*,", re.IGNORECASE)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_EXAMPLES = {"image": "image/png", "video": "video/mp4", "document": "application/pdf"}
_BLANKS = " \t\r\n\f\v"
_ESCAPES = (("%2B", "+"), ("%2F", "/"), ("%3D", "="), ("%0A", ""), ("%0D", ""), ("%20", ""))
_PIECE_CHARS = 1 << 20


class Lately:
    """Keeps the pictures that were decoded last alive, at most `limit_bytes` of them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._images: deque[Image.Image] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def keep(self, image: Image.Image) -> None:
        with self._lock:
            self._images.append(image)
            self._bytes += _pixel_bytes(image.size)
            while self._bytes > self._limit_bytes:
                self._bytes -= _pixel_bytes(self._images.popleft().size)


_LATELY = Lately(KEPT_BYTES)


def _pixel_bytes(size: tuple[int, int]) -> int:
    return size[0] * size[1] * 3


class Picture:
    """An opened file: a `schema.Undecoded`. May be shared by threads, copied and pickled.

    `size` is (width, height) in px of what `decode` gives; equal `key`s mean equal pixels. Its
    pixels go when nobody uses them and others were decoded since: many pictures may be open.
    """

    def __init__(self, source: bytes | Path, header: Header, key: str, settings: Settings) -> None:
        self.size = kept_size(*header.upright_size)
        self.key = key
        self._source, self._header, self._settings = source, header, settings
        self._image: Callable[[], Image.Image | None] = _no_image  # a weak reference
        self._lock = threading.Lock()
        self._abandoned = 0  # how often

    def decode(self) -> Image.Image:
        """The pixels, decoded once for all who ask at about the same time.

        Raises BadRequest (damaged), UnsupportedMedia (a kind of file that is not read), TooLarge
        (over its time or memory), Busy (too many wait), Abandoned, and NotFound (the file is gone).
        """
        before = self._abandoned
        with self._lock:
            image = self._image()
            if image is None:
                data = _read(self._source, self._settings)
                image = _decode(
                    data, self._header, self.size, self._settings, lambda: before != self._abandoned
                )
                self._image = weakref.ref(image)
                _LATELY.keep(image)
            return image

    @property
    def held_bytes(self) -> int:
        """Memory that it takes now: its file's bytes, and its pixels once they are decoded."""
        file_bytes = len(self._source) if isinstance(self._source, bytes) else 0
        return file_bytes + (0 if self._image() is None else _pixel_bytes(self.size))

    def abandon(self) -> None:
        """Ends what is being decoded now, from any thread. Decoding may be asked for again."""
        self._abandoned += 1

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_image": _no_image}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def _no_image() -> None:
    """The pixels of a picture that has none now."""


def open_image(source: bytes | Path, settings: Settings) -> Picture:
    """Checks one picture by its header; of an animation, its first frame counts.

    It will be RGB of at most MAX_KEPT_PIXELS, with EXIF rotation applied and alpha flattened on
    white (on black if it is mostly light). Raises TooLarge (bytes, pixels, or memory that decoding
    would take), UnsupportedMedia (not a picture that is read, judged by content and never by name),
    BadRequest (empty, damaged, or longer than 200:1) and NotFound (the file is gone).
    """
    data = _read(source, settings)
    header = read_header(data)
    if header.format == "AVIF":
        header = _measured(data, header, settings)
    check_size(header.width, header.height, settings)
    _memory_for(header, len(data), settings)
    key = hashlib.blake2b(data, digest_size=16, person=_READING).hexdigest()
    return Picture(source, header, key, settings)


def load_image(source: bytes | Path, settings: Settings) -> Image.Image:
    """Opens and decodes one picture. Raises what `open_image` and `Picture.decode` raise."""
    return open_image(source, settings).decode()


def open_data_uri(uri: str, settings: Settings) -> Picture:
    """Opens `data:...;base64,...`; every other address is a BadRequest.

    Raises what `open_image` raises, too. The size is checked before the base64 is decoded.
    """
    return open_image(data_uri_bytes(uri, "image", settings.max_image_mb), settings)


def load_data_uri(uri: str, settings: Settings) -> Image.Image:
    """Opens and decodes. Raises what `open_data_uri` and `Picture.decode` raise."""
    return open_data_uri(uri, settings).decode()


def data_uri_bytes(uri: str, kind: str, limit_mb: float) -> bytes:
    """What a base64 data: URI holds; its own label does not count.

    `kind` is "image", "video" or "document", for the words of a refusal. Takes what clients write:
    wrapped lines, blanks, the URL-safe alphabet, padding or none. Takes time in proportion to its
    length, and its length is checked first. Raises BadRequest, TooLarge.
    """
    what = {"image": "picture"}.get(kind, kind)
    head = _BASE64.search(uri, 0, _HEAD_CHARS)
    if head is None or not uri[: head.start() + 1].lstrip().lower().startswith("data:"):
        example = f"data:{_EXAMPLES[kind]}"
        raise BadRequest(
            f"Only data: URIs are accepted here. Send the {what} as {example};base64,..."
        )
    limit_bytes = int(limit_mb * BYTES_PER_MB)
    if (len(uri) - head.end()) * 5 // 8 > limit_bytes:  # 3/4, and a sixth of it may be line breaks
        raise TooLarge(too_many_bytes(what, limit_mb))
    try:
        data = _decode_base64(uri, head.end(), limit_bytes)
    except (binascii.Error, ValueError):
        raise BadRequest(
            f"The base64 of the data: URI is not valid or not complete. Encode the {what} again."
        ) from None
    if len(data) > limit_bytes:
        raise TooLarge(too_many_bytes(what, limit_mb))
    return data


def as_data_uri(data: bytes) -> str:
    """A picture's bytes as `load_data_uri` takes them; the format is found out there."""
    return f"data:image/unknown;base64,{base64.b64encode(data).decode()}"


def content_hash(image: Image.Image) -> str:
    """The same text (32 hex digits) for the same mode, size and pixels; for caches."""
    digest = hashlib.blake2b(f"{image.mode} {image.width}x{image.height} ".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def _decode_base64(uri: str, start: int, limit_bytes: int) -> bytes:
    """Piece by piece, so that no copies of it all lie in memory; stops a little over the limit."""
    if "%" in uri:
        for escape, char in _ESCAPES:
            uri = uri.replace(escape, char).replace(escape.lower(), char)
    end, data, rest = len(uri.rstrip(_BLANKS + "=")), bytearray(), b""
    for at in range(start, end, _PIECE_CHARS):
        piece = uri[at : min(end, at + _PIECE_CHARS)].encode("ascii")
        rest += piece.translate(_URL_SAFE, _BLANKS.encode())
        whole = len(rest) - len(rest) % 4
        if b"=" in rest:
            raise ValueError("padding before the end")
        data += base64.b64decode(rest[:whole], validate=True)
        rest = rest[whole:]
        if len(data) > limit_bytes:
            return bytes(data)
    return bytes(data + base64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True))


def _read(source: bytes | Path, settings: Settings) -> bytes:
    if isinstance(source, bytes):
        check_bytes(len(source), settings.max_image_mb, "picture")
        return source
    try:
        check_bytes(source.stat().st_size, settings.max_image_mb, "picture")
        return source.read_bytes()
    except FileNotFoundError:
        raise NotFound("The picture is no longer on the server. Add it again.") from None


def _memory_for(header: Header, size_bytes: int, settings: Settings) -> int:
    """Bytes that decoding may take. Raises TooLarge where they are known not to suffice."""
    kept_width, kept_height = kept_size(header.width, header.height)
    needed = int(header.width * header.height * header.bytes_per_px) + 2 * size_bytes + _SPARE_BYTES
    needed += kept_width * kept_height * (4 if header.orientation == 1 else 8)
    most = LARGE_BYTES + int(settings.max_image_megapixels * 4_000_000)
    if needed > most:
        raise TooLarge(out_of_memory("picture"))
    return LARGE_BYTES if needed <= LARGE_BYTES else most


def _measured(data: bytes, header: Header, settings: Settings) -> Header:
    """Asks a decoder for what the header does not tell."""
    found: dict[str, Any] = {}
    _ask("measure", data, header, settings, LARGE_BYTES, lambda told, _: found.update(told))
    (width, height), orientation = found["size"], found["orientation"]
    return replace(header, width=int(width), height=int(height), orientation=int(orientation))


def _decode(
    data: bytes,
    header: Header,
    size: tuple[int, int],
    settings: Settings,
    should_stop: Callable[[], bool],
) -> Image.Image:
    image = Image.new("RGB", size)

    def put(told: dict[str, Any], pixels: bytearray) -> None:
        if "size" in told:
            if tuple(told["size"]) != size:
                raise BadRequest(damaged("its header says another size"))
            return
        top, bottom = told["rows"]
        image.paste(Image.frombytes("RGB", (size[0], bottom - top), pixels), (0, top))

    memory = _memory_for(header, len(data), settings)
    _ask("decode", data, header, settings, memory, put, should_stop)
    return image


def _ask(
    do: str,
    data: bytes,
    header: Header,
    settings: Settings,
    memory_bytes: int,
    on_message: OnMessage,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    POOL.run(
        {"do": do, "format": header.format, "orientation": header.orientation}
        | {"settings": {"max_image_megapixels": settings.max_image_megapixels}},
        data,
        what="picture",
        limit_s=_MEASURE_S if do == "measure" else settings.max_decode_seconds,
        memory_bytes=memory_bytes,
        on_message=on_message,
        should_stop=should_stop,
    )
