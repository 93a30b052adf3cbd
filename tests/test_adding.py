"""Files are dropped anywhere on the page, by a real drag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import ScriptedEngine, echo


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_a_picture_dropped_on_the_big_panel_joins_the_question(
    browser: Browser, tmp_path: Path
) -> None:
    Image.new("RGB", (96, 64), "red").save(tmp_path / "red.png")
    with running_page(ScriptedEngine(echo)) as url:
        context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
        tab = Tab(context.new_page(), url).open()
        box = tab.page.locator("#chat").bounding_box()
        assert box is not None
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + 40}
        files = {"items": [], "files": [str(tmp_path / "red.png")], "dragOperationsMask": 1}
        devtools = context.new_cdp_session(tab.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            devtools.send("Input.dispatchDragEvent", {"type": kind, "data": files, **at})
        expect(tab.page.locator("#chat-box img")).to_have_count(1)
        assert tab.page.url.startswith(url)
        tab.ask("what is it?")
        tab.wait_text("#chat .bot", "You said: what is it? [1 pictures, 1 messages]")
        context.close()
