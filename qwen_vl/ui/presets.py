"""The two choices in front of the expert values: how an answer is sampled, and how sharp pictures
are read.

Knows what the model's family recommends and where the model ends; knows nothing of components.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from qwen_vl.config import Settings
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import EngineStatus

Style = Literal["precise", "balanced", "creative"]
Detail = Literal["fast", "balanced", "fine"]
STYLES: tuple[Style, ...] = get_args(Style)
DETAILS: tuple[Detail, ...] = get_args(Detail)  # the cheapest first

# The fields in which styles differ.
STYLED = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty")
FAST_IMAGE_TOKENS = 256  # Qwen's recommendation is 256 to 1280
CREATIVE_TEMPERATURE = 1.0
PRECISE_THOUGHT_TEMPERATURE = 0.6  # Qwen's for exact work: greedy thoughts go round in circles
FRAME_TOKENS = 128
MOST_FRAME_TOKENS = 1024  # a clip has many frames
LEAST_FRAME_TOKENS = 32
FRAME_TOKENS_STEP = 16


def styled(recommended: SamplingParams, style: Style, thinks: bool = False) -> SamplingParams:
    """What a family recommends ("balanced"), with less or more freedom.

    "precise" is greedy, and without penalties on what was said before: numbers and table cells
    repeat. "creative" picks from more tokens. `thinks`: whether a thought comes first.
    """
    if style == "precise" and thinks:
        temperature = min(PRECISE_THOUGHT_TEMPERATURE, recommended.temperature)
        return replace(
            recommended, temperature=temperature, presence_penalty=0.0, frequency_penalty=0.0
        )
    if style == "precise":
        return replace(
            recommended,
            temperature=0.0,
            top_p=1.0,
            top_k=0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
        )
    if style == "creative":
        return replace(
            recommended,
            temperature=max(CREATIVE_TEMPERATURE, recommended.temperature),
            top_p=0.95,
            top_k=max(40, recommended.top_k),
        )
    return recommended


def limits(settings: Settings, status: EngineStatus) -> dict[str, int]:
    """Where the sliders of these names end: beyond, nothing changes with the model that runs."""
    of_picture = min(
        settings.max_image_tokens, status.most_image_tokens or settings.max_image_tokens
    )
    context = status.most_tokens(settings.max_context_tokens)
    return {
        "max_image_tokens": of_picture,
        "frame_tokens": min(MOST_FRAME_TOKENS, of_picture),
        "max_new_tokens": min(settings.max_new_tokens, context),
    }


def lower_detail(tokens: int, settings: Settings, status: EngineStatus) -> Detail | None:
    """The next preset that gives a picture fewer visual tokens than these; None if none does."""
    lower = [one for one in DETAILS if image_tokens(one, settings, status) < tokens]
    return lower[-1] if lower else None


def lower_frame_tokens(tokens: int) -> int | None:
    """About half as many visual tokens per frame; None where there are no fewer."""
    half = tokens // 2 // FRAME_TOKENS_STEP * FRAME_TOKENS_STEP
    fewer = max(LEAST_FRAME_TOKENS, half)
    return fewer if fewer < tokens else None


def image_tokens(detail: Detail, settings: Settings, status: EngineStatus) -> int:
    """The most visual tokens per picture for this detail."""
    most = limits(settings, status)["max_image_tokens"]
    usual = settings.image_tokens_or(status.image_tokens)
    wished = {"fast": min(FAST_IMAGE_TOKENS, usual), "balanced": usual, "fine": most}[detail]
    return min(wished, most)
