"""Sampling presets per model variant.

Figures for Qwen3-VL come from its model cards and README ("Generation Hyperparameters"). The number
of new tokens is this demo's choice: the cards allow far more than a page needs.
"""

from __future__ import annotations

from qwen_vl.config import BUNDLED_MODEL_ID
from qwen_vl.schema import SamplingParams

_GREEDY = SamplingParams(temperature=0.0, top_p=1.0, top_k=0, presence_penalty=0.0)
_INSTRUCT_IMAGES = SamplingParams(temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5)
_INSTRUCT_TEXT = SamplingParams(temperature=1.0, top_p=1.0, top_k=40, presence_penalty=2.0)
_THINKING_IMAGES = SamplingParams(
    temperature=1.0, top_p=0.95, top_k=20, presence_penalty=0.0, max_new_tokens=4096
)
_THINKING_TEXT = SamplingParams(
    temperature=1.0, top_p=0.95, top_k=20, presence_penalty=1.5, max_new_tokens=4096
)
# Qwen2.5 and earlier name no presence penalty; values of their generation_config.json.
_EARLIER = SamplingParams(
    temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05, presence_penalty=0.0
)


def sampling_preset(model_id: str, *, has_images: bool) -> SamplingParams:
    """The recommended parameters of the variant that `model_id` names."""
    name = model_id.lower()
    if BUNDLED_MODEL_ID in name:
        return _GREEDY
    if "thinking" in name:
        return _THINKING_IMAGES if has_images else _THINKING_TEXT
    if "qwen3" in name:
        return _INSTRUCT_IMAGES if has_images else _INSTRUCT_TEXT
    return _EARLIER


TIMELINE_PROMPT = "Summarise as a timeline."  # the bundled model was trained on this sentence


def timeline_prompt(model_id: str) -> str:
    """Asks for one line per event with its time; larger models are told the form as well."""
    if BUNDLED_MODEL_ID in model_id.lower():
        return TIMELINE_PROMPT
    return (
        f"{TIMELINE_PROMPT} Write one line per event and begin each line with its time in seconds, "
        'like "12.0 s: what happens". Write nothing else.'
    )
