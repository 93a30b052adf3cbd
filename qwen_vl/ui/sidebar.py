"""The sidebar: system prompt, sampling and image detail, shared by both tabs.

Knows sampling; knows nothing of engines or conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from qwen_vl.config import Settings
from qwen_vl.sampling import params_from
from qwen_vl.schema import Family, SamplingParams
from qwen_vl.ui.strings import label

MIN_IMAGE_TOKENS = 16
RANDOM_SEED = -1


@dataclass(frozen=True)
class Sidebar:
    """The components, in the order in which handlers take their values."""

    system_prompt: gr.Textbox
    temperature: gr.Slider
    top_p: gr.Slider
    top_k: gr.Slider
    repetition_penalty: gr.Slider
    presence_penalty: gr.Slider
    max_new_tokens: gr.Slider
    seed: gr.Number
    image_tokens: gr.Slider
    reset: gr.Button

    @property
    def inputs(self) -> list[Any]:
        """What an answer is made with: system prompt, the sampling values, seed, image detail."""
        return [self.system_prompt, *self.preset_outputs, self.seed, self.image_tokens]

    @property
    def preset_outputs(self) -> list[Any]:
        return [
            self.temperature,
            self.top_p,
            self.top_k,
            self.repetition_penalty,
            self.presence_penalty,
            self.max_new_tokens,
        ]


def preset_values(family: Family, has_images: bool, settings: Settings) -> list[float]:
    """The recommended values, in the order of `Sidebar.preset_outputs`."""
    preset = family.preset(has_images=has_images)
    return [
        preset.temperature,
        preset.top_p,
        preset.top_k,
        preset.repetition_penalty,
        preset.presence_penalty,
        min(preset.max_new_tokens, settings.max_new_tokens),
    ]


def params_of(values: Sequence[float | None], settings: Settings) -> SamplingParams:
    """The values of `Sidebar.inputs` after the system prompt -> checked parameters.

    Raises BadRequest or TooLarge for values a page would never send.
    """
    names = (
        "temperature",
        "top_p",
        "top_k",
        "repetition_penalty",
        "presence_penalty",
        "max_tokens",
        "seed",
        "max_image_tokens",
    )
    raw = dict(zip(names, values, strict=True))
    if raw["seed"] is not None and raw["seed"] < 0:
        raw["seed"] = None
    return params_from(raw, SamplingParams(), settings)


def lay_out(settings: Settings, family: Family) -> Sidebar:
    """Builds the sidebar inside the current Blocks, with what is recommended for `family`.

    Without Gradio's own reset buttons: they know the values of the default model only.
    """
    start = preset_values(family, True, settings)
    with gr.Sidebar(position="right", open=False, width=320, elem_id="sidebar"):
        gr.Markdown(label("settings"), elem_classes="sidebar-title")
        system_prompt = gr.Textbox(
            settings.system_prompt,
            label=label("system_prompt"),
            placeholder=label("system_hint"),
            lines=3,
            max_lines=8,
            elem_id="system-prompt",
        )
        image_tokens = gr.Slider(
            min(MIN_IMAGE_TOKENS, settings.image_tokens),
            settings.max_image_tokens,
            settings.image_tokens,
            step=16,
            label=label("image_tokens"),
            info=label("image_tokens_info"),
            elem_id="image-tokens",
            buttons=[],
        )
        temperature = gr.Slider(
            0,
            2,
            start[0],
            step=0.05,
            label=label("temperature"),
            info=label("temperature_info"),
            elem_id="temperature",
            buttons=[],
        )
        top_p = gr.Slider(
            0, 1, start[1], step=0.01, label=label("top_p"), elem_id="top-p", buttons=[]
        )
        top_k = gr.Slider(
            0, 200, start[2], step=1, label=label("top_k"), elem_id="top-k", buttons=[]
        )
        repetition = gr.Slider(
            0.5,
            2,
            start[3],
            step=0.01,
            label=label("repetition_penalty"),
            elem_id="repetition-penalty",
            buttons=[],
        )
        presence = gr.Slider(
            -2,
            2,
            start[4],
            step=0.1,
            label=label("presence_penalty"),
            elem_id="presence-penalty",
            buttons=[],
        )
        max_new = gr.Slider(
            1,
            settings.max_new_tokens,
            start[5],
            step=1,
            label=label("max_new_tokens"),
            elem_id="max-new-tokens",
            buttons=[],
        )
        seed = gr.Number(RANDOM_SEED, precision=0, label=label("seed"), elem_id="seed")
        reset = gr.Button(label("reset"), size="sm", elem_id="reset-sampling")
    return Sidebar(
        system_prompt,
        temperature,
        top_p,
        top_k,
        repetition,
        presence,
        max_new,
        seed,
        image_tokens,
        reset,
    )
