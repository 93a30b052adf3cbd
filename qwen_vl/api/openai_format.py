"""Answers of this project -> the objects of the OpenAI chat format.

Knows no HTTP, server or engine; the way in (requests -> messages) is `messages`.

Source: the OpenAI API reference, "Chat Completions". Three more kinds of field, which clients
ignore unless they know them: `ttft_s`, `tokens_per_s`, `frames_s` and `damaged_s` in the usage,
`native_finish_reason`, and thoughts as `reasoning_content` (DeepSeek's and vLLM's name) and
`reasoning` (OpenRouter's).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen_vl.api.logprobs import logprobs_object
from qwen_vl.schema import CallPiece, Chunk, ToolCall, Usage, joined_calls


@dataclass(frozen=True)
class ClipFacts:
    """What the clips of a request gave: the times of frames, and stretches that were damaged."""

    frames_s: tuple[float, ...] = ()
    damaged_s: tuple[tuple[float, float], ...] = ()
    compact: bool = False  # whether two frames shared their tokens


@dataclass(frozen=True)
class Completion:
    """The answers of `model` to one request: the fields that all their objects share."""

    model: str
    include_usage: bool = False  # of streams; a whole answer always has it
    clips: ClipFacts = ClipFacts()
    tells_logprobs: bool = False
    choices: int = 1
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))  # Unix time in seconds

    def whole(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        """All chunks of all answers -> a `chat.completion`."""
        choices = [self._choice(chunks, number) for number in range(self.choices)]
        return self._object("chat.completion", choices, usage=self._usage(chunks[-1]))

    def _choice(self, all_chunks: Sequence[Chunk], number: int) -> dict[str, Any]:
        chunks = [chunk for chunk in all_chunks if chunk.choice == number]
        thought = _thought("".join(chunk.thought for chunk in chunks))
        text = "".join(chunk.text for chunk in chunks)
        calls = joined_calls(piece for chunk in chunks for piece in chunk.calls)
        message: dict[str, Any] = {"role": "assistant", "content": text, **thought}
        if calls:
            message["content"] = text or None
            message["tool_calls"] = [_call(call) for call in calls]
        told = [token for chunk in chunks for token in chunk.logprobs]
        logprobs = logprobs_object(told) if self.tells_logprobs else None
        end = finish_of(chunks[-1])
        return {"index": number, "message": message, "logprobs": logprobs, **end}

    def opening(self) -> list[dict[str, Any]]:
        """The first `chat.completion.chunk`s of a stream; they say whose turn it is."""
        opening = {"role": "assistant", "content": ""}
        return [self._piece(number, opening) for number in range(self.choices)]

    def pieces(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """One chunk -> the `chat.completion.chunk`s that carry its thought, text, end and usage."""
        if chunk.thought:
            yield self._piece(chunk.choice, _thought(chunk.thought))
        if chunk.text:
            told = {"logprobs": logprobs_object(chunk.logprobs)} if self.tells_logprobs else {}
            yield self._piece(chunk.choice, {"content": chunk.text}, **told)
        for piece in chunk.calls:
            yield from self._call_pieces(chunk.choice, piece)
        if chunk.finish_reason:
            yield self._piece(chunk.choice, {}, **finish_of(chunk))
            if self.include_usage and chunk.usage is not None:
                yield self._object("chat.completion.chunk", [], usage=self._usage(chunk))

    def _call_pieces(self, number: int, piece: CallPiece) -> Iterator[dict[str, Any]]:
        """A call's name first, then its arguments, as OpenAI sends them."""
        if piece.name:
            named = _call(ToolCall(piece.name, "", piece.id))
            yield self._piece(number, {"tool_calls": [{"index": piece.index, **named}]})
        if piece.arguments:
            told = {"index": piece.index, "function": {"arguments": piece.arguments}}
            yield self._piece(number, {"tool_calls": [told]})

    def _usage(self, chunk: Chunk) -> dict[str, Any] | None:
        usage = usage_object(chunk.usage)
        return None if usage is None else {**usage, **clip_fields(self.clips)}

    def _piece(self, number: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "finish_reason": None, **more}
        # Clients that ask for the usage find the field in every object, null but in the last.
        usage = {"usage": None} if self.include_usage else {}
        return self._object("chat.completion.chunk", [choice], **usage)

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}


def clip_fields(clips: ClipFacts) -> dict[str, Any]:
    """What a usage tells of clips; nothing where there were none."""
    told: dict[str, Any] = {}
    if clips.frames_s:
        told["frames_s"] = list(clips.frames_s)
    if clips.damaged_s:
        told["damaged_s"] = [list(stretch) for stretch in clips.damaged_s]
    return told | ({"compact": True} if clips.compact else {})


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _thought(text: str) -> dict[str, str]:
    return {"reasoning_content": text, "reasoning": text} if text else {}


def finish_of(chunk: Chunk) -> dict[str, str]:
    """OpenAI has no word for an answer cut short by time or by its server: that is "length".

    `native_finish_reason` (OpenRouter's field) keeps the engine's own word.
    """
    reason = chunk.finish_reason or "stop"
    told = reason if reason in ("stop", "tool_calls") else "length"
    return {"finish_reason": told, "native_finish_reason": reason}


def usage_object(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": usage.thought_tokens,
            "accepted_prediction_tokens": usage.accepted_tokens,
            "rejected_prediction_tokens": usage.rejected_tokens,
        },
        "ttft_s": usage.ttft_s,
        "tokens_per_s": usage.tokens_per_s,
    }
