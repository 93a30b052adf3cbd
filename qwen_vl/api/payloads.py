"""The bytes of a request -> JSON or a form, refused by cheap counts before anything is parsed.

Knows HTTP bodies. Knows nothing of what is asked.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from qwen_vl.api.places import Places
from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge, UnsupportedMedia
from qwen_vl.gate.bodies import BODY, Body, body_limit
from qwen_vl.media.pictures import BYTES_PER_MB

LARGE_BYTES = BYTES_PER_MB  # bodies from here on are parsed one at a time, beside all others
MARKS = b"{[,:"  # what JSON is built with; base64 has none of them
MAX_MARKS = 100_000  # besides one for each character of text
UNPACK_BYTES = 2**18  # of a packed body, in one step
_ANY_HEADER = zlib.MAX_WBITS | 32  # gzip or zlib
ESCAPE_EVERY = 32  # bytes; more backslashes are slow to read, and no picture has them


class Payloads:
    """Reads bodies within the limits of `settings`."""

    def __init__(self, settings: Settings) -> None:
        self._limit = body_limit(settings)
        self._most_marks = MAX_MARKS + settings.max_prompt_chars
        self._small, self._large = Places(4, waiting=1000), Places(1, waiting=16)

    async def json(self, request: Request) -> dict[str, Any]:
        """A JSON object. Raises BadRequest, TooLarge, UnsupportedMedia and Busy."""
        if media_type(request) not in ("application/json", "", "text/plain"):
            raise UnsupportedMedia(
                "Send JSON (application/json); only chat completions and jobs take forms."
            )
        body = await self._read(request)
        places = self._large if len(body) > LARGE_BYTES else self._small
        try:
            raw = await places.run(lambda: _parsed(body))
        except (ValueError, RecursionError):
            raise BadRequest("The request body is not valid JSON.") from None
        if not isinstance(raw, dict):
            raise BadRequest("The request body must be a JSON object.")
        return raw

    async def form(self, request: Request) -> tuple[bytes, dict[str, Any]]:
        """The file in the field `image`, and all fields of text."""
        self._check_announced(request)
        if _is_packed(request):
            raise UnsupportedMedia(
                "A form with a Content-Encoding is not read here: send it plain."
            )
        bounded = Request(request.scope, self._bounded(request))
        try:
            form = await bounded.form(max_files=1, max_fields=50, max_part_size=2**20)
        except (MultiPartException, HTTPException, ValueError) as error:
            detail = getattr(error, "detail", error)
            raise BadRequest(f"The form cannot be read: {detail}") from None
        try:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise BadRequest("The form needs a file in its field 'image'.")
            if not isinstance(form.get("prompt"), str | None):
                raise BadRequest("'prompt' must be text.")
            fields = {key: value for key, value in form.items() if isinstance(value, str)}
            return await image.read(), {key: _typed(value) for key, value in fields.items()}
        finally:
            await form.close()  # the upload's temporary file

    async def _read(self, request: Request) -> bytearray:
        self._check_announced(request)
        body, marks, escapes = bytearray(), 0, 0
        async for piece in _unpacked(request):
            body += piece
            if len(body) > self._limit:
                raise self._too_large()
            marks += sum(piece.count(mark) for mark in MARKS)
            escapes += piece.count(b"\\")
            if marks > self._most_marks or escapes > self._limit // ESCAPE_EVERY:
                raise TooLarge(
                    f"The request has more than {self._most_marks:,} braces, brackets, commas and "
                    "colons, or far too many backslashes: send fewer parts and less text."
                )
        return body

    def _bounded(self, request: Request) -> Any:
        """The request's `receive` that refuses to go on after too many bytes."""
        seen = 0

        async def receive() -> Any:
            nonlocal seen
            message = await request.receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise self._too_large()
            return message

        return receive

    def _check_announced(self, request: Request) -> None:
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The request is larger than {self._limit / BYTES_PER_MB:.0f} MB: send fewer or "
            "smaller pictures."
        )


def _is_packed(request: Request) -> bool:
    return request.headers.get("content-encoding", "").strip().lower() not in ("", "identity")


async def _unpacked(request: Request) -> AsyncIterator[bytes]:
    """The body's pieces, out of gzip or deflate where it is packed. Raises BadRequest and Busy.

    In small steps, and what it grows by counts as held: a small body may become a large one.
    """
    if not _is_packed(request):
        async for piece in request.stream():
            yield piece
        return
    packed = zlib.decompressobj(_ANY_HEADER)
    try:
        async for piece in request.stream():
            while piece:
                plain = packed.decompress(piece, UNPACK_BYTES)
                hold(request, len(plain))
                yield plain
                piece = packed.unconsumed_tail
                await anyio.sleep(0)  # the others' turn
        rest = packed.flush()
    except zlib.error:
        raise BadRequest("The request body is not valid gzip or deflate.") from None
    if not packed.eof:
        raise BadRequest("The packed request body breaks off before its end.")
    yield rest


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def hold(request: Request, more_bytes: int) -> None:
    """Counts bytes that were fetched for this request. Raises Busy when too many are held."""
    body: Body | None = request.scope.get(BODY)
    if body is not None:
        body.hold(more_bytes)


def release(request: Request) -> None:
    """Tells the gate that the body and what was fetched are no longer held in memory."""
    body: Body | None = request.scope.get(BODY)
    if body is not None:
        body.release()


def _parsed(body: bytearray) -> Any:
    text = body.decode(json.detect_encoding(body), "surrogatepass")
    body.clear()  # or it would be in memory three times
    return json.loads(text)


def _typed(value: str) -> Any:
    """A form knows texts only: what looks like a number or a truth value becomes one."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed if isinstance(parsed, (int, float, bool)) else value


def flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name)
    if not isinstance(value, bool | None):
        raise BadRequest(f"'{name}' must be true or false.")
    return bool(value)
