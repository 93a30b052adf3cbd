"""Turns with tools -> what the checkpoint's chat template is told.

Most templates know tools. To the others, earlier calls and their results are shown as texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qwen_vl.constraint import Constraint
from qwen_vl.errors import Unsupported
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Family, Message, TextPart, ToolCall
from qwen_vl.tools import Tools, arguments_object, call_constraint


def definitions_for(tools: Tools, family: Family) -> list[dict[str, Any]]:
    """The template's argument. Raises Unsupported where it takes none."""
    if family.tool_format == "none":
        raise _knows_none()
    return tools.objects


def constraint_of(params: SamplingParams, family: Family) -> Constraint | None:
    """What binds an answer: a wish of its own, the form of the calls that it has to make, or either
    of them where it may call or answer."""
    tools, wish = params.tools, params.constraint
    if tools is None or not (tools.must_call or wish):
        return wish
    if family.tool_format == "none":
        raise _knows_none()
    return call_constraint(tools, family.tool_format, None if tools.must_call else wish)


def as_known(messages: Sequence[Message], family: Family) -> Sequence[Message]:
    """The conversation in turns that the template knows."""
    return messages if family.tool_format != "none" else [_as_text(one) for one in messages]


def calls_of(message: Message) -> dict[str, Any]:
    """The fields of a template's turn that tell what it called."""
    if not message.calls:
        return {}
    functions = [
        {"name": call.name, "arguments": arguments_object(call.arguments)} for call in message.calls
    ]
    return {"tool_calls": [{"type": "function", "function": one} for one in functions]}


def _as_text(message: Message) -> Message:
    if message.role == "tool":
        opening, end = TextPart("<tool_response>\n"), TextPart("\n</tool_response>")
        return replace(message, role="user", parts=(opening, *message.parts, end))
    if not message.calls:
        return message
    gap = "\n" if message.text else ""
    told = TextPart(gap + "\n".join(map(_call_as_text, message.calls)))
    return replace(message, parts=(*message.parts, told), calls=())


def _call_as_text(call: ToolCall) -> str:
    named = {"name": call.name, "arguments": arguments_object(call.arguments)}
    return f"<tool_call>\n{json.dumps(named, ensure_ascii=False)}\n</tool_call>"


def _knows_none() -> Unsupported:
    return Unsupported("This model's chat template knows no tools: leave out 'tools'.")
