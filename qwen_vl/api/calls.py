"""Requests, in every shape that clients send -> what the engine is asked.

Knows JSON, forms and the OpenAI chat format. Of the engine it knows the status. Knows nothing of
answers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import anyio
from fastapi import Request

from qwen_vl.api.clips import ClipReader
from qwen_vl.api.completions import fields_of, logprobs_of, prompts_of
from qwen_vl.api.documents import DocumentReader
from qwen_vl.api.fetch import MAX_SECONDS, fetch_image, took_too_long
from qwen_vl.api.forms import with_form_told
from qwen_vl.api.logprobs import asked_logprobs
from qwen_vl.api.messages import from_openai, parts_in, with_one_system
from qwen_vl.api.payloads import Payloads, flag, hold, media_type
from qwen_vl.api.places import Places
from qwen_vl.api.spellings import in_openai_form, with_template_arguments
from qwen_vl.config import Settings
from qwen_vl.constraint import constraint_from
from qwen_vl.conversation import check_conversation
from qwen_vl.engine import Engine
from qwen_vl.errors import BadRequest, NotFound, TooLarge, Unsupported
from qwen_vl.gate.bodies import BODY_IMAGES
from qwen_vl.media.pictures import (
    BYTES_PER_MB,
    as_data_uri,
    open_data_uri,
    open_image,
)
from qwen_vl.sampling import SamplingParams, params_from
from qwen_vl.schema import EngineStatus, ImagePart, Message, Part, TextPart, frames_of, is_paired
from qwen_vl.tools import tools_from

DEFAULT_PROMPTS = {"en": "Describe this image.", "zh": "请描述这张图片"}
MAX_NAME_CHARS = 200  # of a session's id, and of a salt
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class Call:
    """One question to the engine, and how its answer is wanted."""

    messages: list[Message]
    params: SamplingParams
    stream: bool = False
    include_usage: bool = False
    session_id: str | None = None
    n: int = 1  # answers to it
    salt: str = ""  # divides what is cached for one caller further
    damaged_s: tuple[tuple[float, float], ...] = ()  # stretches of its clips that were not decoded
    fields: Mapping[str, Any] = field(default_factory=dict)  # as they came, where a session follows
    added: Sequence[Message] = ()  # of the messages, those that came with the request itself

    @property
    def frames_s(self) -> tuple[float, ...]:
        """The times of the frames in it, in their order."""
        parts = (part for message in self.messages for part in message.images)
        times = (frame.time_s for part in parts for frame in frames_of(part))
        return tuple(time_s for time_s in times if time_s is not None)

    @property
    def has_pairs(self) -> bool:
        """Whether frames of clips are to share their tokens."""
        return any(is_paired(part) for message in self.messages for part in message.images)


class Reader:
    """Reads requests for one engine, within the limits of `settings`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        self._payloads = Payloads(settings)
        self._texts = Places(4, waiting=1000)
        self._pictures = Places(2, waiting=64)
        self._clips = Places(1, waiting=4)  # they take longer: nobody else waits for them

    async def chat(self, request: Request) -> Call:
        """A chat completion: JSON in the OpenAI format, or a form with `image` and `prompt`."""
        if media_type(request) == "multipart/form-data":
            return await self._form(request)
        return await self.chat_from(request, await self.json(request))

    async def json(self, request: Request) -> dict[str, Any]:
        """A body that is a JSON object."""
        return await self._payloads.json(request)

    async def completion(self, request: Request) -> tuple[list[Call], bool]:
        """A text completion: a call for each of its texts, and whether they are to be echoed."""
        raw = await self._payloads.json(request)
        return await self._texts.run(lambda: self._parse_completion(raw))

    async def simple(self, request: Request) -> Call:
        """`{"text", "image"?, "session_id"?}`, with sampling fields if wanted."""
        return _one_text(await self._simple(request, await self._payloads.json(request)))

    async def job(self, request: Request) -> Call:
        """A chat completion in any of its forms, or the simple form."""
        if media_type(request) == "multipart/form-data":
            call = await self._form(request)
        else:
            raw = await self._payloads.json(request)
            read = self.chat_from if "messages" in raw else self._simple
            call = await read(request, raw)
        if call.salt:
            raise Unsupported("'cache_salt' is not for jobs: leave it out.")
        return _one_text(call)

    async def chat_from(
        self, request: Request, raw: dict[str, Any], earlier: Sequence[Message] = ()
    ) -> Call:
        """A chat completion in the OpenAI format, changed in place; `earlier` goes before it."""
        in_openai_form(raw.get("messages"))
        await self._fetch_images(request, raw)
        if not _parts(raw, "video_url", "file"):
            places = self._pictures if _parts(raw, "image_url", "video") else self._texts
            return await places.run(lambda: self._parse_chat(raw, threading.Event(), earlier))
        has_left = threading.Event()
        return await self._clips.run_for(
            request, lambda: self._parse_chat(raw, has_left, earlier), has_left.set
        )

    async def keyframes(self, request: Request, part: Mapping[str, Any]) -> list[ImagePart]:
        """The frames of one part of type `video_url`."""
        has_left = threading.Event()
        clips = ClipReader(self.settings, has_left)
        found = await self._clips.run_for(request, lambda: clips.clip(part, "clip"), has_left.set)
        return [part for part in found if isinstance(part, ImagePart)]

    async def _simple(self, request: Request, raw: dict[str, Any]) -> Call:
        image = raw.get("image")
        if _is_web_address(image):
            raw["image"] = await self._fetched(request, image)
        places = self._texts if image is None else self._pictures
        return await places.run(lambda: self._parse_simple(raw))

    async def _form(self, request: Request) -> Call:
        data, raw = await self._payloads.form(request)
        prompt = str(raw.get("prompt") or "").strip() or default_prompt(request)
        return await self._pictures.run(lambda: self._parse_form(data, prompt, raw))

    async def _fetch_images(self, request: Request, raw: dict[str, Any]) -> None:
        """Puts data: URIs in the place of web addresses, one after the other.

        All of them together get the time limit of one, and the byte limit of one request.
        """
        wanted = {}
        for i, part in enumerate(parts := _parts(raw, "image_url")):
            named = part.get("image_url")
            url = named.get("url") if isinstance(named, dict) else named
            if _is_web_address(url):
                wanted[i] = url
        if not wanted or len(parts) > self.settings.max_images:
            return  # too many are refused later, with all the other limits
        left_bytes = self.settings.max_image_mb * BODY_IMAGES * BYTES_PER_MB
        with took_too_long(), anyio.fail_after(MAX_SECONDS):
            for i, url in wanted.items():
                uri = await self._fetched(request, url)
                left_bytes -= len(uri) * 3 / 4
                if left_bytes < 0:
                    raise TooLarge("The pictures are too large together: send fewer or smaller.")
                parts[i]["image_url"]["url"] = uri

    async def _fetched(self, request: Request, url: str) -> str:
        uri = as_data_uri(await fetch_image(url, self.settings))
        hold(request, len(uri))
        return uri

    # --- parsing: blocking, in a thread ---

    def _parse_chat(
        self, raw: Mapping[str, Any], has_left: threading.Event, earlier: Sequence[Message]
    ) -> Call:
        """Reads what this server knows; `model` and unknown fields change nothing."""
        stream, usage = _streaming(raw)
        clips = ClipReader(self.settings, has_left)
        documents = DocumentReader(self.settings, has_left)
        others = {"video_url": clips.clip, "video": clips.frames, "file": documents.pages}
        added = messages = from_openai(raw.get("messages"), self.settings, others)
        if earlier:
            messages = with_one_system([*earlier, *added])
            check_conversation(messages, self.settings)
        params = self.params(raw, messages)
        if raw.get("response_format") is not None and params.constraint is not None:
            messages = with_form_told(messages, params.constraint, params.tools is not None)
        salt, damaged_s = _name(raw, "cache_salt"), tuple(clips.damaged_s)
        call = Call(messages, params, stream, usage, salt=salt, damaged_s=damaged_s, added=added)
        return replace(call, n=self._n(raw))

    def _parse_completion(self, raw: Mapping[str, Any]) -> tuple[list[Call], bool]:
        prompts, n, most = prompts_of(raw), self._n(raw), self.settings.max_batch
        if len(prompts) * n > most:
            raise BadRequest(
                f"'prompt' and 'n' ask for {len(prompts) * n} answers, more than the limit of "
                f"{most} (--max-batch): send several requests."
            )
        calls = []
        for prompt in prompts:
            messages = [Message("raw", (TextPart(prompt),))]
            check_conversation(messages, self.settings)
            params = self.params(fields_of(raw), messages)
            params = replace(params, logprobs=logprobs_of(raw))
            if params.tools is not None:
                raise Unsupported("'tools' are for /v1/chat/completions: leave them out here.")
            stream, usage = _streaming(raw)
            salt = _name(raw, "cache_salt")
            calls.append(Call(messages, params, stream, usage, salt=salt, n=n))
        return calls, flag(raw, "echo")

    def _parse_simple(self, raw: Mapping[str, Any]) -> Call:
        text, image, session_id = raw.get("text"), raw.get("image"), _name(raw, "session_id")
        if not isinstance(text, str) or not text.strip():
            raise BadRequest("'text' must be the question.")
        parts: list[Part] = [TextPart(text)]
        if image is not None:
            if not isinstance(image, str):
                raise BadRequest("'image' must be a data: URI.")
            parts.insert(0, ImagePart(open_data_uri(image, self.settings)))
        messages = [Message("user", tuple(parts))]
        check_conversation(messages, self.settings)
        fields = {name: value for name, value in raw.items() if name not in ("text", "image")}
        params = self.params(raw, messages)
        salt = _name(raw, "cache_salt")
        n = self._n(raw)
        return Call(messages, params, session_id=session_id or None, salt=salt, fields=fields, n=n)

    def _parse_form(self, image: bytes, prompt: str, raw: Mapping[str, Any]) -> Call:
        picture = ImagePart(open_image(image, self.settings))
        messages = [Message("user", (picture, TextPart(prompt)))]
        check_conversation(messages, self.settings)
        params, salt = self.params(raw, messages), _name(raw, "cache_salt")
        return Call(messages, params, raw.get("stream") is True, salt=salt, n=self._n(raw))

    def _n(self, raw: Mapping[str, Any]) -> int:
        """How many answers are wanted: as many as are written side by side, at most."""
        most = self.settings.max_batch
        n = raw.get("n")
        if n is None:
            return 1
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= most:
            raise BadRequest(f"'n' must be a whole number between 1 and {most} (--max-batch).")
        return n

    def params(self, raw: Mapping[str, Any], messages: Sequence[Message]) -> SamplingParams:
        """The sampling fields of a request, over the preset of its conversation, and what its
        answer must look like."""
        raw = with_template_arguments(raw)
        asked = params_from(raw, SamplingParams(), self.settings)
        status = self._status_of(raw)
        preset = status.family.preset(
            has_images=any(m.images for m in messages), thinks=asked.thinks
        )
        image_tokens = self.settings.image_tokens_or(status.image_tokens)
        defaults = replace(preset, max_image_tokens=image_tokens)
        params = params_from(raw, defaults, self.settings)
        constraint, tools, logprobs = constraint_from(raw), tools_from(raw), asked_logprobs(raw)
        if tools is not None and constraint is not None and not constraint.is_json:
            raise Unsupported(
                f"'tools' and '{constraint.place.partition('.')[0]}' cannot be asked for together "
                "here: leave one of them out."
            )
        if tools is not None and logprobs is not None:
            raise Unsupported("'logprobs' and 'tools' cannot be asked for together here.")
        named = status.model_id if self.engine.status().others else ""
        return replace(params, constraint=constraint, tools=tools, logprobs=logprobs, model=named)

    def _status_of(self, raw: Mapping[str, Any]) -> EngineStatus:
        """Of the model that the request names. Where only one runs, any name is that one's."""
        status, name = self.engine.status(), _name(raw, "model")
        names = [one.model_id for one in (status, *status.others)]
        if status.others and name and name not in names:
            raise NotFound(
                f"There is no model '{name}' here: 'model' is one of {', '.join(names)}."
            )
        return status.of(name)


