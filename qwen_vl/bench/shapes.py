"""Architectures that the benchmark fills with random weights, from the config.json of checkpoints.

Their answers mean nothing, but take as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)


@dataclass(frozen=True)
class Shape:
    """A vision model's architecture; the ids of its control tokens are those of its tokenizer."""

    name: str
    config_class: Any  # of transformers
    model_class: Any
    text: dict[str, Any]
    vision: dict[str, Any]

    def config(self, **ids: int) -> Any:
        return self.config_class(
            text_config=self.text, vision_config=self.vision, tie_word_embeddings=True, **ids
        )


_QWEN3_VL_2B = Shape(
    "Qwen3-VL-2B",
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    {
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    },
    {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "deepstack_visual_indexes": [5, 11, 17],
    },
)


def _qwen3_5(name: str, hidden: int, intermediate: int, vision: dict[str, int]) -> Shape:
    """One of the small ones: every fourth layer is full attention."""
    text = {
        "vocab_size": 248_320,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000_000,
            "partial_rotary_factor": 0.25,
            "mrope_section": [11, 11, 10],
            "mrope_interleaved": True,
        },
    }
    vision = {**vision, "out_hidden_size": hidden}
    return Shape(name, Qwen3_5Config, Qwen3_5ForConditionalGeneration, text, vision)


SHAPES = {
    "2b": _QWEN3_VL_2B,
    "qwen3.5-0.8b": _qwen3_5(
        "Qwen3.5-0.8B",
        1024,
        3584,
        {"depth": 12, "hidden_size": 768, "intermediate_size": 3072, "num_heads": 12},
    ),
    "qwen3.5-2b": _qwen3_5(
        "Qwen3.5-2B",
        2048,
        6144,
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16},
    ),
}
