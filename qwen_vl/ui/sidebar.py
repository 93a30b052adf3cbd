"""The sidebar: presets, system prompt and sampling, shared by both tabs.

One control for each field of `sampling` that has one, folded away behind the presets. Knows nothing
of engines or conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from qwen_vl.config import USUAL_IMAGE_TOKENS, Settings
from qwen_vl.sampling import (
    EFFORTS,
    FIELDS,
    Control,
    SamplingParams,
    control_of,
    params_from,
    range_of,
    wire_names,
)
from qwen_vl.schema import EngineStatus, Family
from qwen_vl.ui.presets import (
    DETAILS,
    FRAME_TOKENS,
    STYLES,
    Style,
    image_tokens,
    limits,
    styled,
)
from qwen_vl.ui.strings import EN, label

MIN_IMAGE_TOKENS = 16
RANDOM_SEED = -1
SHOWN = tuple(name for name in FIELDS if control_of(name))
# A visitor's own words and wishes are no part of what is recommended.
THINKING = ("enable_thinking", "reasoning_effort")  # shown where the model has them
_OWN = ("seed", "stop", "max_image_tokens", *THINKING)
PRESET = tuple(name for name in SHOWN if name not in _OWN)


@dataclass(frozen=True)
class Knobs:
    """What a visitor has set for the next answer: `sampling` maps fields to controls' values."""

    system_prompt: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def params(self, settings: Settings, family: Family) -> SamplingParams:
        """Checked parameters for a model of this family.

        Raises BadRequest or TooLarge for what a page would never send.
        """
        raw = {wire_names(name)[-1]: value for name, value in self.sampling.items()}
        if family.thinking != "switched":  # nothing to choose: the controls are hidden
            raw["enable_thinking"] = None
        if not (raw.get("enable_thinking") and raw.get("reasoning_effort") in family.efforts):
            raw["reasoning_effort"] = None  # "" is the model's own
        if (raw.get("seed") or 0) < 0:
            raw["seed"] = None
        raw["stop"] = [line for line in (raw.get("stop") or "").splitlines() if line] or None
        return params_from(raw, SamplingParams(), settings)


@dataclass(frozen=True)
class Sidebar:
    """The components: the presets, the system prompt, and the control of each field in SHOWN."""

    style: gr.Radio
    detail: gr.Radio
    system_prompt: gr.Textbox
    controls: Mapping[str, Component]
    reset: gr.Button

    @property
    def preset_outputs(self) -> list[Any]:
        """The controls of PRESET, in its order."""
        return [self.controls[name] for name in PRESET]

    @property
    def thinking_outputs(self) -> list[Any]:
        """The controls of THINKING, in its order."""
        return [self.controls[name] for name in THINKING]

    def answering(
        self, answer: Callable[..., Iterator[Any]], *own: Component, **instead: Component
    ) -> tuple[Callable[..., Iterator[Any]], set[Component]]:
        """`answer(*own values, knobs, request)` as a Gradio handler, and the inputs it takes.

        `instead` names controls that stand in for those of the sidebar. Gradio gives a handler
        with a set of inputs one dictionary.
        """
        controls = {**self.controls, **instead}

        def handler(values: dict[Component, Any], request: gr.Request) -> Iterator[Any]:
            sampling = {name: values[control] for name, control in controls.items()}
            knobs = Knobs(values[self.system_prompt], sampling)
            yield from answer(*(values[component] for component in own), knobs, request)

        return handler, {*own, self.system_prompt, *controls.values()}


def thinking_controls(family: Family) -> list[Any]:
    """The controls of THINKING as this family has them, in its order."""
    has_switch = family.thinking == "switched"
    return [
        gr.Checkbox(family.opens_thought, visible=has_switch),
        gr.Dropdown(_efforts(family.efforts), value="", visible=bool(family.efforts)),
    ]


def _efforts(efforts: Sequence[str]) -> list[tuple[Any, str]]:
    return [(label("effort_own"), ""), *((effort, effort) for effort in efforts)]