def default_prompt(request: Request) -> str:
    """What is asked about a picture that comes without a question, in the caller's language."""
    language = request.headers.get("accept-language", "").strip().lower()
    return DEFAULT_PROMPTS["zh" if language.startswith("zh") else "en"]


def _parts(raw: Mapping[str, Any], *kinds: str) -> list[dict[str, Any]]:
    """The parts of these types in all messages."""
    return [part for part in parts_in(raw.get("messages")) if part.get("type") in kinds]


def _is_web_address(url: Any) -> TypeGuard[str]:
    return isinstance(url, str) and url[:8].lower().startswith(_WEB)


def _name(raw: Mapping[str, Any], field_name: str) -> str:
    """A client's own name for something; "" if it gives none."""
    name = raw.get(field_name)
    if not isinstance(name, str | None) or len(name or "") > MAX_NAME_CHARS:
        raise BadRequest(f"'{field_name}' must be text of at most {MAX_NAME_CHARS} characters.")
    return name or ""


def _streaming(raw: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the answer comes as a stream, and whether that has the usage."""
    options = raw.get("stream_options")
    if not isinstance(options, Mapping | None):
        raise BadRequest("'stream_options' must be an object.")
    return flag(raw, "stream"), flag(options or {}, "include_usage")


def _one_text(call: Call) -> Call:
    """Raises Unsupported for what only chat completions have a place for."""
    if call.params.logprobs is not None:
        raise Unsupported("'logprobs' is for /v1/chat/completions: leave it out here.")
    if call.n > 1:
        raise Unsupported("'n' is for /v1/chat/completions: leave it out here.")
    if call.params.tools is not None:
        raise Unsupported("'tools' are for /v1/chat/completions: leave them out here.")
    return call
