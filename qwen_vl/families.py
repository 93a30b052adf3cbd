"""What differs between model families, as data: one row for each `config.model_type`.

The checkpoint's own files decide, never its name. Only where another server runs the model is the
name all there is (`family_by_name`). Sampling presets for Qwen3-VL come from its model cards and
README ("Generation Hyperparameters"). The number of new tokens is this demo's choice: the cards
allow far more than a page needs.
"""

from __future__ import annotations

import re
from dataclasses import replace

from qwen_vl.config import BUNDLED_MODEL_ID
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Family, ToolFormat

GREEDY = SamplingParams(temperature=0.0, top_p=1.0, top_k=0, presence_penalty=0.0)
_THINKING_IMAGES = SamplingParams(
    temperature=1.0, top_p=0.95, top_k=20, presence_penalty=0.0, max_new_tokens=4096
)
_THINKING_TEXT = replace(_THINKING_IMAGES, presence_penalty=1.5)
_SWITCHED_ON = replace(_THINKING_IMAGES, temperature=0.6)

TIMELINE_PROMPT = "Summarise as a timeline."  # the bundled model was trained on this sentence
_TIMELINE_IN_FULL = (
    f"{TIMELINE_PROMPT} Write one line per event and begin each line with its time in seconds, "
    'like "12.0 s: what happens". Write nothing else.'
)

_QWEN3 = Family(
    with_pictures=SamplingParams(temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5),
    text_only=SamplingParams(temperature=1.0, top_p=1.0, top_k=40, presence_penalty=2.0),
    thinking_with_pictures=_SWITCHED_ON,
    thinking_text_only=_SWITCHED_ON,
    timeline_prompt=_TIMELINE_IN_FULL,
)
_QWEN3_5 = replace(
    _QWEN3,
    text_only=SamplingParams(temperature=1.0, top_p=1.0, top_k=20, presence_penalty=2.0),
    pairs_frames=True,
)
_LARGE_ONES_THINK = ("qwen3_5", "qwen4")  # unless told not to, and have a preset of their own
# Qwen2.5 and earlier name no presence penalty; values of their generation_config.json.
_EARLIER_PRESET = SamplingParams(
    temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05, presence_penalty=0.0
)
_EARLIER = replace(_QWEN3, with_pictures=_EARLIER_PRESET, text_only=_EARLIER_PRESET, token_px=28)

FAMILIES = {
    family.name: family
    for family in (
        replace(_QWEN3, name="qwen3_vl", pairs_frames=True),
        replace(_QWEN3, name="qwen3_vl_moe", pairs_frames=True),
        replace(_EARLIER, name="qwen2_5_vl", box_scale="pixels"),
        replace(_EARLIER, name="qwen2_vl"),
        replace(_EARLIER, name="qwen2", sees_pictures=False),
        replace(_EARLIER, name="qwen2_moe", sees_pictures=False),
        replace(_QWEN3, name="qwen3", sees_pictures=False),
        replace(_QWEN3, name="qwen3_moe", sees_pictures=False),
        replace(_QWEN3, name="qwen3_next", sees_pictures=False),
        replace(_QWEN3_5, name="qwen3_5"),
        replace(_QWEN3_5, name="qwen3_5_moe"),
        replace(_QWEN3_5, name="qwen4_exp"),
        replace(_QWEN3_5, name="qwen3_5_text", sees_pictures=False),
        replace(_QWEN3_5, name="qwen3_5_moe_text", sees_pictures=False),
    )
}
DEFAULT = replace(_QWEN3, name="")  # until it is known which model runs
BUNDLED = replace(
    FAMILIES["qwen3_vl"],
    with_pictures=GREEDY,
    text_only=GREEDY,
    timeline_prompt=TIMELINE_PROMPT,
)


def family_of(
    model_type: str, template: str, opens_thought: bool, efforts: tuple[str, ...] = ()
) -> Family:
    """The row of `model_type`, with what the checkpoint's chat template says of it.

    `opens_thought`: whether its prompts end inside a thought. `efforts` are the degrees of thinking
    that it takes. Raises KeyError for a type without a row.
    """
    family = FAMILIES[model_type]
    if "enable_thinking" in template:
        family = replace(family, thinking="switched", opens_thought=opens_thought, efforts=efforts)
        if opens_thought and model_type.startswith(_LARGE_ONES_THINK):
            family = _with_presets(family, _THINKING_TEXT, _THINKING_TEXT)
    elif opens_thought:
        family = _thinking(family)
    return replace(family, tool_format=_tool_format(template))


def _thinking(family: Family) -> Family:
    """One that always thinks, from its first token on."""
    family = _with_presets(family, _THINKING_IMAGES, _THINKING_TEXT)
    return replace(family, thinking="always", opens_thought=True)


def _with_presets(family: Family, pictures: SamplingParams, text: SamplingParams) -> Family:
    return replace(family, thinking_with_pictures=pictures, thinking_text_only=text)


def _tool_format(template: str) -> ToolFormat:
    if "<tool_call>" not in template:
        return "none"
    return "xml" if "<function=" in template else "json"


# Names as the hubs write them, the special before the general.
_NAMES = (
    ("qwen3vl", "qwen3_vl"),
    ("qwen25vl", "qwen2_5_vl"),
    ("qwen2vl", "qwen2_vl"),
    ("qwen3next", "qwen3_next"),
    ("qwen3", "qwen3"),
    ("qwen2", "qwen2"),
    ("qwen1", "qwen2"),
)
# Here the dot counts: Qwen3.8 is not Qwen3-8B.
_SINCE_3_5 = re.compile(r"qwen3[._][568]")


def family_by_name(model_id: str) -> Family:
    """A guess by a model's name: the last resort, for models that another server runs.

    Pictures are never ruled out by a name. That server refuses them if it must.
    """
    if BUNDLED_MODEL_ID in model_id.lower():
        return BUNDLED
    name = re.sub(r"[^a-z0-9]", "", model_id.lower())
    if _SINCE_3_5.search(model_id.lower()):
        model_type = "qwen3_5"
    else:
        model_type = next((found for part, found in _NAMES if part in name), "")
    family = replace(FAMILIES.get(model_type, DEFAULT), sees_pictures=True)
    return _thinking(family) if "thinking" in name else family
