"""Earlier calls of tools and their results, as clients send them back.

OpenAI's form and the older one with a single function. History is judged gently: any JSON text is
taken for arguments, and a call may be without an id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwen_vl.errors import BadRequest
from qwen_vl.schema import ToolCall
from qwen_vl.tools import MOST_TOOLS, NAME


def calls_in(raw: Mapping[str, Any], where: str) -> tuple[ToolCall, ...]:
    """What an assistant's message called. Raises BadRequest that names the place."""
    older, listed = raw.get("function_call"), raw.get("tool_calls")
    if not isinstance(listed, list | None) or len(listed or ()) > MOST_TOOLS:
        raise BadRequest(f"{where}.tool_calls must be a list of at most {MOST_TOOLS} calls.")
    calls = [_call(one, f"{where}.tool_calls[{i}]") for i, one in enumerate(listed or ())]
    if older is not None and not calls:
        calls = [_call({"function": older}, f"{where}.function_call")]
    return tuple(calls)


def call_id_in(raw: Mapping[str, Any], where: str) -> str:
    """Which call a tool's message answers; the older form has the function's name for it."""
    named = raw.get("tool_call_id")
    if named is None:
        named = raw.get("name")
    if not isinstance(named, str | None) or len(named or "") > 200:
        raise BadRequest(f"{where}.tool_call_id must be text of at most 200 characters.")
    return named or ""


def _call(raw: Any, where: str) -> ToolCall:
    function = raw.get("function") if isinstance(raw, Mapping) else None
    if not isinstance(function, Mapping):
        raise BadRequest(f"{where} must be an object with a 'function'.")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadRequest(f"{where}.function.name must be a tool's name.")
    if isinstance(arguments, Mapping):  # some clients send the object itself
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not isinstance(arguments, str | None):
        raise BadRequest(f"{where}.function.arguments must be JSON as a string.")
    named = raw.get("id")
    if not isinstance(named, str | None):
        raise BadRequest(f"{where}.id must be a string.")
    return ToolCall(name, arguments or "{}", named or name)
