"""Qwen3-VL's processor for pictures without torchvision, and generation the plain way.

Knows how to load the saved model and ask it. Knows nothing of training or of right answers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)


class PictureProcessor(Qwen3VLProcessor):
    """Qwen3VLProcessor without its video half, which would need torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


class Asked:
    """A loaded model that answers lists of messages, greedily and in float32."""

    def __init__(self, path: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        images = AutoImageProcessor.from_pretrained(path, backend="pil")
        self.processor = PictureProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
        self.model.eval()

    @torch.inference_mode()
    def answer(self, conversations: list[list[dict]], max_new_tokens: int = 400) -> list[str]:
        """The next assistant turn of each conversation, generated as one batch."""
        inputs = self.processor.apply_chat_template(
            [[as_parts(message) for message in messages] for messages in conversations],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        output = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode(new, skip_special_tokens=True)


def as_parts(message: dict) -> dict:
    content = message["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return {"role": message["role"], "content": content}
