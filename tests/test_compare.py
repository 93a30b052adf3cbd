"""Side by side in a real browser: one question, two answers at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import READY, ScriptedEngine

from qwen_vl.config import Settings, for_second_model


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def opened(browser: Browser, url: str, width: int = 1280, height: int = 900) -> Tab:
    context = browser.new_context(locale="en-GB", viewport={"width": width, "height": height})
    tab = Tab(context.new_page(), url).open()
    tab.page.get_by_role("tab", name="Side by side").click()
    return tab


def ask(tab: Tab, text: str) -> None:
    tab.page.fill("#compare-box textarea", text)
    tab.page.press("#compare-box textarea", "Enter")


def choose(tab: Tab, name: str, choice: str) -> None:
    tab.page.click(f"#{name} input")
    tab.page.get_by_role("option", name=choice).click()


def test_both_columns_are_written_at_once_with_settings_of_their_own(browser: Browser) -> None:
    goes_on = threading.Event()
    engine = ScriptedEngine("It begins", goes_on, " and ends.")
    with running_page(engine) as url:
        tab = opened(browser, url)
        ask(tab, "What is it?")
        for side in ("left", "right"):  # neither waits for the other
            tab.wait_text(f"#{side}-chat .bot", "It begins")
        expect(tab.page.locator("#compare-box .stop-button")).to_be_visible()
        goes_on.set()
        for side in ("left", "right"):
            tab.wait_text(f"#{side}-chat .bot", "It begins and ends.")
            tab.wait_text(f"#{side}-chat", "12.5 tokens/s")
        expect(tab.page.locator("#compare-box .submit-button")).to_be_visible()
        temperatures = sorted(params.temperature for _, params in engine.requests)
        assert temperatures[0] == 0 < temperatures[1]
        choose(tab, "right-style", "Precise")
        choose(tab, "right-detail", "Fast")
        ask(tab, "And now?")
        for side in ("left", "right"):
            expect(tab.page.locator(f"#{side}-chat .user")).to_have_count(2)
        tab.page.wait_for_selector("#compare-box .submit-button")
        asked, _ = engine.requests[-1]
        assert len(asked) == 3  # each side goes on with its own answers
        last = engine.requests[-2:]
        assert {one.temperature for _, one in last} == {0}
        assert {one.max_image_tokens for _, one in last} == {256, 1280}
        tab.open()  # both columns come back
        tab.page.get_by_role("tab", name="Side by side").click()
        for side in ("left", "right"):
            expect(tab.page.locator(f"#{side}-chat .user")).to_have_count(2)
        tab.page.click("#compare-new")
        for side in ("left", "right"):
            expect(tab.page.locator(f"#{side}-chat .user")).to_have_count(0)
        assert tab.error_overlays() == 0
        tab.page.context.close()


def test_stop_ends_both(browser: Browser) -> None:
    engine = ScriptedEngine("It begins", threading.Event(), " and never ends.")
    with running_page(engine) as url:
        tab = opened(browser, url)
        ask(tab, "What is it?")
        for side in ("left", "right"):
            tab.wait_text(f"#{side}-chat .bot", "It begins")
        tab.page.click("#compare-box .stop-button")
        for side in ("left", "right"):
            tab.wait_text(f"#{side}-chat", "stopped")
        expect(tab.page.locator("#compare-box .submit-button")).to_be_visible()
        tab.page.context.close()


def test_two_models_answer_beside_each_other(browser: Browser) -> None:
    second = ScriptedEngine("From the second.", status=replace(READY, model_id="the/second"))
    with running_page(ScriptedEngine("From the first."), beside=second) as url:
        tab = opened(browser, url)
        tab.wait_text("#columns", "the/second")
        ask(tab, "What is it?")
        tab.wait_text("#left-chat .bot", "From the first.")
        tab.wait_text("#right-chat .bot", "From the second.")
        tab.wait_text("#right-chat", "the/second ·")
        tab.page.context.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_it_is_all_in_view(browser: Browser, width: int, height: int) -> None:
    with running_page(ScriptedEngine()) as url:
        tab = opened(browser, url, width, height)
        for selector in ("#left-chat", "#right-chat", "#compare-box", "#compare-new"):
            box = tab.page.locator(selector).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= height, selector
        tab.page.context.close()


def test_the_second_model_has_settings_of_its_own() -> None:
    one = Settings(engine="remote", base_url=("http://a",), remote_model="m")
    assert for_second_model(one) is None
    same_servers = for_second_model(replace(one, second_model="n"))
    assert same_servers == replace(one, remote_model="n")
    others = for_second_model(replace(one, second_url=("http://b",)))
    assert others == replace(one, base_url=("http://b",), remote_model="")
    with pytest.raises(ValueError, match="--engine remote"):
        Settings(second_model="n")
