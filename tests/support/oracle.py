"""Plain transformers as the judge: prompts written out by hand, answers from `model.generate`.

Shares nothing with `qwen_vl` but the message vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)

from qwen_vl.schema import ImagePart, Message

Bias = Sequence[tuple[int, float]]


class Oracle:
    """Answers like a model card's example would: float32, greedy, one prompt at a time."""

    def __init__(self, folder: Path, answer_start: str = "") -> None:
        self.answer_start = answer_start  # what the prompt of an answer ends with
        self.has_vision = hasattr(AutoConfig.from_pretrained(folder), "vision_config")
        loader = AutoModelForImageTextToText if self.has_vision else AutoModelForCausalLM
        self.model = loader.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.image_processor = (
            AutoImageProcessor.from_pretrained(folder, backend="pil") if self.has_vision else None
        )

    def prompt(self, messages: Sequence[Message]) -> str:
        """Qwen's chat format; an image is a single `<|image_pad|>`."""
        text = ""
        for message in messages:
            text += f"<|im_start|>{message.role}\n"
            for part in message.parts:
                if isinstance(part, ImagePart):
                    stamp = "" if part.time_s is None else f"<{part.time_s:.1f} seconds>"
                    text += f"{stamp}<|vision_start|><|image_pad|><|vision_end|>"
                else:
                    text += part.text
            text += "<|im_end|>\n"
        return text + "<|im_start|>assistant\n" + self.answer_start

    @torch.inference_mode()
    def goes_on(self, text: str, max_new_tokens: int) -> str:
        """What follows a text without any template."""
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"]])
        mask = torch.ones_like(ids)
        out = self.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False
        )
        return self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)

    @torch.inference_mode()
    def logprobs(self, messages: Sequence[Message], token_ids: Sequence[int]) -> torch.Tensor:
        """[tokens, vocabulary]: of each next token of an answer to a conversation of texts."""
        prompt = self.tokenizer(self.prompt(messages), add_special_tokens=False)["input_ids"]
        logits = self.model(input_ids=torch.tensor([[*prompt, *token_ids]])).logits[0]
        return logits[len(prompt) - 1 : -1].float().log_softmax(-1)

    @torch.inference_mode()
    def answer(
        self, messages: Sequence[Message], max_new_tokens: int, bias: Bias = ()
    ) -> list[int]:
        """The generated token ids, without the end token. `bias` is added to tokens' logits."""
        text = self.prompt(messages)
        images = [part.image for message in messages for part in message.images]
        inputs: dict[str, torch.Tensor] = {}
        if images:
            processed = self.image_processor(images, return_tensors="pt")
            merge = self.image_processor.merge_size**2
            pieces = text.split("<|image_pad|>")
            text = pieces[0]
            for piece, grid in zip(pieces[1:], processed["image_grid_thw"], strict=True):
                text += "<|image_pad|>" * (int(grid.prod()) // merge) + piece
            inputs.update(processed)
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"]])
        if self.has_vision:
            pad = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
            inputs["mm_token_type_ids"] = (ids == pad).int()
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            sequence_bias={(token,): value for token, value in bias} or None,
            **inputs,
        )
        end = self.tokenizer.eos_token_id
        return [int(token) for token in out[0, ids.shape[1] :] if int(token) != end]

    def text(self, messages: Sequence[Message], max_new_tokens: int, bias: Bias = ()) -> str:
        return self.tokenizer.decode(
            self.answer(messages, max_new_tokens, bias), skip_special_tokens=True
        )
