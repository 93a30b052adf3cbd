"""Messages -> token ids and the pictures among them, in the format the checkpoint was trained on.

The chat template comes with the checkpoint; an image is one placeholder there, which is repeated
here once per visual token. Control tokens in a user's text are taken apart, so a typed
`<|im_end|>` ends nothing. Neighbouring texts are joined first: the template would join them, and
two halves of a control token would become a real one. Each frame of a clip follows its time,
`<12.3 seconds>`: the form of Qwen's cookbook for frames that were chosen by hand.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwen_vl.engine.model import thinking, tool_turns
from qwen_vl.engine.model.pictures import Picture, PictureReader
from qwen_vl.errors import ContextExceeded, Unsupported
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Family, ImagePart, Message, TextPart, is_raw, without_pairs

TURN_START = "<|im_start|>"  # in front of every turn, in all of Qwen's templates
_AS_IT_STANDS = "{{ messages[0].content }}"
END_TOKENS = 12  # of a prompt, which tell whether it ends inside a thought


@dataclass(frozen=True)
class Prompt:
    """`token_ids` of the whole prompt, and the pictures whose tokens are among them."""

    token_ids: list[int]
    pictures: list[Picture]
    opens_thought: bool = False  # the answer begins inside a thought

    @property
    def picture_bytes(self) -> int:
        """What the pixels of all its pictures take once they are decoded and scaled."""
        return sum(picture.pixel_bytes for picture in self.pictures)


class PromptBuilder:
    """Holds a tokenizer and an image processor (None: the model reads text only)."""

    def __init__(
        self, tokenizer: Any, family: Family, image_processor: Any, image_token_id: int | None
    ) -> None:
        self._tokenizer, self._family = tokenizer, family
        self.end_of_thought: list[int] = tokenizer(
            thinking.closing_of(tokenizer), add_special_tokens=False
        )["input_ids"]
        self.turn_start_id: int = tokenizer.convert_tokens_to_ids(TURN_START)
        self.keeps_answers = thinking.keeps_answers(tokenizer)
        self.reader = PictureReader(image_processor) if image_processor is not None else None
        self._image_token_id = image_token_id
        self._lock = threading.Lock()  # a fast tokenizer is not safe to share between threads

    def build(
        self, messages: Sequence[Message], params: SamplingParams, limit_tokens: int | None = None
    ) -> Prompt:
        """Counts: no picture is decoded.

        An answer at the end is continued. Raises ContextExceeded where the prompt leaves no room
        for an answer in `limit_tokens`, Unsupported for pictures that the model cannot read and
        for wishes about thoughts that it cannot fulfil, and BadRequest for the pictures' shape.
        """
        if is_raw(messages):
            return self._raw(messages[0].text, limit_tokens)
        arguments = thinking.arguments_for(params, self._family, self._tokenizer.chat_template)
        if params.tools is not None:
            arguments["tools"] = tool_turns.definitions_for(params.tools, self._family)
        if not self._family.pairs_frames:
            messages = without_pairs(messages)
        parts = [part for message in messages for part in message.images]
        pictures = [self._counted(part, params.max_image_tokens) for part in parts]
        visual = sum(picture.tokens for picture in pictures)
        _check(visual, limit_tokens)  # by arithmetic alone, before the text costs anything
        template = [
            self._template_message(message)
            for message in tool_turns.as_known(messages, self._family)
        ]
        continued = messages[-1].role == "assistant"
        with self._lock:
            token_ids = self._tokenizer.apply_chat_template(
                template,
                add_generation_prompt=not continued,
                continue_final_message=continued,
                sanitize_control_tokens=True,
                return_dict=True,
                **arguments,
            )["input_ids"]
            end = self._tokenizer.convert_ids_to_tokens(token_ids[-END_TOKENS:])
        _check(len(token_ids) - len(pictures) + visual, limit_tokens)
        opens_thought = thinking.opens_thought("".join(end))
        return Prompt(self._expanded(token_ids, pictures), pictures, opens_thought)

    def _raw(self, text: str, limit_tokens: int | None) -> Prompt:
        """A text without a template; what would be a control token in a conversation is text."""
        template = f"{{% if false %}}{self._tokenizer.chat_template}{{% endif %}}{_AS_IT_STANDS}"
        with self._lock:
            token_ids = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                chat_template=template,
                sanitize_control_tokens=True,
                return_dict=True,
            )["input_ids"]
        _check(len(token_ids), limit_tokens)
        return Prompt(token_ids, [])

    def head(self, system_prompt: str) -> list[int]:
        """The tokens that all prompts with this system prompt begin with, up to the first turn."""
        system = [Message("system", (TextPart(system_prompt),))] if system_prompt else []
        one, other = (
            self.build([*system, Message("user", (TextPart(text),))], SamplingParams()).token_ids
            for text in ("A", "1")
        )
        pairs = zip(one, other, strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
        return one[:same]

    def _counted(self, part: ImagePart, max_image_tokens: int) -> Picture:
        if self.reader is None:
            raise Unsupported(
                "This model reads text only: remove the pictures, or start the server with a "
                "vision model such as Qwen/Qwen3-VL-2B-Instruct."
            )
        return self.reader.count(part, min(max_image_tokens, part.most_tokens or max_image_tokens))

    def _template_message(self, message: Message) -> dict[str, Any]:
        if self.reader is None or (message.role != "user" and not message.images):
            told = {"role": message.role, "content": message.text, **tool_turns.calls_of(message)}
            # Whether a thought is shown again is up to the template.
            return {**told, "reasoning_content": message.thought} if message.thought else told
        return {"role": message.role, "content": _template_parts(message)}

    def _expanded(self, token_ids: list[int], pictures: list[Picture]) -> list[int]:
        if pictures and sum(id_ == self._image_token_id for id_ in token_ids) != len(pictures):
            raise Unsupported("The chat template of this model does not show these pictures.")
        counts = iter(picture.tokens for picture in pictures)
        out: list[int] = []
        for token in token_ids:
            out.extend([token] * (next(counts) if token == self._image_token_id else 1))
        return out


def _check(tokens: int, limit_tokens: int | None) -> None:
    if limit_tokens is not None and tokens >= limit_tokens:
        raise ContextExceeded(
            f"The conversation has {tokens:,} tokens, more than the limit of {limit_tokens:,}: use "
            "fewer or smaller pictures (image detail), or start a new conversation."
        )


def _template_parts(message: Message) -> list[dict[str, str]]:
    """Pictures, and between two of them one text: no two texts stand next to each other."""
    items: list[dict[str, str]] = []
    for part in message.parts:
        if isinstance(part, TextPart):
            _add_text(items, part.text)
            continue
        if part.time_s is not None:
            _add_text(items, f"<{part.time_s:.1f} seconds>")
        items.append({"type": "image"})
    return items


def _add_text(items: list[dict[str, str]], text: str) -> None:
    if items and items[-1]["type"] == "text":
        items[-1]["text"] += text
    else:
        items.append({"type": "text", "text": text})
