"""The text of an answer -> what it says, and the tools that it calls.

Qwen's models write `<tool_call>`, the call as JSON or as XML, and `</tool_call>`. The tags come in
pieces, and the last one may never come. What is no call stays text. Knows text only.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Any, NamedTuple

from qwen_vl.engine.thoughts import overlap
from qwen_vl.schema import ToolCall
from qwen_vl.tools import NAME, TAGS, Tools, is_text

OPEN, CLOSE = TAGS
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)(?:</function>)?\s*", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>(.*?)</parameter>", re.DOTALL)


class Said(NamedTuple):
    """What one step adds to the text and to the calls; either may be empty."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


class CallSplitter:
    """Splits one answer, piece by piece.

    Holds back a call until it is whole, what may be the beginning of one, and the blanks before it.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._held = ""
        self.calls = 0  # so far

    @property
    def is_done(self) -> bool:
        """Whether the answer has made the one call that it may make."""
        return self.calls > 0 and not self._tools.repeats

    def push(self, text: str) -> Said:
        self._held += text
        said, calls = "", []
        while not self.is_done:
            before, opened, rest = self._held.partition(OPEN)
            if not opened:
                said += self._free()
                break
            body, closed, after = rest.partition(CLOSE)
            call = call_of(body, self._tools) if closed else None
            while self._tools.must_call and CLOSE in after and not call:
                more, _, after = after.partition(CLOSE)  # the tag stood in an argument
                body += CLOSE + more
                call = call_of(body, self._tools)
            if not closed or (self._tools.must_call and not call):
                break
            if call:
                said += before.rstrip()
                calls.append(call)
                self.calls += 1
                self._held = after
            else:
                said += before + OPEN + body + CLOSE
                self._held = after
        return Said(said, tuple(calls))

    def flush(self) -> Said:
        """What was held back for a tag that never came; a call is whole without its last tag."""
        held, self._held = self._held, ""
        if self.is_done:
            return Said()
        before, opened, body = held.partition(OPEN)
        if opened and (call := call_of(body, self._tools)):
            self.calls += 1
            return Said(before.rstrip(), (call,))
        return Said(held.rstrip() if self.calls and not held.strip() else held)

    def _free(self) -> str:
        """The beginning of what is held that belongs to no call."""
        end = len(self._held) - overlap(self._held, OPEN)
        free = self._held[:end].rstrip()
        self._held = self._held[len(free) :]
        return free


def call_of(body: str, tools: Tools) -> ToolCall | None:
    """What stands between the tags -> a call of one of the tools; None where it is none."""
    if "<function=" in body:
        name, arguments = _xml(body, tools)
    else:
        name, arguments = _json(body)
    known = {tool.name for tool in tools.tools}
    if name not in known or not NAME.fullmatch(name) or arguments is None:
        return None
    text = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name, text, f"call_{secrets.token_hex(12)}")


def _json(body: str) -> tuple[str, dict[str, Any] | None]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "", None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return "", None
    arguments = found.get("arguments", {})
    return found["name"], arguments if isinstance(arguments, dict) else None


def _xml(body: str, tools: Tools) -> tuple[str, dict[str, Any] | None]:
    found = _FUNCTION.fullmatch(body)
    if found is None:
        return "", None
    name = found[1]
    tool = next((one for one in tools.tools if one.name == name), None)
    schemas = (tool.parameters.get("properties") if tool else None) or {}
    values = {
        key: value.removeprefix("\n").removesuffix("\n")
        for key, value in _PARAMETER.findall(found[2])
    }
    return name, {key: _value(text, schemas.get(key)) for key, text in values.items()}


def _value(text: str, schema: Any) -> Any:
    """A parameter as its schema has it: texts as they stand, all else as JSON where it is JSON."""
    if is_text(schema):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
