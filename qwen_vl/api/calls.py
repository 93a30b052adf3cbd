"""Requests, in every shape that clients send -> what the engine is asked.

Knows JSON, forms and the OpenAI chat format. Knows nothing of answers; of the engine, its model's
name.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.errors import BadRequest, TooLarge, Unsupported, UnsupportedMedia
from qwen_vl.fetch import fetch_image
from qwen_vl.media import BYTES_PER_MB, as_data_uri, data_uri_bytes, load_data_uri, load_image
from qwen_vl.messages import check_conversation, from_openai, params_from, parts_in
from qwen_vl.presets import sampling_preset
from qwen_vl.schema import ImagePart, Message, Part, SamplingParams, TextPart

BODY_IMAGES = 8  # pictures of the largest size that fit into one request; smaller ones, more
PARSERS = 2  # requests whose pictures are decoded at the same time; others wait
CLIP_PARSERS = 1  # the same for clips, which take longer: nobody else waits for them
CLIP_S = 60.0  # for reading one clip
DEFAULT_PROMPTS = {"en": "Describe this image.", "zh": "请描述这张图片"}
JSON_WANTED = "Answer with one JSON object and nothing else."
MAX_NAME_CHARS = 200  # of a session's id


@dataclass(frozen=True)
class Call:
    """One question to the engine, and how its answer is wanted."""

    messages: list[Message]
    params: SamplingParams
    stream: bool = False
    include_usage: bool = False
    session_id: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)  # as they came, where a session follows


class Reader:
    """Reads requests for one engine, within the limits of `settings`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        self.parsers = anyio.CapacityLimiter(PARSERS)
        self.clip_parsers = anyio.CapacityLimiter(CLIP_PARSERS)

    async def chat(self, request: Request) -> Call:
        """A chat completion: JSON in the OpenAI format, or a form with `image` and `prompt`."""
        if _media_type(request) == "multipart/form-data":
            return await self._form(request)
        return await self._chat(await self._json(request))

    async def simple(self, request: Request) -> Call:
        """`{"text", "image"?, "session_id"?}`, with sampling fields if wanted."""
        return await self._simple(await self._json(request))

    async def job(self, request: Request) -> Call:
        """A chat completion in any of its forms, or the simple form."""
        if _media_type(request) == "multipart/form-data":
            return await self._form(request)
        raw = await self._json(request)
        return await (self._chat(raw) if "messages" in raw else self._simple(raw))

    async def _chat(self, raw: dict[str, Any]) -> Call:
        await self._fetch_images(raw)
        limiter = self.clip_parsers if _parts(raw, "video_url") else self.parsers
        return await anyio.to_thread.run_sync(partial(self._parse_chat, raw), limiter=limiter)

    async def _simple(self, raw: dict[str, Any]) -> Call:
        image = raw.get("image")
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            raw["image"] = as_data_uri(await fetch_image(image, self.settings))
        return await self._in_thread(partial(self._parse_simple, raw))

    # --- bodies ---

    async def _json(self, request: Request) -> dict[str, Any]:
        if _media_type(request) not in ("application/json", "", "text/plain"):
            raise UnsupportedMedia("Send JSON (application/json), or a form (multipart/form-data).")
        body = await _read(request, body_limit(self.settings))
        try:
            raw = await self._in_thread(partial(json.loads, body))
        except (ValueError, RecursionError):
            raise BadRequest("The request body is not valid JSON.") from None
        if not isinstance(raw, dict):
            raise BadRequest("The request body must be a JSON object.")
        return raw

    async def _form(self, request: Request) -> Call:
        limit = body_limit(self.settings)
        _check_announced(request, limit)
        bounded = Request(request.scope, _bounded(request, limit))
        try:
            form = await bounded.form(max_files=1, max_fields=50, max_part_size=2**20)
        except (MultiPartException, HTTPException, ValueError) as error:
            detail = getattr(error, "detail", error)
            raise BadRequest(f"The form cannot be read: {detail}") from None
        try:
            image, prompt = form.get("image"), form.get("prompt")
            if not isinstance(image, UploadFile):
                raise BadRequest("The form needs a file in its field 'image'.")
            if not isinstance(prompt, str | None):
                raise BadRequest("'prompt' must be text.")
            data = await image.read()
            raw = {key: _typed(value) for key, value in form.items() if isinstance(value, str)}
        finally:
            await form.close()  # the upload's temporary file
        prompt = (prompt or "").strip() or default_prompt(request)
        return await self._in_thread(partial(self._parse_form, data, prompt, raw))

    async def _fetch_images(self, raw: dict[str, Any]) -> None:
        """Puts data: URIs in the place of web addresses, one after the other."""
        parts = _parts(raw, "image_url")
        if len(parts) > self.settings.max_images:
            return  # refused later, with all the other limits
        for part in parts:
            named = part.get("image_url")
            url = named.get("url") if isinstance(named, dict) else named
            if isinstance(url, str) and url.lower().startswith(("http://", "https://")):
                part["image_url"] = {"url": as_data_uri(await fetch_image(url, self.settings))}

    async def _in_thread(self, work: Any) -> Any:
        return await anyio.to_thread.run_sync(work, limiter=self.parsers)

    # --- parsing: blocking, in a thread ---

    def _parse_chat(self, raw: Mapping[str, Any]) -> Call:
        """Reads what this server knows; `model` and unknown fields change nothing."""
        if raw.get("n") not in (None, 1):
            raise BadRequest("'n' must be 1: one answer per request. Send several requests.")
        stream = _flag(raw, "stream")
        options = raw.get("stream_options")
        if not isinstance(options, Mapping | None):
            raise BadRequest("'stream_options' must be an object.")
        others = {"video_url": self._video, "video": self._frames}
        messages = from_openai(raw.get("messages"), self.settings, others)
        if _wants_json(raw.get("response_format")):
            messages = _with_system(messages, JSON_WANTED)
        usage = _flag(options or {}, "include_usage")
        return Call(messages, self.params(raw, messages), stream, usage)

    def _parse_simple(self, raw: Mapping[str, Any]) -> Call:
        text, image, session_id = raw.get("text"), raw.get("image"), raw.get("session_id")
        if not isinstance(text, str) or not text.strip():
            raise BadRequest("'text' must be the question.")
        if not isinstance(session_id, str | None) or len(session_id or "") > MAX_NAME_CHARS:
            raise BadRequest(f"'session_id' must be text of at most {MAX_NAME_CHARS} characters.")
        parts: list[Part] = [TextPart(text)]
        if image is not None:
            if not isinstance(image, str):
                raise BadRequest("'image' must be a data: URI.")
            parts.insert(0, ImagePart(load_data_uri(image, self.settings)))
        messages = [Message("user", tuple(parts))]
        check_conversation(messages, self.settings)
        fields = {name: value for name, value in raw.items() if name not in ("text", "image")}
        params = self.params(raw, messages)
        return Call(messages, params, session_id=session_id or None, fields=fields)

    def _parse_form(self, image: bytes, prompt: str, raw: Mapping[str, Any]) -> Call:
        picture = ImagePart(load_image(image, self.settings))
        messages = [Message("user", (picture, TextPart(prompt)))]
        check_conversation(messages, self.settings)
        return Call(messages, self.params(raw, messages), raw.get("stream") is True)

    def params(self, raw: Mapping[str, Any], messages: Sequence[Message]) -> SamplingParams:
        """The sampling fields of a request over what suits its conversation best."""
        preset = sampling_preset(self.engine.model_id, has_images=any(m.images for m in messages))
        defaults = replace(preset, max_image_tokens=self.settings.image_tokens)
        return params_from(raw, defaults, self.settings)

    def _video(self, raw: Mapping[str, Any], where: str) -> list[Part]:
        """`{"type": "video_url", "video_url": {"url": data URI}, "every_s"?}` -> timed frames."""
        url = raw.get("video_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        if not isinstance(url, str):
            raise BadRequest(f"{where}.video_url.url must be a string: a data: URI.")
        from qwen_vl.video import extract_keyframes  # OpenCV loads when a clip comes

        data = data_uri_bytes(url, "video", self.settings.max_video_mb)
        every_s = raw.get("every_s", 5.0)
        limit_s = self.settings.max_video_seconds
        number = isinstance(every_s, (int, float)) and not isinstance(every_s, bool)
        if not number or not 0 < every_s <= limit_s:
            raise BadRequest(
                f"{where}.every_s must be a number of seconds greater than 0, up to {limit_s}."
            )
        end_s = time.monotonic() + CLIP_S
        with tempfile.TemporaryDirectory(prefix="qwen-vl-clip-") as folder:
            path = Path(folder) / "clip"
            path.write_bytes(data)
            frames = extract_keyframes(
                path,
                "interval",
                self.settings,
                every_s=float(every_s),
                should_stop=lambda: time.monotonic() > end_s,
            )
        if time.monotonic() > end_s:
            raise TooLarge(
                f"Reading the clip takes longer than {CLIP_S:.0f} seconds: send a shorter or "
                "smaller one, or its frames."
            )
        return [ImagePart(frame.image, frame.time_s) for frame in frames]

    def _frames(self, raw: Mapping[str, Any], where: str) -> list[Part]:
        """`{"type": "video", "frames": [data URIs], "timestamps_s": [...]}` -> timed frames."""
        frames, times_s = raw.get("frames"), raw.get("timestamps_s")
        if not isinstance(frames, list) or not frames:
            raise BadRequest(f"{where}.frames must be a list of data: URIs.")
        if not isinstance(times_s, list) or len(times_s) != len(frames):
            raise BadRequest(f"{where}.timestamps_s must hold one number for each frame.")
        if len(frames) > self.settings.max_frames:
            raise TooLarge(
                f"{len(frames)} frames are more than the limit of {self.settings.max_frames}."
            )
        limit_s = self.settings.max_video_seconds
        parts: list[Part] = []
        for uri, time_s in zip(frames, times_s, strict=True):
            number = isinstance(time_s, (int, float)) and not isinstance(time_s, bool)
            if not number or not 0 <= time_s <= limit_s:
                raise BadRequest(f"{where}.timestamps_s must be seconds from 0 to {limit_s}.")
            if not isinstance(uri, str):
                raise BadRequest(f"{where}.frames must be a list of data: URIs.")
            parts.append(ImagePart(load_data_uri(uri, self.settings), float(time_s)))
        return parts


def default_prompt(request: Request) -> str:
    """What is asked about a picture that comes without a question, in the caller's language."""
    language = request.headers.get("accept-language", "").strip().lower()
    return DEFAULT_PROMPTS["zh" if language.startswith("zh") else "en"]


def body_limit(settings: Settings) -> int:
    """Bytes of the largest request: pictures of full size or a clip in base64, and the text."""
    pictures = settings.max_image_mb * min(settings.max_images, BODY_IMAGES)
    text = settings.max_prompt_chars * 12  # a character may be two \uXXXX escapes
    media = max(pictures, settings.max_video_mb) * BYTES_PER_MB
    return int(media * 4 / 3) + text + BYTES_PER_MB


def _parts(raw: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The parts of this type in all messages."""
    return [part for part in parts_in(raw.get("messages")) if part.get("type") == kind]


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The request is larger than {limit / BYTES_PER_MB:.0f} MB: send fewer or smaller pictures."
    )


def _check_announced(request: Request, limit: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)


async def _read(request: Request, limit: int) -> bytes:
    """The body. Raises TooLarge when more than `limit` bytes are announced, or come."""
    _check_announced(request, limit)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _bounded(request: Request, limit: int) -> Any:
    """The request's `receive` that refuses to go on after `limit` bytes."""
    seen = 0

    async def receive() -> Any:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return receive


def _typed(value: str) -> Any:
    """A form knows texts only: what looks like a number or a truth value becomes one."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return parsed if isinstance(parsed, (int, float, bool)) else value


def _flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name)
    if not isinstance(value, bool | None):
        raise BadRequest(f"'{name}' must be true or false.")
    return bool(value)


def _wants_json(raw: Any) -> bool:
    """Best effort: the model is told to write JSON, nothing makes sure that it does."""
    kind = raw.get("type") if isinstance(raw, Mapping) else raw
    if kind in (None, "text"):
        return False
    if kind == "json_object":
        return True
    raise Unsupported("'response_format' can be text or json_object (best effort) here.")


def _with_system(messages: Sequence[Message], text: str) -> list[Message]:
    if messages[0].role == "system":
        joined = f"{messages[0].text}\n{text}"
        return [Message("system", (TextPart(joined),)), *messages[1:]]
    return [Message("system", (TextPart(text),)), *messages]