def preset_values(
    family: Family,
    has_images: bool,
    settings: Settings,
    thinks: bool | None = None,
    style: Style = "balanced",
) -> list[Any]:
    """The values of PRESET for this style, in its order; "balanced" is what is recommended."""
    preset = family.preset(has_images=has_images, thinks=thinks)
    preset = styled(preset, style, family.opens_thought if thinks is None else thinks)
    most = {"max_new_tokens": settings.max_new_tokens}
    values = ((name, getattr(preset, name)) for name in PRESET)
    return [min(value, most[name]) if name in most else value for name, value in values]


def limited_values(settings: Settings, status: EngineStatus) -> list[Any]:
    """The recommended values of PRESET, of a picture's tokens and of a frame's.

    Sliders end where more would change nothing with the model that runs.
    """
    values = preset_values(status.family, status.accepts_images, settings)
    at, most = PRESET.index("max_new_tokens"), limits(settings, status)
    values[at] = _ending(most["max_new_tokens"], values[at])
    values.append(_ending(most["max_image_tokens"], image_tokens("balanced", settings, status)))
    return [*values, _ending(most["frame_tokens"], FRAME_TOKENS)]


def _ending(most: int, value: float) -> Any:
    return gr.Slider(value=min(value, most), maximum=most)


def lay_out(settings: Settings, family: Family) -> Sidebar:
    """Builds the sidebar inside the current Blocks, with what is recommended for `family`.

    Without Gradio's own reset buttons: they know the values of the default model only.
    """
    start = dict(zip(PRESET, preset_values(family, True, settings), strict=True))
    start |= {"seed": RANDOM_SEED, "stop": ""}
    start["max_image_tokens"] = settings.image_tokens_or(USUAL_IMAGE_TOKENS)
    start |= {"enable_thinking": False, "reasoning_effort": ""}
    with gr.Sidebar(position="right", open=False, width=320, elem_id="sidebar"):
        gr.Markdown(label("settings"), elem_classes="sidebar-title")
        style = _choice("style", STYLES)
        detail = _choice("detail", DETAILS)
        built = {name: _control(name, start, settings) for name in THINKING}
        system_prompt = gr.Textbox(
            settings.system_prompt,
            label=label("system_prompt"),
            placeholder=label("system_hint"),
            lines=3,
            max_lines=8,
            elem_id="system-prompt",
        )
        with gr.Accordion(label("expert"), open=False, elem_id="expert"):
            for name in SHOWN:
                if name not in built:
                    built[name] = _control(name, start, settings)
        reset = gr.Button(label("reset"), size="sm", elem_id="reset-sampling")
    return Sidebar(style, detail, system_prompt, built, reset)


def _choice(name: str, values: Sequence[str]) -> gr.Radio:
    choices = [(str(label(f"{name}_{value}")), value) for value in values]
    looks: dict[str, Any] = {"label": label(name), "info": label(f"{name}_info"), "elem_id": name}
    return gr.Radio(choices, value="balanced", elem_classes="preset", **looks)


def _control(name: str, start: Mapping[str, Any], settings: Settings) -> Component:
    control = control_of(name) or Control()
    looks: dict[str, Any] = {
        "label": label(name),
        "info": label(f"{name}_info") if f"{name}_info" in EN else None,
        "elem_id": name.replace("_", "-"),
    }
    if control.kind == "switch":
        return gr.Checkbox(start[name], visible=False, **looks)
    if control.kind == "effort":
        return gr.Dropdown(_efforts(EFFORTS), value=start[name], visible=False, **looks)
    if control.kind == "lines":
        return gr.Textbox(start[name], lines=1, max_lines=4, **looks)
    if control.kind == "seed":
        return gr.Number(start[name], precision=0, **looks)
    low, high = range_of(name)
    high = min(high, control.highest or high, getattr(settings, name, high))
    if name == "max_image_tokens":
        low = min(MIN_IMAGE_TOKENS, start[name])
    return gr.Slider(low, high, start[name], step=control.step, buttons=[], **looks)
