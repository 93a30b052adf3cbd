"""The `messages` of a chat completion request -> the one inside shape, with all counts checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qwen_vl.api.tool_turns import call_id_in, calls_in
from qwen_vl.config import Settings
from qwen_vl.conversation import check_conversation, check_image_count, check_message_count
from qwen_vl.errors import BadRequest, TooLarge
from qwen_vl.media.pictures import open_data_uri
from qwen_vl.schema import ImagePart, Message, Part, Role, TextPart

LOW_DETAIL_TOKENS = 256  # a picture of 512x512 px, as OpenAI scales it for "low"
MAX_PARTS = 2000  # in all messages of a request together

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}

# Reads a part of another type: (the part, where it stands) -> parts of a message.
PartReader = Callable[[Mapping[str, Any], str], Sequence[Part]]


def from_openai(
    raw: Any, settings: Settings, others: Mapping[str, PartReader] | None = None
) -> list[Message]:
    """The `messages` field of a chat completion request -> messages.

    Source: the OpenAI API reference, "Create chat completion". Content is a string or a list of
    `text` and `image_url` parts; pictures are `data:` URIs. `others` reads further types of parts.
    """
    if not isinstance(raw, list):
        raise BadRequest("'messages' must be a list of {role, content} objects.")
    check_message_count(len(raw), settings)
    contents = (item.get("content") for item in raw if isinstance(item, dict))
    parts = sum(len(content) for content in contents if isinstance(content, list))
    if parts > MAX_PARTS:
        raise TooLarge(f"{parts:,} parts are more than the limit of {MAX_PARTS:,}: join texts.")
    check_image_count(_named_images(raw), settings)
    images = 0

    def read(part: Any, where: str) -> Sequence[Part]:
        nonlocal images
        parts = _openai_parts(part, where, settings, others or {})
        images += sum(isinstance(one, ImagePart) for one in parts)
        check_image_count(images, settings)  # how many frames a clip has is known only now
        return parts

    messages = [_openai_message(item, f"messages[{i}]", read) for i, item in enumerate(raw)]
    messages = with_one_system(messages)
    check_conversation(messages, settings)
    return messages


def with_one_system(messages: list[Message]) -> list[Message]:
    """All system messages as one in front: templates take no other, and clients send several."""
    systems = [message for message in messages if message.role == "system"]
    if not systems or (len(systems) == 1 and systems[0] is messages[0]):
        return messages
    joined = "\n\n".join(message.text for message in systems)
    others = [message for message in messages if message.role != "system"]
    return [Message("system", (TextPart(joined),)), *others]


def parts_in(raw: Any) -> list[dict[str, Any]]:
    """All parts of the `messages` field of a request that has not been checked yet."""
    if not isinstance(raw, list):
        return []
    contents = (item.get("content") for item in raw if isinstance(item, dict))
    return [
        part
        for content in contents
        if isinstance(content, list)
        for part in content
        if isinstance(part, dict)
    ]


def _named_images(raw: list[Any]) -> int:
    """How many pictures a request holds at least, before any is decoded."""
    parts = parts_in(raw)
    frames = (part.get("frames") for part in parts if part.get("type") == "video")
    named = sum(part.get("type") in ("image_url", "video_url", "file") for part in parts)
    return named + sum(len(listed) for listed in frames if isinstance(listed, list))


def _openai_message(raw: Any, where: str, read: Callable[[Any, str], Sequence[Part]]) -> Message:
    if not isinstance(raw, Mapping):
        raise BadRequest(f"{where} must be an object with 'role' and 'content'.")
    role = _ROLES.get(str(raw.get("role")))
    if role is None:
        raise BadRequest(f"{where}.role must be one of {', '.join(_ROLES)}.")
    content = raw.get("content")
    told = Message(role, ())
    if role == "assistant":
        told = replace(told, thought=_thought(raw, where), calls=calls_in(raw, where))
    if role == "tool":
        told = replace(told, call_id=call_id_in(raw, where))
    if isinstance(content, str):
        return replace(told, parts=(TextPart(content),))
    if content is None and role in ("assistant", "tool"):
        return told
    if not isinstance(content, list):
        raise BadRequest(f"{where}.content must be a string or a list of parts.")
    parts: list[Part] = []
    for i, part in enumerate(content):
        parts += read(part, f"{where}.content[{i}]")
    return replace(told, parts=tuple(parts))


def _thought(raw: Mapping[str, Any], where: str) -> str:
    """What the model thought before an earlier answer, under either of its names."""
    for name in ("reasoning_content", "reasoning"):
        thought = raw.get(name)
        if not isinstance(thought, str | None):
            raise BadRequest(f"{where}.{name} must be a string.")
        if thought:
            return thought
    return ""


def _openai_parts(
    raw: Any, where: str, settings: Settings, others: Mapping[str, PartReader]
) -> Sequence[Part]:
    if not isinstance(raw, Mapping):
        raise BadRequest(f"{where} must be an object with a 'type'.")
    kind = raw.get("type")
    if kind == "text":
        if not isinstance(raw.get("text"), str):
            raise BadRequest(f"{where}.text must be a string.")
        return [TextPart(raw["text"])]
    if kind == "image_url":
        address = raw.get("image_url")
        if not isinstance(address, Mapping):
            address = {"url": address}
        url, detail = address.get("url"), address.get("detail")
        if not isinstance(url, str):
            raise BadRequest(f"{where}.image_url.url must be a string: a data: URI.")
        if detail not in (None, "auto", "low", "high", "original"):
            raise BadRequest(f"{where}.image_url.detail must be auto, low or high.")
        most_tokens = LOW_DETAIL_TOKENS if detail == "low" else None
        return [ImagePart(open_data_uri(url, settings), most_tokens=most_tokens)]
    if isinstance(kind, str) and kind in others:
        return others[kind](raw, where)
    known = ", ".join(["text", "image_url", *others])
    raise BadRequest(f"{where}.type must be one of {known}: nothing else is read here.")
