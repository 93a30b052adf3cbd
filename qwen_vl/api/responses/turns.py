"""The items of a Responses request -> the messages of a chat request.

Several items are one turn of the model: what it thought, said and called. Looks at the items only;
the parts of their content are read where those of chats are. Knows nothing of HTTP or engines.

Source: the OpenAI API reference, "Responses".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qwen_vl.errors import BadRequest, Unsupported

# An item of an earlier response by its id; None where there is none.
FindItem = Callable[[str], Mapping[str, Any] | None]


@dataclass
class Turns:
    """Messages as chats have them. `places` tells where in the request each of them stood."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    _is_open: bool = False  # whether the last message is a turn of the model that may go on

    def add(self, message: dict[str, Any], place: str, content: str = "content") -> None:
        here = f"messages[{len(self.messages)}]"
        self.places[here] = place
        self.places[f"{here}.content"] = f"{place}.{content}"
        self.messages.append(message)
        self._is_open = False

    def models(self, place: str) -> dict[str, Any]:
        """The turn of the model that is under way, or a new one."""
        if not self._is_open:
            self.add({"role": "assistant", "content": None}, place)
            self._is_open = True
        return self.messages[-1]

    def close_thoughts(self) -> None:
        """Leaves out a turn that was nothing but a thought."""
        last = self.messages[-1] if self._is_open else {"content": ""}
        if last["content"] is None and "tool_calls" not in last:
            self.messages.pop()
        self._is_open = False


def turns_of(raw: Any, find: FindItem) -> Turns:
    """The `input` of a request. Raises BadRequest and Unsupported that name the place."""
    turns = Turns()
    if isinstance(raw, str):
        turns.add({"role": "user", "content": raw}, "input")
        return turns
    if not isinstance(raw, list):
        raise BadRequest("'input' must be a text or a list of items.")
    for i, item in enumerate(raw):
        place = f"input[{i}]"
        if not isinstance(item, Mapping):
            raise BadRequest(f"{place} must be an object.")
        if item.get("type") == "item_reference":
            item = _found(item, place, find)
        _add(turns, item, place)
    turns.close_thoughts()
    return turns


def _found(item: Mapping[str, Any], place: str, find: FindItem) -> Mapping[str, Any]:
    named = item.get("id")
    found = find(named) if isinstance(named, str) else None
    if found is None:
        raise BadRequest(
            f"{place}.id names no item that is stored here, or it has been forgotten: send the "
            "item itself."
        )
    return found


def _add(turns: Turns, item: Mapping[str, Any], place: str) -> None:
    kind = item.get("type") or ("message" if "role" in item else None)
    if kind == "message" and item.get("role") == "assistant":
        _add_said(turns, item, place)
    elif kind == "message":
        turns.close_thoughts()
        check_parts(item.get("content"), f"{place}.content")
        turns.add({"role": item.get("role"), "content": item.get("content")}, place)
    elif kind == "reasoning":
        turn = turns.models(place)
        if turn["content"] is not None or "tool_calls" in turn:  # it thought again
            turns.close_thoughts()
            turn = turns.models(place)
        turn["reasoning_content"] = turn.get("reasoning_content", "") + _thought(item, place)
    elif kind == "function_call":
        _add_call(turns, item, place)
    elif kind == "function_call_output":
        turns.close_thoughts()
        output = item.get("output")
        check_parts(output, f"{place}.output")
        result = {"role": "tool", "tool_call_id": item.get("call_id"), "content": output}
        turns.add(result, place, "output")
    else:
        raise Unsupported(
            f"{place}.type can be message, reasoning, function_call, function_call_output or "
            "item_reference here."
        )


def _add_said(turns: Turns, item: Mapping[str, Any], place: str) -> None:
    turn = turns.models(place)
    if turn["content"] is not None or "tool_calls" in turn:
        turns.close_thoughts()
        turn = turns.models(place)
    check_parts(item.get("content"), f"{place}.content")
    turn["content"] = item.get("content")
    turns.places[f"messages[{len(turns.messages) - 1}].content"] = f"{place}.content"


def _add_call(turns: Turns, item: Mapping[str, Any], place: str) -> None:
    calls = turns.models(place).setdefault("tool_calls", [])
    turns.places[f"messages[{len(turns.messages) - 1}].tool_calls[{len(calls)}]"] = place
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    calls.append({"id": item.get("call_id"), "type": "function", "function": function})


def _thought(item: Mapping[str, Any], place: str) -> str:
    """The thought as it was; or the summary, where a client keeps nothing else."""
    for name in ("content", "summary"):
        parts = item.get(name) or []
        if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
            raise BadRequest(f"{place}.{name} must be a list of parts.")
        texts = [part.get("text") for part in parts]
        if not all(isinstance(text, str) for text in texts):
            raise BadRequest(f"{place}.{name} must be parts with a 'text'.")
        if texts:
            return "\n\n".join(map(str, texts))
    return ""


def check_parts(content: Any, place: str) -> None:
    """Raises Unsupported for parts that only this format has, and that are not read here."""
    for i, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, Mapping):
            continue
        if part.get("type") == "input_file":
            raise Unsupported(
                f"{place}[{i}] is a file, and documents are not read here: send its pages as "
                "pictures (input_image)."
            )
        if part.get("type") == "input_image" and part.get("file_id") is not None:
            raise Unsupported(
                f"{place}[{i}].file_id: this server keeps no files. Send the picture itself as "
                "image_url, a data: URI."
            )
