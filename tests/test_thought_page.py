"""The page of a model that can think first: the switch, and the block with its thought."""

from __future__ import annotations

import threading
from dataclasses import replace

from playwright.sync_api import expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import READY, SEEING, ScriptedEngine

from qwen_vl.schema import Chunk

ABLE = replace(READY, family=replace(SEEING, thinking="switched", efforts=("low", "high")))


def test_a_thought_streams_in_a_block_that_folds_when_the_answer_begins() -> None:
    thinks_on, says_on = threading.Event(), threading.Event()
    said = ("Looking ", "at **it**.")
    engine = ScriptedEngine(
        *(Chunk(thought=piece) for piece in said), thinks_on, "It is", says_on, " red.", status=ABLE
    )
    with running_page(engine) as url, chromium() as browser:
        context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
        tab = Tab(context.new_page(), url).open()
        page = tab.page
        tab.open_settings(expert=True)
        page.check("#enable-thinking input")
        page.wait_for_function(  # the sampling of answers that think first
            "document.querySelector('#temperature input[type=number]').value === '0.6'"
        )
        tab.ask("Which colour?")
        tab.wait_text("#chat", "Looking at it.")  # open while it is written
        assert "Thinking" in tab.text()
        thinks_on.set()
        tab.wait_text("#chat .bot", "It is")
        tab.wait_text("#chat", "Thought for ")  # a second or none, on a busy machine
        page.wait_for_function("!document.querySelector('#chat').innerText.includes('Looking at')")
        says_on.set()
        tab.wait_idle()
        page.click("#chat >> text=Thought for ")
        tab.wait_text("#chat", "Looking at it.")
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.click("#chat .copy-thought")
        tab.wait_clipboard("Looking at it.")
        page.get_by_label("Copy the answer").click()
        tab.wait_clipboard("It is red.")
        assert engine.requests[0][1].enable_thinking is True
        assert tab.error_overlays() == 0


def test_there_is_no_switch_where_a_model_has_none() -> None:
    with running_page(ScriptedEngine("Yes.")) as url, chromium() as browser:
        tab = Tab(browser.new_context(locale="en-GB").new_page(), url).open()
        tab.open_settings(expert=True)
        expect(tab.page.locator("#enable-thinking")).to_be_hidden()
        tab.ask("Hi")
        tab.wait_text("#chat .bot", "Yes.")
