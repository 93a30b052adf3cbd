"""Calls of tools, as a server streams them in pieces -> whole calls, within bounds.

Knows OpenAI's `delta.tool_calls`. Nothing in it is trusted: a piece of another shape is Garbled.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from qwen_vl.engine.remote.text import SLACK_CHARS, TOKEN_CHARS
from qwen_vl.engine.remote.wire import Garbled
from qwen_vl.schema import ToolCall
from qwen_vl.tools import MOST_TOOLS, NAME


@dataclass
class _Begun:
    id: str = ""
    name: str = ""
    arguments: str = ""


class CallPieces:
    """The calls of one answer, in the order of their index."""

    def __init__(self, most_tokens: int) -> None:
        self._left = most_tokens * TOKEN_CHARS + SLACK_CHARS
        self._begun: dict[int, _Begun] = {}

    def __bool__(self) -> bool:
        return bool(self._begun)

    def add(self, pieces: list[Any]) -> None:
        """Takes the `tool_calls` of a delta in. Raises Garbled."""
        for piece in pieces:
            if not isinstance(piece, dict):
                raise Garbled("a tool call of its answer is no object")
            index = piece.get("index", len(self._begun))
            function = piece.get("function") or {}
            if type(index) is not int or not 0 <= index < MOST_TOOLS:
                raise Garbled("a tool call of its answer has no place")
            if not isinstance(function, dict):
                raise Garbled("a tool call of its answer has no function")
            call = self._begun.setdefault(index, _Begun())
            call.id = call.id or _text(piece.get("id"))
            call.name = call.name or _text(function.get("name"))
            more = _text(function.get("arguments"))
            self._left -= len(more) + len(call.name)
            if self._left < 0:
                raise Garbled("it sends more than an answer can be")
            call.arguments += more

    def whole(self) -> tuple[ToolCall, ...]:
        """All calls. Raises Garbled for one without a name that can be called."""
        calls = [self._begun[index] for index in sorted(self._begun)]
        if not all(NAME.fullmatch(call.name) for call in calls):
            raise Garbled("a tool call of its answer has no name")
        return tuple(
            ToolCall(
                call.name,
                call.arguments.encode(errors="replace").decode() or "{}",
                call.id[:200] or f"call_{secrets.token_hex(12)}",
            )
            for call in calls
        )


def _text(value: Any) -> str:
    if not isinstance(value, str | None):
        raise Garbled("a tool call of its answer is garbled")
    return value or ""
