"""The arguments of a call, as a model writes them -> JSON as text, while they are being written.

Models of one kind write JSON, which passes as it is; those of the other write a tag for each
parameter. Knows text and a tool's parameters; nothing of the tags around a call.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

from qwen_vl.engine.thoughts import overlap
from qwen_vl.tools import TAGS, Tool, is_text

_OPENING = re.compile(r"<parameter=([^>\n]+)>")
_CLOSING = "</parameter>"
_END = re.compile(rf"</function>|(?={re.escape(TAGS[1])})")  # the former may be missing


class Arguments(Protocol):
    """Those of one call."""

    is_whole: bool

    def push(self, text: str) -> tuple[str, str]:
        """(JSON to be told, the rest of `text`): what comes after them, or needs more to tell."""
        ...

    def end(self) -> str:
        """JSON to be told at last, where the answer ends before the call does."""
        ...


class JsonArguments:
    """A JSON object: ends with the brace that closes it. Texts in it may hold anything."""

    def __init__(self) -> None:
        self._depth, self._in_text, self._escaped = 0, False, False
        self.is_whole = False

    def push(self, text: str) -> tuple[str, str]:
        for i, char in enumerate(text if not self.is_whole else ""):
            if self._in_text:
                self._in_text = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._in_text = True
            elif char in "{}":
                self._depth += 1 if char == "{" else -1
                if self._depth == 0:
                    self.is_whole = True
                    return text[: i + 1], text[i + 1 :]
        return ("", text) if self.is_whole else (text, "")

    def end(self) -> str:
        return ""


class XmlArguments:
    """`<parameter=KEY>` and its value for each of them, and `</function>` after the last.

    Texts are told as they come, all else when it is whole: only then it is known to be JSON.
    """

    def __init__(self, tool: Tool) -> None:
        self._schemas: dict[str, Any] = tool.parameters.get("properties") or {}
        self._keys: list[str] = []  # so far
        self._in_value = self._in_text = False
        self.is_whole = False

    def push(self, text: str) -> tuple[str, str]:
        told = ""
        while not self.is_whole:
            step = self._value(text) if self._in_value else self._between(text)
            if step is None:
                break
            more, text = step
            told += more
        return told, text

    def end(self) -> str:
        whole = self.is_whole or self._in_value
        return "" if whole else ("{}" if not self._keys else "}")

    def _between(self, text: str) -> tuple[str, str] | None:
        opening, last = _OPENING.search(text), _END.search(text)
        if last and not (opening and opening.start() < last.start()):
            self.is_whole = True
            return "}" if self._keys else "{}", text[last.end() :]
        if opening is None or opening.end() == len(text):  # a line break may follow the tag
            return None
        key, rest = opening[1], text[opening.end() :].removeprefix("\n")
        told = f"{', ' if self._keys else '{'}{json.dumps(key, ensure_ascii=False)}: "
        self._keys.append(key)
        self._in_value, self._in_text = True, is_text(self._schemas.get(key))
        return told + ('"' if self._in_text else ""), rest

    def _value(self, text: str) -> tuple[str, str] | None:
        value, closed, rest = text.partition(_CLOSING)
        if closed:
            value = value.removesuffix("\n")
            told = f'{_inside(value)}"' if self._in_text else _as_json(value)
            self._in_value = False
            return told, rest
        if not self._in_text:
            return None
        held = overlap(text, _CLOSING)
        held += text[: len(text) - held].endswith("\n")
        free, rest = text[: len(text) - held], text[len(text) - held :]
        return (_inside(free), rest) if free else None


def _inside(text: str) -> str:
    """A text as it stands between the quotes of JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _as_json(value: str) -> str:
    """JSON where it is JSON, else a text."""
    try:
        return json.dumps(json.loads(value), ensure_ascii=False)
    except (ValueError, RecursionError):
        return json.dumps(value, ensure_ascii=False)
