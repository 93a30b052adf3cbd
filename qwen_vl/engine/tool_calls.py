"""The text of an answer -> what it says, and the calls of tools in it, piece by piece.

Qwen's models write `<tool_call>`, the call as JSON or as XML, and `</tool_call>`. The tags come in
pieces, and the last one may never come. A call is told from the moment its tool is known; what
names no tool stays text. Knows text only.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import NamedTuple

from qwen_vl.engine.call_arguments import Arguments, JsonArguments, XmlArguments
from qwen_vl.engine.thoughts import overlap
from qwen_vl.schema import CallPiece
from qwen_vl.tools import TAGS, Tool, Tools

OPEN, CLOSE = TAGS
_JSON_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"arguments"\s*:\s*(?=\{)')
_XML_HEAD = re.compile(r"\s*<function=([^>\n]+)>")


class Said(NamedTuple):
    """What one step adds to the text and to the calls; either may be empty."""

    text: str = ""
    calls: tuple[CallPiece, ...] = ()


class CallSplitter:
    """Splits one answer, piece by piece.

    Holds back what may be the beginning of a call, and the blanks before it.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = {tool.name: tool for tool in tools.tools}
        self._repeats = tools.repeats
        self._held = ""
        self._before: str | None = None  # the text before a tag, while it may begin a call
        self._arguments: Arguments | None = None  # of the call that is being written
        self._text, self._pieces = "", list[CallPiece]()  # what one step has told so far
        self._ended = 0  # calls
        self.calls = 0  # begun so far

    @property
    def is_done(self) -> bool:
        """Whether the answer has made the one call that it may make."""
        return self._ended > 0 and not self._repeats

    def push(self, text: str) -> Said:
        self._held += text
        while not self.is_done and self._goes_on():
            pass
        return self._told()

    def flush(self) -> Said:
        """What was held back for a tag that never came; a call is whole without its last tag."""
        held, self._held = self._held, ""
        if self.is_done:
            return Said()
        if self._arguments is not None:
            self._piece(self._arguments.end())
            self._arguments = None
        elif self._before is not None:
            before, self._before = self._before, None
            if not self._call_of(held, before):
                self._text += before + OPEN + held
        elif not (self.calls and not held.strip()):
            self._text += held
        return self._told()

    def _told(self) -> Said:
        told = Said(self._text, tuple(self._pieces))
        self._text, self._pieces = "", []
        return told

    def _goes_on(self) -> bool:
        """Takes one step; False where more text is needed."""
        if self._arguments is not None:
            return self._in_call(self._arguments)
        if self._before is not None:
            return self._at_head(self._before)
        before, opened, rest = self._held.partition(OPEN)
        if opened:
            self._before, self._held = before, rest
            return True
        end = len(self._held) - overlap(self._held, OPEN)
        free = self._held[:end].rstrip()
        self._text += free
        self._held = self._held[len(free) :]
        return False

    def _at_head(self, before: str) -> bool:
        head = _JSON_HEAD.match(self._held) or _XML_HEAD.match(self._held)
        tool = self._tools.get(head[1]) if head else None
        if head and tool:
            self._begin(tool, before)
            is_json = head.re is _JSON_HEAD
            self._arguments = JsonArguments() if is_json else XmlArguments(tool)
            self._held, self._before = self._held[head.end() :], None
            return True
        body, closed, after = self._held.partition(CLOSE)
        if not closed:
            return False
        if not self._call_of(body, before):
            self._text += before + OPEN + body + CLOSE
        self._held, self._before = after, None
        return True

    def _in_call(self, arguments: Arguments) -> bool:
        told, self._held = arguments.push(self._held)
        self._piece(told)
        if not arguments.is_whole or CLOSE not in self._held:
            return False
        self._held = self._held.partition(CLOSE)[2]
        self._arguments, self._ended = None, self._ended + 1
        return True

    def _call_of(self, body: str, before: str) -> bool:
        """Whether a whole body, in JSON of another order or without arguments, is a call."""
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return False
        found = found if isinstance(found, dict) else {}
        name, arguments = found.get("name"), found.get("arguments", {})
        tool = self._tools.get(name) if isinstance(name, str) else None
        if tool is None or not isinstance(arguments, dict):
            return False
        self._begin(tool, before)
        self._piece(json.dumps(arguments, ensure_ascii=False))
        self._ended += 1
        return True

    def _begin(self, tool: Tool, before: str) -> None:
        self._text += before.rstrip()
        made = CallPiece(self.calls, name=tool.name, id=f"call_{secrets.token_hex(12)}")
        self._pieces.append(made)
        self.calls += 1

    def _piece(self, arguments: str) -> None:
        if arguments:
            self._pieces.append(CallPiece(self.calls - 1, arguments))
