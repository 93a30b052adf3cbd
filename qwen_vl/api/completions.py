"""Text completions: prompts that are gone on with as they stand, without a chat template.

Source: the OpenAI API reference, "Completions" (legacy). Knows that format, both ways; knows
nothing of HTTP or engines.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from qwen_vl.api.logprobs import MOST_LIKELIEST
from qwen_vl.api.openai_format import finish_of, usage_object
from qwen_vl.errors import BadRequest, Unsupported
from qwen_vl.sampling import WHOLE, checked, wire_names
from qwen_vl.schema import Chunk, TokenLogprob

DEFAULT_TOKENS = 16  # OpenAI's: a text has no end of its own
_Likeliest = Annotated[int, Field(ge=0, le=MOST_LIKELIEST), WHOLE]
_OF_CHATS = (
    *("messages", "enable_thinking", "reasoning_effort", "thinking_budget", "preserve_thinking"),
    *("chat_template_kwargs", "top_logprobs"),
)


def prompts_of(raw: Mapping[str, Any]) -> list[str]:
    """The texts to go on with. Raises BadRequest and Unsupported that name the field."""
    for name in _OF_CHATS:
        if raw.get(name) is not None:
            raise BadRequest(f"'{name}' is for /v1/chat/completions: leave it out here.")
    if raw.get("suffix"):
        raise Unsupported("'suffix' cannot be kept to: this model goes on with a text alone.")
    if raw.get("best_of") not in (None, raw.get("n") or 1):
        raise Unsupported("'best_of' must be 'n' here: all answers are given.")
    prompt = raw.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not all(isinstance(one, str) and one for one in prompts):
        raise BadRequest("'prompt' must be a text, or a list of texts, none of them empty.")
    if not prompts:
        raise BadRequest("'prompt' must hold at least one text.")
    return prompts


def fields_of(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sampling fields, with this format's own default."""
    asked = {name: value for name, value in raw.items() if name != "logprobs"}
    if all(raw.get(name) is None for name in wire_names("max_new_tokens")):
        asked["max_tokens"] = DEFAULT_TOKENS
    return asked


def logprobs_of(raw: Mapping[str, Any]) -> int | None:
    """How many of the likeliest tokens are asked for; None if nothing is."""
    asked = raw.get("logprobs")
    if asked is None or asked is False:
        return None
    if raw.get("echo"):
        raise Unsupported("'logprobs' with 'echo' cannot be told here: leave one of them out.")
    most: int = checked("logprobs", _Likeliest, asked)
    return most


@dataclass(frozen=True)
class TextCompletion:
    """The answers of `model` to one request. `echoed` are the texts in front of each."""

    model: str
    echoed: Sequence[str]
    include_usage: bool = False  # of streams; a whole answer always has it
    tells_logprobs: bool = False
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))  # Unix time in seconds
    _told: dict[int, int] = field(default_factory=dict)  # characters of each answer so far

    def whole(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        """All chunks of all answers -> a `text_completion`."""
        choices = []
        for number, echoed in enumerate(self.echoed):
            mine = [chunk for chunk in chunks if chunk.choice == number]
            text = "".join(chunk.text for chunk in mine)
            tokens = [token for chunk in mine for token in chunk.logprobs]
            choice = self._choice(number, echoed + text, tokens)
            choices.append({**choice, **finish_of(mine[-1])})
        return self._object(choices, usage=usage_object(chunks[-1].usage))

    def opening(self) -> list[dict[str, Any]]:
        """The first objects of a stream, where the prompt is to be echoed."""
        return [
            self._piece(self._choice(number, echoed))
            for number, echoed in enumerate(self.echoed)
            if echoed
        ]

    def pieces(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """One chunk -> the objects of a stream that carry its text, end and usage."""
        if chunk.text:
            yield self._piece(self._choice(chunk.choice, chunk.text, chunk.logprobs))
        if chunk.finish_reason:
            yield self._piece({**self._choice(chunk.choice, ""), **finish_of(chunk)})
            if self.include_usage and chunk.usage is not None:
                yield self._object([], usage=usage_object(chunk.usage))

    def _choice(
        self, number: int, text: str, tokens: Sequence[TokenLogprob] = ()
    ) -> dict[str, Any]:
        logprobs = self._logprobs(number, tokens) if self.tells_logprobs else None
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, number: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._told.get(number, 0))
            self._told[number] = offsets[-1] + len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {other.text: other.logprob for other in token.likeliest} for token in tokens
            ],
            "text_offset": offsets,
        }

    def _piece(self, choice: dict[str, Any]) -> dict[str, Any]:
        return self._object([choice], **({"usage": None} if self.include_usage else {}))

    def _object(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created}
        return {**head, "model": self.model, "choices": choices, **more}
