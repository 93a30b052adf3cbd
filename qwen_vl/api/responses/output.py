"""The items that a response is made of, each with the events that tell how it grows.

Knows OpenAI's format. Knows nothing of chunks, of other items or of HTTP.

Source: the OpenAI API reference, "Streaming events".
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Literal

Event = dict[str, Any]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class Item:
    """One item of the output. `text` is said, thought, or the arguments of a call."""

    _kind, _prefix = "", ""

    def __init__(self, index: int) -> None:
        """`index` is its place in the output."""
        self.id = f"{self._prefix}_{secrets.token_hex(24)}"
        self._index, self._pieces = index, [""]
        self._status: ItemStatus = "in_progress"

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def object(self) -> dict[str, Any]:
        """The item as it is now."""
        return {"id": self.id, "type": self._kind, "status": self._status, **self._fields()}

    def begin(self) -> Iterator[Event]:
        yield self._whole("response.output_item.added")

    def end(self, status: ItemStatus) -> Iterator[Event]:
        self._status = status
        yield self._whole("response.output_item.done")

    def _fields(self) -> dict[str, Any]:
        raise NotImplementedError

    def _whole(self, kind: str) -> Event:
        return {"type": kind, "output_index": self._index, "item": self.object}

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": kind, "item_id": self.id, "output_index": self._index, **fields}


class _Text(Item):
    """An item with one part of text."""

    _place = "content"
    _of_parts, _of_text = "content_part", ""  # what its events are called
    _has_part = False

    def begin(self) -> Iterator[Event]:
        yield from super().begin()
        yield self._of_part(f"{self._of_parts}.added", part=self._part())
        self._has_part = True

    def end(self, status: ItemStatus) -> Iterator[Event]:
        part = self._part()
        done = {name: part[name] for name in ("text", "logprobs") if name in part}
        yield self._of_part(f"{self._of_text}.done", **done)
        yield self._of_part(f"{self._of_parts}.done", part=part)
        yield from super().end(status)

    def _parts(self) -> list[dict[str, Any]]:
        return [self._part()] if self._has_part else []

    def _part(self) -> dict[str, Any]:
        raise NotImplementedError

    def _of_part(self, kind: str, **fields: Any) -> Event:
        return self._event(f"response.{kind}", **{f"{self._place}_index": 0}, **fields)


class Said(_Text):
    """A message of the model."""

    _kind, _prefix = "message", "msg"
    _of_text = "output_text"

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._logprobs: list[Any] = []

    def grow(self, text: str, logprobs: list[Any]) -> Iterator[Event]:
        self._pieces.append(text)
        self._logprobs += logprobs
        if text:
            yield self._of_part("output_text.delta", delta=text, logprobs=logprobs)

    def _fields(self) -> dict[str, Any]:
        return {"role": "assistant", "content": self._parts()}

    def _part(self) -> dict[str, Any]:
        part = {"type": "output_text", "text": self.text, "annotations": []}
        return {**part, "logprobs": self._logprobs}


class Thought(_Text):
    """What the model thought. Where a client asks for summaries it stands in place of one."""

    _kind, _prefix = "reasoning", "rs"

    def __init__(self, index: int, *, is_summary: bool) -> None:
        super().__init__(index)
        self._place = "summary" if is_summary else "content"
        self._of_parts = "reasoning_summary_part" if is_summary else "content_part"
        self._of_text = "reasoning_summary_text" if is_summary else "reasoning_text"

    def grow(self, text: str) -> Iterator[Event]:
        self._pieces.append(text)
        yield self._of_part(f"{self._of_text}.delta", delta=text)

    def _fields(self) -> dict[str, Any]:
        return {"summary": [], "content": [], self._place: self._parts()}

    def _part(self) -> dict[str, Any]:
        kind = "summary_text" if self._place == "summary" else "reasoning_text"
        return {"type": kind, "text": self.text}


class Called(Item):
    """A call of a function."""

    _kind, _prefix = "function_call", "fc"

    def __init__(self, index: int, name: str, call_id: str) -> None:
        super().__init__(index)
        self.name, self.call_id = name, call_id

    def grow(self, arguments: str) -> Iterator[Event]:
        self._pieces.append(arguments)
        if arguments:
            yield self._event("response.function_call_arguments.delta", delta=arguments)

    def end(self, status: ItemStatus) -> Iterator[Event]:
        done = {"name": self.name, "arguments": self.text}
        yield self._event("response.function_call_arguments.done", **done)
        yield from super().end(status)

    def _fields(self) -> dict[str, Any]:
        return {"call_id": self.call_id, "name": self.name, "arguments": self.text}
