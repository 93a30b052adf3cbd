"""Files are added anywhere on the page: dropped by real drags, and pasted."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect
from support import clip_files
from support.browser_app import Tab, chromium, running_page
from support.pdf_files import pdf
from support.scripted_engine import ScriptedEngine, echo

from qwen_vl.ui.adding import Opened, documents_in
from qwen_vl.ui.adding_strings import ADDING_WORDS

CHART = Path(__file__).resolve().parents[1] / "examples" / "images" / "chart.png"
THUMBNAILS = "#chat-box .thumbnails img"
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


def add(tab: Tab, *files: Path) -> None:
    """Chooses files by the button of the question box."""
    tab.page.set_input_files("#chat-box input[type=file]", [str(path) for path in files])


def test_bad_files_are_told_by_name_as_they_are_added_and_all_else_stays(
    tab: Tab, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "note.png").write_text("no picture at all")
    (tmp_path / "half.png").write_bytes(CHART.read_bytes()[: CHART.stat().st_size // 2])
    (tmp_path / "letter.docx").write_bytes(b"PK\3\4")
    (tmp_path / "large.png").write_bytes(bytes(11 << 20))
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing more")
    tab.page.fill("#chat-box textarea", "my draft")
    add(tab, picture, *sorted(tmp_path.iterdir()), CHART)
    bar = tab.page.locator("#undo-bar")
    expect(bar).to_contain_text("“letter.docx” was not added: pictures, PDFs and clips")
    expect(bar).to_contain_text("“large.png” was not added: it has more than 10 MB.")
    for name, why in {"note": "not a picture", "half": "incomplete", "broken": "damaged"}.items():
        told = tab.page.get_by_text(f"“{name}.").filter(has_text=why)
        expect(told.first).to_be_visible()
    expect(tab.page.locator("#chat-box .thumbnail-item")).to_have_count(2)
    expect(tab.page.locator("#chat-box textarea")).to_have_value("my draft")
    tab.page.press("#chat-box textarea", "Enter")
    tab.wait_text("#chat .bot", "You said: my draft [2 pictures, 1 messages]")


def test_a_document_becomes_pictures_of_its_pages_and_others_can_be_chosen(
    tab: Tab, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.pdf").write_bytes(pdf(12))
    add(tab, picture)
    expect(tab.page.locator(THUMBNAILS)).to_have_count(1)
    drag(tab, "#chat", tmp_path / "report.pdf")
    pages = tab.page.get_by_label("Pages of “report.pdf”: 12 in all, up to 8 at once")
    expect(pages).to_have_value("1-8")
    expect(tab.page.locator(THUMBNAILS)).to_have_count(9)
    pages.fill("2-3，11")
    pages.press("Enter")
    expect(pages).to_have_value("2-3, 11")
    expect(tab.page.locator(THUMBNAILS)).to_have_count(4)
    pages.fill("13")
    pages.press("Enter")
    tab.wait_text("body", "There is no such page: the document has 12.")
    expect(pages).to_have_value("2-3, 11")
    tab.ask("which pages?")
    tab.wait_text("#chat .bot", "You said: which pages? [4 pictures, 1 messages]")
    expect(pages).to_be_hidden()  # they are sent


def test_each_document_has_its_pages_to_choose_after_a_reload_too(tab: Tab, tmp_path: Path) -> None:
    for name, count in (("report", 5), ("letter", 2)):
        (tmp_path / f"{name}.pdf").write_bytes(pdf(count))
        add(tab, tmp_path / f"{name}.pdf")
        expect(tab.page.get_by_label(f"Pages of “{name}.pdf”: {count} in all")).to_be_visible()
    report, letter = (
        tab.page.get_by_label(f"Pages of “{name}.pdf”") for name in ("report", "letter")
    )
    report.fill("2")
    report.press("Enter")
    expect(tab.page.locator(THUMBNAILS)).to_have_count(3)
    tab.page.wait_for_timeout(1000)  # it is kept a moment after it is shown
    tab.open()
    expect(tab.page.locator(THUMBNAILS)).to_have_count(3)
    expect(report).to_have_value("2")
    expect(letter).to_have_value("1-2")
    report.fill("4-5")
    report.press("Enter")
    expect(tab.page.locator(THUMBNAILS)).to_have_count(4)
    expect(report).to_have_value("4-5")
    remove = tab.page.locator("#chat-box .thumbnail-item .delete-button").first
    remove.click()
    expect(tab.page.locator(THUMBNAILS)).to_have_count(3)
    expect(report).to_have_value("5")
    remove.click()
    expect(tab.page.locator(THUMBNAILS)).to_have_count(2)
    expect(report).to_be_hidden()
    expect(letter).to_have_value("1-2")
    tab.ask("which pages?")
    tab.wait_text("#chat .bot", "You said: which pages? [2 pictures, 1 messages]")


def test_a_page_that_is_removed_before_the_field_knows_the_choice_stays_away(
    tab: Tab, tmp_path: Path
) -> None:
    (tmp_path / "report.pdf").write_bytes(pdf(5))
    add(tab, tmp_path / "report.pdf")
    field = tab.page.get_by_label("Pages of “report.pdf”")
    expect(field).to_be_visible()
    # What tells the field which pages stand in the box is slow: it never comes.
    tab.page.evaluate("document.querySelector('#pages-of-chat-box').click = () => {}")
    field.fill("4-5")
    field.press("Enter")
    expect(tab.page.locator(THUMBNAILS)).to_have_count(2)
    tab.page.locator("#chat-box .thumbnail-item .delete-button").first.click()
    expect(tab.page.locator(THUMBNAILS)).to_have_count(1)
    tab.page.wait_for_timeout(1000)  # the field was left: what it asks for would be back by now
    expect(tab.page.locator(THUMBNAILS)).to_have_count(1)


def test_pages_tell_whose_they_are() -> None:
    paths = [f"/up/a.pdf-page-{number}-of-12.jpg" for number in (3, 1)]
    (found,) = documents_in([paths[0], "/up/other.jpg", paths[1], "/up/a.pdf-page-x-of-3.jpg"])
    assert found == Opened(Path("/up/a.pdf"), 12, [3, 1])


def test_a_clip_in_the_chat_is_offered_to_the_video_tab(tab: Tab, clips: list[Path]) -> None:
    drag(tab, "#chat", clips[0])
    offer = tab.page.locator("#undo-bar")
    expect(offer).to_contain_text("“two.webm” is a clip.")
    offer.get_by_role("button", name="Open in the Video tab").click()
    tab.wait_text("#video-note", "of a clip of 2.0 s")
    expect(tab.page.locator("#chat-box .thumbnail-item")).to_have_count(0)


def test_pictures_stand_side_by_side_and_a_click_or_enter_enlarges(tab: Tab, picture: Path) -> None:
    add(tab, picture, CHART)
    thumbnail = tab.page.locator(THUMBNAILS).nth(1)
    whole = tab.page.get_by_role("dialog", name="Enlarge picture 2").locator("img")
    for opened_by in (thumbnail.click, lambda: thumbnail.press("Enter")):
        opened_by()
        expect(whole).to_be_in_viewport(ratio=1)
        tab.page.keyboard.press("Escape")
        expect(tab.page.get_by_role("dialog")).to_have_count(0)
        expect(thumbnail).to_be_focused()
    expect(tab.page.locator(THUMBNAILS)).to_have_count(2)
    tab.ask_whole("and?")
    sent = tab.page.locator("#chat .user-row img")
    left, right = (sent.nth(index).bounding_box() for index in range(2))
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"]
    assert abs(left["y"] - right["y"]) < 4
    sent.nth(0).click()
    expect(tab.page.locator("dialog.enlarged img")).to_be_in_viewport(ratio=1)
    tab.page.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(tab.page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=str)
def test_the_camera_opens_in_view(tab: Tab, size: tuple[int, int]) -> None:
    tab.page.set_viewport_size({"width": size[0], "height": size[1]})
    tab.page.click("#webcam-panel .label-wrap")
    expect(tab.page.locator("#webcam")).to_be_in_viewport(ratio=0.98)


def test_a_long_paste_stays_text_side_by_side_too(tab: Tab) -> None:
    open_tab(tab, "Side by side")
    pasted = "word " * 2000
    box = tab.page.locator("#compare-box textarea")
    tab.page.evaluate("(text) => navigator.clipboard.writeText(text)", pasted)
    box.focus()
    tab.page.keyboard.press("Control+V")
    expect(box).to_have_value(pasted)
    expect(tab.page.locator("#compare-box .thumbnail-item")).to_have_count(0)


def test_both_languages_have_the_words_of_adding() -> None:
    english, chinese = ADDING_WORDS["en"], ADDING_WORDS["zh"]
    assert english.keys() == chinese.keys()
    fields = re.compile(r"\{\w+\}")
    for key, text in english.items():
        assert set(fields.findall(text)) == set(fields.findall(chinese[key])), key
