"""One response as it is written: what a stream says of it, event by event, and the whole of it.

A whole answer is a stream that nobody reads but for its end, so both say the same. Knows chunks and
OpenAI's format; nothing of HTTP or engines.

Source: the OpenAI API reference, "Responses", "Streaming events".
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from qwen_vl.api.logprobs import logprobs_object
from qwen_vl.api.openai_format import ClipFacts, clip_fields
from qwen_vl.api.responses.output import Called, Event, Item, ItemStatus, Said, Thought
from qwen_vl.errors import UserError
from qwen_vl.schema import Chunk, FinishReason, Message, TextPart, ToolCall, Usage

_STATUS = {"stop": "completed", "tool_calls": "completed", "cancelled": "cancelled"}


class Record:
    """A response under way."""

    def __init__(
        self,
        fields: Mapping[str, Any],
        clips: ClipFacts,
        when_ended: Callable[[Record], None],
        *,
        tells_summary: bool = False,
    ) -> None:
        """`fields` are those that do not change, the model's name among them.

        `when_ended` is called before anybody learns that the response has ended.
        """
        self.id = f"resp_{secrets.token_hex(24)}"
        self._clips, self._when_ended, self._tells_summary = clips, when_ended, tells_summary
        self._number = 0  # of events so far
        self._items: list[Item] = []
        self._calls: list[Called] = []  # of the items
        self._fields: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "background": False,
            "service_tier": "default",
            "usage": None,
            **fields,
        }

    @property
    def told(self) -> dict[str, Any]:
        """The response as it is now."""
        return {**self._fields, "output": [item.object for item in self._items]}

    @property
    def message(self) -> Message:
        """The turn of the model in the conversation."""
        said = "".join(item.text for item in self._items if isinstance(item, Said))
        thought = "".join(item.text for item in self._items if isinstance(item, Thought))
        calls = tuple(ToolCall(one.name, one.text, one.call_id) for one in self._calls)
        return Message("assistant", (TextPart(said),) if said else (), thought, calls)

    @property
    def item_ids(self) -> frozenset[str]:
        return frozenset(item.id for item in self._items)

    def opening(self) -> list[Event]:
        """The first events of a stream."""
        kinds = ("response.created", "response.in_progress")
        return [self._numbered({"type": kind, "response": self.told}) for kind in kinds]

    def events(self, chunk: Chunk) -> Iterator[Event]:
        """What a stream says of one chunk."""
        for event in self._told_of(chunk):
            yield self._numbered(event)

    def failed(self, error: UserError) -> Iterator[Event]:
        """What a stream says last when it breaks off."""
        if self._under_way is not None:
            for event in self._under_way.end("incomplete"):
                yield self._numbered(event)
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        code = "rate_limit_exceeded" if error.status == 429 else code
        self._fields |= {"status": "failed", "error": {"code": code, "message": str(error)}}
        yield self._numbered({"type": "response.failed", "response": self.told})

    def whole(self, chunks: list[Chunk]) -> dict[str, Any]:
        """All chunks of an answer -> the response."""
        for chunk in chunks:
            for _ in self.events(chunk):
                pass
        return self.told

    def _told_of(self, chunk: Chunk) -> Iterator[Event]:
        if chunk.thought:
            if not isinstance(self._under_way, Thought):
                index = len(self._items)
                yield from self._begin(Thought(index, is_summary=self._tells_summary))
            assert isinstance(self._under_way, Thought)
            yield from self._under_way.grow(chunk.thought)
        if chunk.text:
            yield from self._say(chunk)
        for piece in chunk.calls:
            if piece.name:
                self._calls.append(Called(len(self._items), piece.name, piece.id))
                yield from self._begin(self._calls[-1])
            yield from self._calls[piece.index].grow(piece.arguments)
        if chunk.finish_reason:
            yield from self._end(chunk.finish_reason, chunk.usage)

    @property
    def _under_way(self) -> Item | None:
        return self._items[-1] if self._items else None

    def _say(self, chunk: Chunk) -> Iterator[Event]:
        if not isinstance(self._under_way, Said):
            yield from self._begin(Said(len(self._items)))
        assert isinstance(self._under_way, Said)
        yield from self._under_way.grow(chunk.text, logprobs_object(chunk.logprobs)["content"])

    def _begin(self, item: Item) -> Iterator[Event]:
        if self._under_way is not None:
            yield from self._under_way.end("completed")
        self._items.append(item)
        yield from item.begin()

    def _end(self, reason: FinishReason, usage: Usage | None) -> Iterator[Event]:
        status = _STATUS.get(reason, "incomplete")
        if self._under_way is None:  # an answer without a word
            yield from self._say(Chunk())
        assert self._under_way is not None
        ended: ItemStatus = "completed" if status == "completed" else "incomplete"
        yield from self._under_way.end(ended)
        self._fields |= {"status": status, "native_finish_reason": reason}
        self._fields["usage"] = _usage_object(usage, self._clips)
        if status == "completed":
            self._fields["completed_at"] = int(time.time())
        elif status == "incomplete":
            self._fields["incomplete_details"] = {"reason": "max_output_tokens"}
        self._when_ended(self)
        kind = "response.completed" if status == "completed" else "response.incomplete"
        yield {"type": kind, "response": self.told}

    def _numbered(self, event: Event) -> Event:
        number, self._number = self._number, self._number + 1
        return {**event, "sequence_number": number}


def _usage_object(usage: Usage | None, clips: ClipFacts) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thought_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "ttft_s": usage.ttft_s,
        "tokens_per_s": usage.tokens_per_s,
        **clip_fields(clips),
    }
