"""Messages over a pipe: a small JSON header, then bytes. Both ends of `decoders` speak it.

JSON and not pickle: a worker that read a hostile file is not trusted. Unbuffered, so that a forked
worker finds in the pipe everything that its parent has not read.
"""

from __future__ import annotations

import json
import struct
from typing import IO, Any

_LENGTHS = struct.Struct(">II")  # bytes of the header, bytes that follow
MAX_HEADER_BYTES = 1 << 16
MAX_PAYLOAD_BYTES = 1 << 28  # more than the largest frame or band of a picture

Message = tuple[dict[str, Any], int]  # header, bytes that follow


def send(pipe: IO[bytes], header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """Raises OSError where the other end is gone."""
    text = json.dumps(header).encode()
    _write(pipe, memoryview(_LENGTHS.pack(len(text), len(payload)) + text))
    _write(pipe, memoryview(payload))


def receive(pipe: IO[bytes]) -> Message:
    """The next header; then `read` takes the bytes. Raises EOFError, and ValueError on nonsense."""
    size, payload = _LENGTHS.unpack(read(pipe, _LENGTHS.size))
    if size > MAX_HEADER_BYTES or payload > MAX_PAYLOAD_BYTES:
        raise ValueError("a message is longer than any may be")
    header = json.loads(read(pipe, size))
    if not isinstance(header, dict):
        raise ValueError("a message is no object")
    return header, payload


def read(pipe: IO[bytes], size: int) -> bytearray:
    """Exactly `size` bytes. Raises EOFError where the other end is gone."""
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = pipe.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return data


def _write(pipe: IO[bytes], view: memoryview) -> None:
    while view:
        view = view[pipe.write(view) :]
