"""The page for everybody: axe finds nothing serious in light and dark; keyboard, names, focus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import ScriptedEngine

from qwen_vl import EXAMPLES

ANSWER = '```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "car"}]\n```\n5.0 s: it.\n\n6 s: b'
BAD = ("critical", "serious")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_page(ScriptedEngine(lambda _: ANSWER)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def opened(browser: Browser, url: str) -> Tab:
    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
    return Tab(context.new_page(), url).open()


def findings(page: Page) -> list[tuple[str, str]]:
    """What axe calls critical or serious: (rule, the element)."""
    found = [one for one in Axe().run(page).response["violations"] if one["impact"] in BAD]
    return [(one["id"], node["html"][:200]) for one in found for node in one["nodes"][:6]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, url: str, theme: str, tmp_path: Path) -> None:
    tab = opened(browser, f"{url}?__theme={theme}")
    page = tab.page
    found = {"empty chat": findings(page)}
    Image.new("RGB", (96, 64), "red").save(tmp_path / "red.png")
    page.set_input_files("#chat-box input[type=file]", tmp_path / "red.png")
    page.wait_for_selector("#chat-box img")
    found["picture in the box"] = findings(page)
    tab.ask("where?")
    tab.wait_text("#chat .bot", "tokens/s")
    tab.wait_idle()
    page.wait_for_selector(".places .mark")
    found["chat with boxes"] = findings(page)
    page.click("#region")
    found["drawing a region"] = findings(page)
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Video").click()
    found["empty video"] = findings(page)
    page.set_input_files("#clip input[type=file]", EXAMPLES / "clip.webm")
    tab.wait_text("#video-note", "frames")
    page.fill("#question textarea", "when?")
    page.click("#ask")
    tab.wait_text("#video-chat .bot", "tokens/s")
    page.wait_for_selector(".timeline-tools")
    page.click("#choose-frames .label-wrap")
    page.wait_for_selector("#method")
    found["video with frames"] = findings(page)
    told = "\n".join(f"{name}: {rule}: {place}" for name in found for rule, place in found[name])
    assert not told, told
    page.context.close()


def test_keyboard_names_and_focus(browser: Browser, url: str) -> None:
    tab = opened(browser, url)
    page = tab.page
    expect(page.locator("h1")).to_have_text(["Qwen-VL"])
    focus = "document.activeElement"
    page.wait_for_function(f"{focus}.matches('#chat-box textarea')")  # one can type at once
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    tab.wait_text("#chat .bot", "tokens/s")
    tab.wait_idle()
    nameless = """[...document.querySelectorAll("button, a[href], input, select, textarea, img")]
        .filter((it) => it.checkVisibility() && it.matches("img") && !it.hasAttribute("alt")
            || it.matches("button") && it.checkVisibility()
            && !(it.innerText.trim() || it.getAttribute("aria-label") || it.title))
        .map((it) => it.outerHTML.slice(0, 120))"""
    assert page.evaluate(nameless) == []
    # What has the focus by keyboard is seen to have it.
    page.click("body", position={"x": 5, "y": 5})
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focus}.closest('#chat-box') !== null")  # first in the order
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate(f"{focus} === document.body"):  # at the end of the page
            break
        style = f"getComputedStyle({focus})"
        assert page.evaluate(
            f"{style}.outlineStyle !== 'none' || {style}.boxShadow !== 'none' "
            f"|| {focus}.matches('textarea')"
        ), page.evaluate(f"{focus}.outerHTML.slice(0, 200)")
    page.context.close()
