"""A Responses request -> the chat request that asks the same, and what its answer repeats of it.

What both formats have is passed on as it is, this server's own sampling fields included. Knows the
two formats; nothing of HTTP or engines.

Source: the OpenAI API reference, "Create a model response".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen_vl.api.payloads import flag
from qwen_vl.api.responses.turns import FindItem, turns_of
from qwen_vl.errors import BadRequest, Unsupported

MOST_METADATA, MOST_KEY_CHARS, MOST_VALUE_CHARS = 16, 64, 512  # OpenAI's
MOST_ID_CHARS = 200
LOGPROBS = "message.output_text.logprobs"

_OTHERWISE = {
    "background": "ask for a stream, or send the question to /inference",
    "conversation": "go on with previous_response_id",
    "prompt": "send the text itself as instructions and input",
    "context_management": "send a shorter input",
    "moderation": "leave it out",
}
# What is told in other fields of a chat request, or in none.
_OWN = (
    *("input", "instructions", "previous_response_id", "store", "metadata", "include", "messages"),
    *("text", "reasoning", "max_output_tokens", "tools", "tool_choice", "stream_options"),
    *("truncation", "user", "n", "logprobs", "top_logprobs"),
)


@dataclass(frozen=True)
class Asked:
    """What one request asks for."""

    chat: dict[str, Any]  # a chat request
    instructions: str
    previous_id: str  # "" where the conversation begins
    places: Mapping[str, str]  # where in the request the parts of `chat` stood
    told: dict[str, Any]  # fields that the response repeats
    is_stored: bool
    wants_summary: bool  # thoughts are told as summaries


def asked_by(raw: Mapping[str, Any], find: FindItem) -> Asked:
    """Raises BadRequest and Unsupported that name the field."""
    for name, otherwise in _OTHERWISE.items():
        if raw.get(name):
            raise Unsupported(f"'{name}' cannot be honoured here: {otherwise}.")
    if raw.get("n") not in (None, 1):
        raise Unsupported("'n' is for /v1/chat/completions: leave it out here.")
    turns = turns_of(raw.get("input"), find)
    chat = {name: value for name, value in raw.items() if name not in _OWN}
    chat["messages"] = turns.messages
    text, reasoning = _object(raw, "text"), _object(raw, "reasoning")
    form = _form(text)
    if form is not None:
        chat["response_format"] = _chat_form(form)
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    if raw.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = raw["max_output_tokens"]
    chat |= _logprobs(raw)
    functions, choice = _functions(raw.get("tools")), raw.get("tool_choice")
    tools = None if functions is None else [_chat_tool(one) for one in functions]
    chat |= {"tools": tools, "tool_choice": choice}
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        chat |= _allowed(choice, tools or [])
    summary = reasoning.get("summary") or reasoning.get("generate_summary")
    stored = raw.get("store") is None or flag(raw, "store")
    told: dict[str, Any] = {
        "instructions": _text(raw, "instructions"),
        "max_output_tokens": raw.get("max_output_tokens"),
        "metadata": _metadata(raw.get("metadata")),
        "parallel_tool_calls": raw.get("parallel_tool_calls") is not False,
        "previous_response_id": _name(raw, "previous_response_id"),
        "prompt_cache_key": _name(raw, "prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": summary},
        "safety_identifier": _name(raw, "safety_identifier"),
        "store": stored,
        "text": {"format": form or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto" if choice is None else _told_choice(choice),
        "tools": [_told_tool(one) for one in functions or ()],
        "top_logprobs": raw.get("top_logprobs") or 0,
        "truncation": "disabled",  # whatever was asked for: nothing is left out here
        "user": _name(raw, "user"),
    }
    previous_id = told["previous_response_id"] or ""
    instructions = told["instructions"] or ""
    return Asked(chat, instructions, previous_id, turns.places, told, stored, bool(summary))


def _object(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name)
    if not isinstance(value, Mapping | None):
        raise BadRequest(f"'{name}' must be an object.")
    return value or {}


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if not isinstance(value, str | None):
        raise BadRequest(f"'{name}' must be text.")
    return value


def _name(raw: Mapping[str, Any], name: str) -> str | None:
    value = _text(raw, name)
    if len(value or "") > MOST_ID_CHARS:
        raise BadRequest(f"'{name}' must be text of at most {MOST_ID_CHARS} characters.")
    return value or None


def _form(text: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the answer must look like; None for free text."""
    if text.get("verbosity") not in (None, "medium"):
        raise Unsupported("'text.verbosity' cannot be honoured here: say it in the instructions.")
    form = text.get("format")
    if form is None:
        return None
    kinds = ("text", "json_object", "json_schema")
    if not isinstance(form, Mapping) or form.get("type") not in kinds:
        raise BadRequest(f"'text.format' must be an object of the type {', '.join(kinds)}.")
    return None if form["type"] == "text" else form


