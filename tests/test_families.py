"""What differs between families is told by a checkpoint's own files, whatever it is called."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import opened
from support import tiny_models
from support.scripted_engine import READY, ScriptedEngine

from qwen_vl.config import BUNDLED_MODEL_ID, Settings
from qwen_vl.engine import Engine, open_engine
from qwen_vl.families import BUNDLED, FAMILIES, TIMELINE_PROMPT, family_by_name, family_of
from qwen_vl.schema import EngineStatus, Family
from qwen_vl.ui.answers import Progress, turns_of
from qwen_vl.ui.grounding import Box
from qwen_vl.ui.places import marks_in

SWITCHED = "{% if enable_thinking %}<think>{% endif %}"
SIZE = (560, 280)  # whole visual tokens of 28 px: the processor leaves it as it is


@contextmanager
def running(folder: Path) -> Iterator[Engine]:
    engine = opened(Settings(model=str(folder)))
    assert engine.status().state == "ready", engine.status()
    yield engine
    engine.close()


def status_of(family: Family) -> EngineStatus:
    return EngineStatus("ready", "m", family=family)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_presets_within_the_ranges(name: str) -> None:
    family = FAMILIES[name]
    assert family.name == name
    for preset in (family.preset(has_images=True), family.preset(has_images=False)):
        assert 0 <= preset.temperature <= 2
        assert 0 < preset.top_p <= 1
    assert TIMELINE_PROMPT in family.timeline_prompt


def test_a_qwen2_5_vl_counts_pixels_whatever_its_folder_is_called(tmp_path: Path) -> None:
    with running(tiny_models.qwen2_5_vl(tmp_path / "my-7b")) as engine:
        family = engine.status().family
    answer = '{"bbox_2d": [140, 70, 280, 140], "label": "cat"}'
    ((_, box),) = marks_in(answer, SIZE, family, 1280)
    assert isinstance(box, Box)
    assert (box.x1, box.y1, box.x2, box.y2) == pytest.approx((250, 250, 500, 500))
    ((_, other),) = marks_in(answer, SIZE, FAMILIES["qwen3_vl"], 1280)
    assert isinstance(other, Box)
    assert (other.x1, other.x2) == (140, 280)


def test_a_thinking_model_is_told_by_its_template(tmp_path: Path) -> None:
    with running(tiny_models.qwen3_vl_thinking(tmp_path / "my-model")) as engine:
        status = engine.status()
    assert status.family.thinking == "always"
    assert status.family.opens_thought


def test_a_name_makes_no_thinker(tmp_path: Path) -> None:
    with running(tiny_models.qwen3_vl(tmp_path / "wishful-thinking")) as engine:
        status = engine.status()
    assert status.family.thinking == "never"
    answer, *_ = turns_of(Progress("Red.", finish_reason="stop"), status, "en")
    assert "Red." in str(answer["content"])
    assert status.family.preset(has_images=True) == FAMILIES["qwen3_vl"].with_pictures


@pytest.mark.parametrize(
    ("template", "opens", "thinking"),
    [
        ("{{ messages }}", False, "never"),
        ("{{ messages }}<think>", True, "always"),
        (SWITCHED, True, "switched"),
        (SWITCHED, False, "switched"),
    ],
)
def test_thinking_is_told_by_the_template_and_the_end_of_the_prompt(
    template: str, opens: bool, thinking: str
) -> None:
    family = family_of("qwen3_vl", template, opens)
    assert (family.thinking, family.opens_thought) == (thinking, opens)


def test_large_ones_of_3_5_think_by_another_preset() -> None:
    small, large = (family_of("qwen3_5", SWITCHED, opens) for opens in (False, True))
    assert small.preset(has_images=True, thinks=True).temperature == 0.6
    assert large.preset(has_images=True).temperature == 1.0
    assert large.preset(has_images=True).presence_penalty == 1.5


@pytest.mark.parametrize(
    ("template", "tool_format"),
    [
        ("{{ messages }}", "none"),
        ('<tool_call>\n{"name": ...}</tool_call>', "json"),
        ("<tool_call><function=f><parameter=p></tool_call>", "xml"),
    ],
)
def test_the_template_tells_how_tools_are_called(template: str, tool_format: str) -> None:
    assert family_of("qwen3_vl", template, "").tool_format == tool_format


@pytest.mark.parametrize("unknown", ["llama", "qwen3_omni_moe"])
def test_an_unknown_family_is_refused_with_those_that_run(unknown: str, tmp_path: Path) -> None:
    folder = tiny_models.qwen3_vl(tmp_path / "model")
    config = folder / "config.json"
    config.write_text(json.dumps({"model_type": unknown}))
    engine = opened(Settings(model=str(folder)))
    status = engine.status()
    engine.close()
    assert status.state == "failed"
    assert all(name in status.detail for name in (f"{unknown!r}", *FAMILIES))


def test_the_bundled_model_is_greedy_and_known_at_once(bundled_engine: Engine) -> None:
    assert bundled_engine.status().family == BUNDLED
    assert BUNDLED.timeline_prompt == TIMELINE_PROMPT
    starting = open_engine(Settings(model="bundled"))
    assert starting.status().family == BUNDLED
    starting.close()


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Qwen/Qwen3-VL-2B-Instruct", "qwen3_vl"),
        ("qwen3vl-4b-q8_0.gguf", "qwen3_vl"),
        ("Qwen/Qwen2.5-VL-7B-Instruct-AWQ", "qwen2_5_vl"),
        ("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "qwen3_next"),
        ("Qwen/Qwen3.5-2B", "qwen3_5"),
        ("Qwen/Qwen3.8-27B-FP8", "qwen3_5"),
        ("Qwen/Qwen1.5-0.5B-Chat", "qwen2"),
        ("gpt-4o", ""),
    ],
)
def test_behind_another_server_the_name_is_the_last_resort(name: str, family: str) -> None:
    guessed = family_by_name(name)
    assert guessed.name == family
    assert guessed.sees_pictures
    assert guessed.thinking == "never"


def test_names_of_thinking_and_bundled_models_behind_another_server() -> None:
    assert family_by_name("Qwen/Qwen3-VL-8B-Thinking").opens_thought
    assert family_by_name(f"demo/{BUNDLED_MODEL_ID}") == BUNDLED


def test_a_text_only_family_takes_no_pictures() -> None:
    engine = ScriptedEngine(status=READY)
    engine.set_status(family=FAMILIES["qwen3_moe"])
    assert engine.status().is_text_only
    assert not engine.status().accepts_images
