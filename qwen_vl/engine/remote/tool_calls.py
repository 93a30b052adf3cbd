"""Calls of tools, as a server streams them in pieces -> pieces that can be told, within bounds.

Knows OpenAI's `delta.tool_calls`. Nothing in it is trusted: a piece of another shape is Garbled.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qwen_vl.engine.remote.text import SLACK_CHARS, TOKEN_CHARS
from qwen_vl.engine.remote.wire import Garbled
from qwen_vl.schema import CallPiece
from qwen_vl.tools import MOST_TOOLS, NAME


@dataclass
class _Begun:
    number: int | None = None  # among the calls that were told
    id: str = ""
    name: str = ""
    waiting: str = ""  # arguments that came before the name
    has_arguments: bool = False


class CallPieces:
    """The calls of one answer. Each is told from the moment its name is known."""

    def __init__(self, most_tokens: int) -> None:
        self._left = most_tokens * TOKEN_CHARS + SLACK_CHARS
        self._begun: dict[int, _Begun] = {}
        self._told = 0  # calls

    def __bool__(self) -> bool:
        return bool(self._begun)

    def add(self, pieces: list[Any]) -> tuple[CallPiece, ...]:
        """Takes the `tool_calls` of a delta in. Raises Garbled."""
        return tuple(told for piece in pieces for told in self._add(piece))

    def _add(self, piece: Any) -> Iterator[CallPiece]:
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
        call.waiting += more
        if call.name:
            yield from self._tell(call)

    def _tell(self, call: _Begun) -> Iterator[CallPiece]:
        arguments = call.waiting.encode(errors="replace").decode()
        call.waiting = ""
        call.has_arguments = call.has_arguments or bool(arguments)
        if call.number is not None:
            if arguments:
                yield CallPiece(call.number, arguments)
            return
        if not NAME.fullmatch(call.name):
            raise Garbled("a tool call of its answer has no name")
        call.number, self._told = self._told, self._told + 1
        made_id = call.id[:200] or f"call_{secrets.token_hex(12)}"
        yield CallPiece(call.number, arguments, call.name, made_id)

    def end(self) -> tuple[CallPiece, ...]:
        """What is left to be told of whole calls. Raises Garbled for one without a name."""
        if not all(call.name for call in self._begun.values()):
            raise Garbled("a tool call of its answer has no name")
        empty = [call.number for call in self._begun.values() if not call.has_arguments]
        return tuple(CallPiece(number, "{}") for number in empty if number is not None)


def _text(value: Any) -> str:
    if not isinstance(value, str | None):
        raise Garbled("a tool call of its answer is garbled")
    return value or ""