def _chat_form(form: Mapping[str, Any]) -> dict[str, Any]:
    inner = {name: value for name, value in form.items() if name != "type"}
    return {"type": form["type"], **({"json_schema": inner} if "schema" in inner else {})}


def _logprobs(raw: Mapping[str, Any]) -> dict[str, Any]:
    include = raw.get("include") or []
    if not isinstance(include, list):
        raise BadRequest("'include' must be a list.")
    wanted = LOGPROBS in include or bool(raw.get("top_logprobs"))
    return {"logprobs": True, "top_logprobs": raw.get("top_logprobs")} if wanted else {}


def _metadata(raw: Any) -> dict[str, str]:
    if not isinstance(raw, Mapping | None):
        raise BadRequest("'metadata' must be an object.")
    pairs = dict(raw or {})
    fits = len(pairs) <= MOST_METADATA and all(
        len(key) <= MOST_KEY_CHARS and isinstance(value, str) and len(value) <= MOST_VALUE_CHARS
        for key, value in pairs.items()
    )
    if not fits:
        raise BadRequest(
            f"'metadata' takes at most {MOST_METADATA} texts of {MOST_VALUE_CHARS} characters, "
            f"under keys of {MOST_KEY_CHARS}."
        )
    return pairs


# --- tools ---


def _functions(raw: Any) -> list[Any] | None:
    """The tools in one form: this format's, or that of chats, which some clients send."""
    if not isinstance(raw, list):
        if raw is None:
            return None
        raise BadRequest("'tools' must be a list.")
    nested = [isinstance(one, Mapping) and isinstance(one.get("function"), Mapping) for one in raw]
    return [
        {"type": one.get("type", "function"), **one["function"]} if is_nested else one
        for one, is_nested in zip(raw, nested, strict=True)
    ]


def _chat_tool(tool: Any) -> Any:
    if not isinstance(tool, Mapping):
        return tool
    known = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in known if name in tool}
    return {"type": tool.get("type", "function"), "function": function}


def _told_tool(tool: Any) -> dict[str, Any]:
    known = {"type": "function", "description": None, "parameters": None, "strict": None}
    return {**known, **(tool if isinstance(tool, Mapping) else {})}


def _allowed(choice: Mapping[str, Any], tools: list[Any]) -> dict[str, Any]:
    """Of all tools, those that may be called now."""
    listed, mode = choice.get("tools"), choice.get("mode", "auto")
    if not isinstance(listed, list) or mode not in ("auto", "required"):
        raise BadRequest("'tool_choice' needs a list of 'tools' and a 'mode', auto or required.")
    names = [one.get("name") for one in listed if isinstance(one, Mapping)]
    allowed = [
        one for one in tools if isinstance(one, Mapping) and one["function"].get("name") in names
    ]
    if len(allowed) < len(listed):
        raise BadRequest("'tool_choice' names a tool that the request does not have.")
    return {"tools": allowed, "tool_choice": mode}


def _told_choice(choice: Any) -> Any:
    inner = choice.get("function") if isinstance(choice, Mapping) else None
    return {"type": "function", "name": inner.get("name")} if isinstance(inner, Mapping) else choice
