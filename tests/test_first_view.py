"""The first view: what a visitor finds, presets and tasks, and what they make of a question."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Browser, Locator, expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import READY, SEEING, ScriptedEngine
from support.until import until

from qwen_vl.config import Settings
from qwen_vl.engine import open_engine
from qwen_vl.ui.keeping import Keeping
from qwen_vl.ui.presets import (
    CREATIVE_TEMPERATURE,
    DETAILS,
    STYLED,
    image_tokens,
    limits,
    styled,
)
from qwen_vl.ui.strings import WORDS
from qwen_vl.ui.tasks import TASKS, task_of

SETTINGS = Settings()
ANYBODY: Any = SimpleNamespace(session_hash="a", headers={"accept-language": "en"})
SIZES = ((1280, 900), (390, 844))
IN_VIEW = ("#open-settings", "#chat", "#tasks .chip", "#chat-box", "#new-chat")


def test_a_task_is_known_by_its_words_in_both_languages() -> None:
    for task in TASKS:
        for lang in ("en", "zh"):
            assert task_of(task.prompt(lang)) is task
            assert task_of(task.prompt(lang) + " And be brief.") is task
    assert task_of("Locate the red cars. Report bbox coordinates in JSON format.") is not None
    assert task_of("Locate the red cars.") is None
    assert task_of("What is this?") is None


def test_tasks_have_names_in_both_languages() -> None:
    for task in TASKS:
        assert all(WORDS[lang][f"task_{task.name}"] for lang in WORDS)


def test_reading_tasks_are_greedy_and_their_json_keeps_to_a_schema() -> None:
    own = SEEING.preset(has_images=True)
    for task in TASKS:
        params = task.shaped(own, SEEING, SETTINGS.max_new_tokens)
        assert params.temperature == (0.0 if task.style == "precise" else own.temperature)
        assert params.max_new_tokens >= own.max_new_tokens
        assert (params.constraint is not None) == bool(task.schema)
    assert {task.name for task in TASKS if task.schema} == {"invoice", "find"}


def test_a_task_leaves_what_a_visitor_has_set() -> None:
    own = replace(SEEING.preset(has_images=True), temperature=1.5, max_new_tokens=7)
    for task in TASKS:
        params = task.shaped(own, SEEING, SETTINGS.max_new_tokens)
        assert replace(params, constraint=None) == own


def test_styles_differ_in_their_freedom() -> None:
    own = SEEING.preset(has_images=True)
    precise, creative = styled(own, "precise"), styled(own, "creative")
    assert styled(own, "balanced") == own
    assert precise.temperature == 0 == precise.presence_penalty
    assert creative.temperature > own.temperature
    assert creative.top_k > own.top_k
    thoughtful = styled(own, "precise", thinks=True)
    assert 0 < thoughtful.temperature <= own.temperature
    fields = {name for name in vars(own) if getattr(own, name) != getattr(precise, name)}
    assert fields <= set(STYLED)


def test_details_end_where_the_model_does() -> None:
    small = replace(READY, most_image_tokens=300, context_tokens=2048)
    assert [image_tokens(one, SETTINGS, small) for one in DETAILS] == [256, 300, 300]
    assert [image_tokens(one, SETTINGS, READY) for one in DETAILS] == [256, 1280, 4096]
    assert limits(SETTINGS, small) == {
        "max_image_tokens": 300,
        "frame_tokens": 300,
        "max_new_tokens": 2048,
    }


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine(status=replace(READY, most_image_tokens=2048))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(engine: ScriptedEngine) -> Iterator[str]:
    with running_page(engine) as address:
        yield address


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_first_view_fits_and_does_not_jump(
    browser: Browser, url: str, width: int, height: int
) -> None:
    context = browser.new_context(locale="en-GB", viewport={"width": width, "height": height})
    page = context.new_page()
    page.add_init_script(
        """window.shifts = 0; window.states = [];
        new PerformanceObserver((list) => list.getEntries().forEach((one) => {
            window.shifts += one.value;
        })).observe({ type: "layout-shift", buffered: true });
        new MutationObserver(() => {
            const pill = document.querySelector("#header .pill")?.textContent;
            if (pill && window.states.at(-1) !== pill) window.states.push(pill);
        }).observe(document, { childList: true, subtree: true, characterData: true });"""
    )
    tab = Tab(page, url).open()
    page.wait_for_function("document.querySelectorAll('#chat .example img').length > 1")
    assert page.evaluate("window.states") == ["…", "ready"]  # it never says "loading"
    assert page.evaluate("window.shifts") < 0.1  # what is counted as good on the web
    size = page.evaluate("[document.body.scrollWidth, document.documentElement.scrollHeight]")
    assert size == [width, height]
    for selector in IN_VIEW:
        box = page.locator(selector).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= height, selector
    assert not page.locator("#temperature").is_visible()  # the settings are closed
    assert tab.error_overlays() == 0
    context.close()


@pytest.fixture
def tab(browser: Browser, url: str) -> Iterator[Tab]:
    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
    opened = Tab(context.new_page(), url).open()
    yield opened
    assert opened.error_overlays() == 0
    context.close()


def number(tab: Tab, name: str) -> Locator:
    return tab.page.locator(f"#{name} input[type=number]")


def test_presets_set_the_values_and_are_remembered(tab: Tab, engine: ScriptedEngine) -> None:
    page = tab.page
    tab.open_settings()
    page.get_by_label("Creative").check()
    kept = f'"temperature":{CREATIVE_TEMPERATURE:g}'  # the values come a moment after the choice
    page.wait_for_function(f"localStorage['qwen-vl'].includes('{kept}')")
    tab.ask_whole("with the expert values closed")
    assert engine.requests[-1][1].temperature == CREATIVE_TEMPERATURE
    page.get_by_label("Precise").check()
    page.get_by_label("Fine print").check()
    tab.open_settings(expert=True)
    expect(number(tab, "temperature")).to_have_value("0")
    # A slider ends where more changes nothing with this model.
    expect(number(tab, "max-image-tokens")).to_have_value("2048")
    expect(page.locator("#max-image-tokens input[type=range]")).to_have_attribute("max", "2048")
    tab.ask_whole("plain")
    params = engine.requests[-1][1]
    assert (params.temperature, params.max_image_tokens) == (0, 2048)
    page.wait_for_function("localStorage['qwen-vl'].includes('precise')")
    tab.open()  # a reload: the settings are open as they were
    expect(page.locator("#sidebar")).to_have_class(re.compile(r"\bopen\b"))
    expect(page.locator("#style input[value=precise]")).to_be_checked()
    tab.open_settings(expert=True)
    expect(number(tab, "temperature")).to_have_value("0")
    number(tab, "temperature").fill("1.5")
    number(tab, "temperature").press("Tab")
    expect(page.locator("#style input:checked")).to_have_count(0)  # a mixture of one's own
    page.click("#open-settings")
    tab.ask_whole("warm")
    assert engine.requests[-1][1].temperature == 1.5
    page.wait_for_function("localStorage['qwen-vl'].includes('1.5')")
    tab.open()
    expect(page.locator("#sidebar")).not_to_have_class(re.compile(r"\bopen\b"))
    tab.ask_whole("still warm")
    assert engine.requests[-1][1].temperature == 1.5
    tab.open_settings()
    page.click("#reset-sampling")
    expect(page.locator("#style input[value=balanced]")).to_be_checked()


def test_what_a_visitor_set_wins_over_the_values_of_a_model_that_gets_ready_later(
    browser: Browser, url: str, engine: ScriptedEngine
) -> None:
    own = {"temperature": 1.5, "max_image_tokens": 512, "frame_tokens": 256, "detail": None}
    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.add_init_script(f"localStorage['qwen-vl'] ??= {json.dumps(json.dumps(own))}")
    tab = Tab(page, url)
    engine.set_status(state="loading", detail="Reading the model")
    try:
        page.goto(url)
        expect(page.locator("#state-pill")).to_contain_text("loading")
        tab.open_settings(expert=True)
        expect(number(tab, "temperature")).to_have_value("1.5")
        number(tab, "top-k").fill("7")  # and one is changed while the model loads
        number(tab, "top-k").press("Tab")
        kept = '"top_k":7'
        page.wait_for_function(f"localStorage['qwen-vl'].includes('{kept}')")
    finally:
        engine.set_status(state="ready", detail="")
    # A slider that was not touched is the model's: it ends where the model does.
    ends = page.locator("#max-image-tokens input[type=range]")
    page.wait_for_selector("#state-pill.ready")
    expect(ends).to_have_attribute("max", "2048")
    expect(number(tab, "temperature")).to_have_value("1.5")
    expect(number(tab, "top-k")).to_have_value("7")
    expect(number(tab, "max-image-tokens")).to_have_value("512")
    page.click("#open-settings")
    tab.ask_whole("as I set it")
    params = engine.requests[-1][1]
    assert (params.temperature, params.top_k, params.max_image_tokens) == (1.5, 7, 512)
    assert params.top_p == SEEING.preset(has_images=True).top_p
    context.close()


def test_a_task_puts_its_words_into_the_box_and_shapes_the_answer(
    tab: Tab, engine: ScriptedEngine
) -> None:
    page, box = tab.page, tab.page.locator("#chat-box textarea")
    page.get_by_role("button", name="Describe", exact=True).click()
    expect(box).to_have_value("Describe the image.")
    page.get_by_role("button", name="Find objects").click()  # instead of the words before
    expect(box).to_have_value("Locate all shapes. Report bbox coordinates in JSON format.")
    assert page.evaluate("getSelection().toString()") == "all shapes"
    page.keyboard.type("the cars")  # over the words that may be replaced
    page.keyboard.press("Enter")
    tab.wait_text("#chat .bot", "You said: Locate the cars. Report bbox")
    tab.wait_idle()
    params = engine.requests[-1][1]
    assert params.temperature == 0
    assert params.constraint is not None
    tab.ask_whole("Locate the cars, please")  # no task: the visitor's own sampling
    params = engine.requests[-1][1]
    assert params.temperature > 0
    assert params.constraint is None


def test_what_was_written_already_becomes_part_of_the_task(tab: Tab) -> None:
    page, box = tab.page, tab.page.locator("#chat-box textarea")
    box.fill("red cars")
    page.get_by_role("button", name="Find objects").click()
    expect(box).to_have_value("Locate red cars. Report bbox coordinates in JSON format.")
    page.get_by_role("button", name="Read the text").click()
    expect(box).to_have_value("Extract all the text.\nred cars")
    page.keyboard.press("ControlOrMeta+z")
    expect(box).to_have_value("Locate red cars. Report bbox coordinates in JSON format.")


def test_tasks_are_in_the_language_of_the_page(browser: Browser, url: str) -> None:
    context = browser.new_context(locale="zh-CN", viewport={"width": 390, "height": 844})
    tab = Tab(context.new_page(), url).open()
    tab.page.get_by_role("button", name="发票转 JSON").click()
    expect(tab.page.locator("#chat-box textarea")).to_have_value("以JSON格式提取发票字段。")
    context.close()


def test_a_kept_value_beyond_the_models_end_becomes_its_end() -> None:
    with gr.Blocks():
        keeping = Keeping(SETTINGS, lambda: {"heat": 1.0})
        keeping.keep({"heat": gr.Slider(0, 2, 1), "other": gr.Slider(0, 2, 1)})
    assert keeping.restore('{"heat": 1.5, "other": 1.5}', ANYBODY) == [1.0, 1.5]


def test_the_bundled_model_says_where_its_limits_are() -> None:
    bundled = open_engine(Settings(model="bundled"))
    try:
        until(lambda: bundled.status().state == "ready")
        status = bundled.status()
        assert image_tokens("fine", SETTINGS, status) == status.most_image_tokens
        assert (status.most_image_tokens or 0) < SETTINGS.max_image_tokens
        assert status.context_tokens is not None
    finally:
        bundled.close()
