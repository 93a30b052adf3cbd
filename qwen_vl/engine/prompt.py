"""Messages -> token ids, pictures and positions, in the format the checkpoint was trained on.

The chat template comes with the checkpoint; an image is one placeholder there, which is repeated
here once per visual token. Text from users is tokenised with control tokens taken apart, so a typed
`<|im_end|>` ends nothing. Frames of a clip get their time before them: `<12.3 seconds>`, the form
of Qwen's cookbook for frames that were chosen by hand.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qwen_vl.errors import BadRequest, Unsupported
from qwen_vl.media import content_hash
from qwen_vl.schema import ImagePart, Message, Part


@dataclass(frozen=True)
class Picture:
    """One processed picture: `pixels` [patches, patch values], `grid` (1, rows, columns)."""

    pixels: torch.Tensor
    grid: torch.Tensor
    content: str  # hash of what the model sees: equal-size pictures have equal token ids
    tokens: int


@dataclass(frozen=True)
class Prompt:
    """`token_ids` of the whole prompt, ready for prefill."""

    token_ids: list[int]
    pictures: list[Picture]

    @property
    def picture_bytes(self) -> int:
        return sum(picture.pixels.nbytes for picture in self.pictures)


class PromptBuilder:
    """Holds a tokenizer and an image processor (None: the model reads text only)."""

    def __init__(self, tokenizer: Any, image_processor: Any, image_token_id: int | None) -> None:
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._image_token_id = image_token_id
        self._lock = threading.Lock()  # a fast tokenizer is not safe to share between threads

    def build(self, messages: Sequence[Message], max_image_tokens: int) -> Prompt:
        """Raises Unsupported for pictures that the model cannot read."""
        images = [part for message in messages for part in message.images]
        if images and self._image_processor is None:
            raise Unsupported(
                "This model reads text only: remove the pictures, or start the server with a "
                "vision model such as Qwen/Qwen3-VL-2B-Instruct."
            )
        pictures = [self._picture(part, max_image_tokens) for part in images]
        template = [self._template_message(message) for message in messages]
        with self._lock:
            token_ids = self._tokenizer.apply_chat_template(
                template,
                add_generation_prompt=True,
                sanitize_control_tokens=True,
                return_dict=True,
            )["input_ids"]
        return Prompt(self._expanded(token_ids, pictures), pictures)

    def _template_message(self, message: Message) -> dict[str, Any]:
        if self._image_processor is None or message.role != "user":
            return {"role": message.role, "content": message.text}
        content = [item for part in message.parts for item in _template_parts(part)]
        return {"role": message.role, "content": content}

    def _picture(self, part: ImagePart, max_image_tokens: int) -> Picture:
        processor = self._image_processor
        side = processor.patch_size * processor.merge_size  # px of one visual token
        largest = min(max_image_tokens * side**2, int(processor.size["longest_edge"]))
        size = {
            "shortest_edge": min(int(processor.size["shortest_edge"]), largest),
            "longest_edge": largest,
        }
        try:
            out = processor(part.image, size=size, return_tensors="pt")
        except ValueError as error:  # over 200 times as long as wide
            raise BadRequest(f"This picture cannot be read by the model: {error}") from error
        grid = out["image_grid_thw"]
        tokens = int(grid.prod()) // processor.merge_size**2
        content = f"{content_hash(part.image)}:{tuple(grid[0].tolist())}"
        return Picture(out["pixel_values"], grid, content, tokens)

    def _expanded(self, token_ids: list[int], pictures: list[Picture]) -> list[int]:
        counts = iter(picture.tokens for picture in pictures)
        out: list[int] = []
        for token in token_ids:
            out.extend([token] * (next(counts) if token == self._image_token_id else 1))
        return out


def _template_parts(part: Part) -> list[dict[str, str]]:
    if isinstance(part, ImagePart):
        stamp = [] if part.time_s is None else [_text(f"<{part.time_s:.1f} seconds>")]
        return [*stamp, {"type": "image"}]
    return [_text(part.text)]


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
