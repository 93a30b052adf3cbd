"""Files are added anywhere on the page: dropped by real drags, and pasted."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect
from support import clip_files
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import ScriptedEngine, echo

COPY = """async (base64) => {
    const file = await (await fetch(`data:image/png;base64,${base64}`)).blob();
    await navigator.clipboard.write([new ClipboardItem({ "image/png": file })]);
    document.activeElement.blur();
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_page(ScriptedEngine(echo)) as url:
        yield url


@pytest.fixture
def tab(browser: Browser, url: str) -> Iterator[Tab]:
    context = browser.new_context(
        locale="en-GB",
        viewport={"width": 1280, "height": 900},
        permissions=["clipboard-read", "clipboard-write"],
    )
    yield Tab(context.new_page(), url).open()
    context.close()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.new("RGB", (96, 64), "red").save(path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    seconds = {"two.webm": 20, "three.webm": 30}
    return [clip_files.write(folder / name, clip_files.scenes([n])) for name, n in seconds.items()]


def drag(tab: Tab, selector: str, *files: Path) -> None:
    """Drags files from outside of the browser and drops them in the middle of an element."""
    box = tab.page.locator(selector).bounding_box()
    assert box is not None
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path) for path in files], "dragOperationsMask": 1}
    devtools = tab.page.context.new_cdp_session(tab.page)
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "data": data, **at})
    devtools.detach()


def open_tab(tab: Tab, name: str) -> None:
    tab.page.get_by_role("tab", name=name).click()


def copy(tab: Tab, picture: Path) -> None:
    """A picture is on the clipboard, and the focus is nowhere."""
    tab.page.evaluate(COPY, base64.b64encode(picture.read_bytes()).decode())


@pytest.mark.parametrize("place", ["#chat", "#chat-box"])
def test_a_picture_dropped_on_the_panel_or_the_box_joins_the_question(
    tab: Tab, picture: Path, place: str
) -> None:
    drag(tab, place, picture)
    expect(tab.page.locator("#chat-box img")).to_have_count(1)
    expect(tab.page.locator(".takes-drop, .dragging")).to_have_count(0)
    assert tab.page.url.startswith(tab.url)
    tab.ask("what is it?")
    tab.wait_text("#chat .bot", "You said: what is it? [1 pictures, 1 messages]")


def test_a_clip_dropped_anywhere_on_its_tab_is_read_and_the_next_one_takes_its_place(
    tab: Tab, clips: list[Path]
) -> None:
    open_tab(tab, "Video")
    drag(tab, "#video-chat", clips[0])
    tab.wait_text("#video-note", "of a clip of 2.0 s")
    drag(tab, "#clip", clips[1])
    tab.wait_text("#video-note", "of a clip of 3.0 s")
    expect(tab.page.locator("#clip video")).to_have_count(1)


def test_side_by_side_takes_a_dropped_and_a_pasted_picture(tab: Tab, picture: Path) -> None:
    open_tab(tab, "Side by side")
    drag(tab, "#right-chat", picture)
    expect(tab.page.locator("#compare-box img")).to_have_count(1)
    copy(tab, picture)
    tab.page.keyboard.press("Control+V")
    expect(tab.page.locator("#compare-box img")).to_have_count(2)


def test_a_picture_pasted_while_no_field_has_the_focus_joins_the_question(
    tab: Tab, picture: Path
) -> None:
    copy(tab, picture)
    tab.page.keyboard.press("Control+V")
    expect(tab.page.locator("#chat-box img")).to_have_count(1)
    expect(tab.page.locator("#chat-box textarea")).to_be_focused()
