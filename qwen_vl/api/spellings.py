"""What clients write -> OpenAI's own form, before anything is read.

Knows the spellings of Qwen's examples, of OpenAI's newer API, of Anthropic's and of vLLM. Looks at
keys only, in time linear in the number of parts. What it does not know it leaves as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen_vl.errors import BadRequest

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


# What vLLM's clients tell the chat template, of what this server knows.
_TEMPLATE_ARGUMENTS = ("enable_thinking", "reasoning_effort", "preserve_thinking")


def with_template_arguments(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request whose `chat_template_kwargs` stand beside its other fields.

    Raises BadRequest for arguments that are not known here: they might change the answer.
    """
    arguments = raw.get("chat_template_kwargs")
    if arguments is None:
        return raw
    if not isinstance(arguments, dict):
        raise BadRequest("'chat_template_kwargs' must be an object.")
    unknown = sorted(set(arguments) - set(_TEMPLATE_ARGUMENTS))
    if unknown:
        raise BadRequest(
            f"'chat_template_kwargs' can have {', '.join(_TEMPLATE_ARGUMENTS)} here, not "
            f"{unknown[0]!r}."
        )
    return {**arguments, **{name: value for name, value in raw.items() if value is not None}}


def in_openai_form(raw: Any) -> None:
    """Rewrites the parts of a request's `messages` in place."""
    for message in raw if isinstance(raw, list) else ():
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        if isinstance(content, dict):  # one part instead of a list of them
            content = message["content"] = [content]
        if isinstance(content, list):
            message["content"] = [_part(part) for part in content]


def _part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXTS:
        return {"type": "text", "text": part.get(_TEXTS[kind])}
    if kind in ("image", "input_image", "image_url") or (kind is None and "image_url" in part):
        return {"type": "image_url", "image_url": _address(part)}
    if kind == "input_video":
        return {**part, "type": "video_url", "video_url": part.get("video_url", part.get("video"))}
    return part


def _address(part: Mapping[str, Any]) -> Any:
    """{"url", "detail"?} of a picture, however it is given."""
    named = next((part[key] for key in ("image_url", "image", "url") if key in part), None)
    source = part.get("source")
    if named is None and isinstance(source, dict):
        data, kind = source.get("data"), source.get("media_type", "")
        named = source.get("url") if data is None else f"data:{kind};base64,{data}"
    address = dict(named) if isinstance(named, dict) else {"url": named}
    return {**address, "detail": address.get("detail", part.get("detail"))}
