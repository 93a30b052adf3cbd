"""One list of sampling fields: what is checked, shown, told and sent all comes from it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from conftest import opened
from support.scripted_engine import ScriptedEngine
from test_api import serving

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest
from qwen_vl.sampling import (
    FIELDS,
    SamplingParams,
    control_of,
    params_from,
    range_of,
    table,
    wire_names,
)
from qwen_vl.schema import Message, TextPart
from qwen_vl.ui import build
from qwen_vl.ui.sidebar import PRESET, SHOWN
from qwen_vl.ui.strings import EN, ZH

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = Settings()
API_ONLY = {"logit_bias", "thinking_budget", "preserve_thinking"}
NUMBERS = [name for name in FIELDS if abs(range_of(name)[0]) < 2**53]  # exact as floats
# None of these is a default, or what a model card recommends.
ASKED: dict[str, Any] = {
    **{"temperature": 0.33, "top_p": 0.77, "top_k": 13, "min_p": 0.07},
    **{"repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2},
    **{"max_new_tokens": 17, "seed": 11, "stop": ("END",), "logit_bias": ((5, 1.5),)},
    **{"max_image_tokens": 64, "enable_thinking": True, "reasoning_effort": "low"},
    **{"thinking_budget": 99, "preserve_thinking": True},
}


def test_the_page_shows_every_field() -> None:
    assert {*SHOWN, *API_ONLY} == set(FIELDS)
    for name in SHOWN:
        assert EN[name]
        assert ZH[name]
    with build(ScriptedEngine(), SETTINGS) as demo:
        shown = {block.elem_id: block for block in demo.blocks.values()}
    for name in SHOWN:
        control = shown[name.replace("_", "-")]
        if isinstance(control, gr.Slider):
            low, high = range_of(name)
            assert low <= control.minimum < control.maximum <= high
    assert set(PRESET) < set(SHOWN)


def test_every_field_reaches_the_engine_behind_another_server() -> None:
    assert set(ASKED) == set(FIELDS)
    far = ScriptedEngine("a")
    params = replace(SamplingParams(), **ASKED)
    with serving(far) as client:
        near = opened(
            Settings(engine="remote", base_url=(str(client.base_url).rstrip("/") + "/v1",))
        )
        list(near.stream([Message("user", (TextPart("Hi"),))], params))
        near.close()
    assert far.requests[0][1] == params


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_range_is_refused_by_its_name(name: str) -> None:
    low, high = range_of(name)
    wire = wire_names(name)[0]
    for value in (low - 3, math.nan, *([high + 1] if math.isfinite(high) else [])):
        with pytest.raises(BadRequest, match=wire):
            params_from({wire: value}, SamplingParams(), SETTINGS)
    for value in ("1", True, [1], {}):
        with pytest.raises(BadRequest, match=f"'{wire}' must be a .*number"):
            params_from({wire: value}, SamplingParams(), SETTINGS)
    assert params_from({wire: None}, SamplingParams(), SETTINGS) == SamplingParams()


@pytest.mark.parametrize("name", NUMBERS)
def test_both_ends_of_a_range_are_taken(name: str) -> None:
    low, high = range_of(name)
    most = {"max_new_tokens": SETTINGS.max_new_tokens, "max_image_tokens": 4096}
    most["thinking_budget"] = SETTINGS.max_thought_tokens
    for value in (low, most.get(name, high)):
        params = params_from({wire_names(name)[-1]: value}, SamplingParams(), SETTINGS)
        assert getattr(params, name) == value


def test_the_servers_own_limits_hold() -> None:
    asked = {"max_tokens": SETTINGS.max_new_tokens + 1}
    assert params_from(asked, SamplingParams(), SETTINGS).max_new_tokens == SETTINGS.max_new_tokens
    with pytest.raises(BadRequest, match="between 4 and 4096"):
        params_from({"max_image_tokens": 4097}, SamplingParams(), SETTINGS)


def test_values_out_of_range_cannot_be_made_at_all() -> None:
    with pytest.raises(ValueError, match="temperature"):
        SamplingParams(temperature=3)


def test_the_documentation_has_the_table() -> None:
    told = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert table() in told, "put what `python -m qwen_vl.sampling` prints into docs/api.md"


def test_controls_that_slide_have_steps_within_their_range() -> None:
    for name in SHOWN:
        control = control_of(name)
        assert control is not None
        if control.kind == "slider":
            low, high = range_of(name)
            assert 0 < control.step <= high - low
