"""Boxes and points in a real browser: drawn over the right picture, linked, saved, asked about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import ScriptedEngine

from qwen_vl.schema import Message

BOXES = (
    '```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "红色 car"}, '
    '{"point_2d": [500, 500], "label": "dot"}]\n```\nTwo of them.'
)
ONE = '[{"bbox_2d": [500, 0, 1000, 1000], "label": "half"}]'
DOCUMENT = (
    '```html\n<h1 data-bbox="100 50 600 120">Invoice <b>J-67</b></h1>'
    "<script>document.title = 'broken'</script>"
    '<p data-bbox="100 150 500 200" onclick="x()">Dear <a href="http://127.0.0.1:9/">Anna</a></p>'
    '<img data-bbox="600 650 900 900" src="http://127.0.0.1:9/spy.png">\n```'
)
MARKDOWN = "# Report\n\nSome *text*.\n\n<!-- Image (100, 270, 475, 495) -->\n\nThe end."


def script(messages: Sequence[Message]) -> str:
    asked = messages[-1].text
    for word, answer in (("html", DOCUMENT), ("markdown", MARKDOWN), ("half", ONE)):
        if word in asked:
            return answer
    return BOXES if "boxes" in asked else f"You said: {asked}"


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with running_page(ScriptedEngine(script, delay_s=0.02)) as url, chromium() as browser:
        context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
        yield Tab(context.new_page(), url).open()


def new_chat(tab: Tab) -> None:
    if tab.page.locator("#chat .user-row").count():
        tab.page.click("#new-chat")
        tab.page.wait_for_function("document.querySelectorAll('#chat .user-row').length === 0")


@pytest.fixture
def chat(tab: Tab, tmp_path: Path) -> Tab:
    """An empty chat, and the pictures red.png and blue.png beside it."""
    new_chat(tab)
    Image.new("RGB", (200, 100), "red").save(tmp_path / "red.png")
    Image.new("RGB", (100, 100), "blue").save(tmp_path / "blue.png")
    return tab


def ask(tab: Tab, question: str, *pictures: Path) -> None:
    if pictures:
        tab.page.set_input_files("#chat-box input[type=file]", pictures)
        tab.page.wait_for_function(
            "(count) => document.querySelectorAll('#chat-box img').length === count",
            arg=len(pictures),
        )
    tab.ask(question)
    tab.wait_text("#chat .bot", "tokens/s")
    tab.wait_idle()


def again(*pictures: Path) -> list[Path]:
    """The same under other names: a browser says nothing when the same file is chosen twice."""
    return [Path(shutil.copy(path, path.with_stem(f"{path.stem}-again"))) for path in pictures]


def edges(page: Page, selector: str) -> list[float]:
    box = page.locator(selector).first.bounding_box()
    return [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]


def test_boxes_lie_over_the_picture_and_light_up_with_their_list(chat: Tab, tmp_path: Path) -> None:
    page = chat.page
    ask(chat, "boxes", tmp_path / "red.png")
    page.wait_for_function("document.querySelector('.places img').naturalWidth === 200")
    left, top, right, bottom = edges(page, ".places img")
    assert (right - left) / (bottom - top) == pytest.approx(2, abs=0.02)
    expected = [left + 0.1 * (right - left), top + 0.2 * (bottom - top)]
    expected += [left + 0.3 * (right - left), top + 0.4 * (bottom - top)]
    assert edges(page, ".marks rect") == pytest.approx(expected, abs=4)
    expect(page.locator(".marks text").first).to_have_text("红色 car")
    size = page.evaluate(
        "parseFloat(getComputedStyle(document.querySelector('.marks text')).fontSize)"
    )
    assert size >= 12
    expect(page.locator(".places .place .name")).to_have_text(["红色 car", "dot"])
    page.hover(".places .place >> nth=1")
    expect(page.locator(".mark.is-lit text")).to_have_text(["dot"])
    page.hover(".marks rect")
    expect(page.locator(".place.is-lit .name")).to_have_text(["红色 car"])
    # The model's JSON is folded: it stands nowhere else, and its words around it stay.
    expect(page.locator("text=bbox_2d").first).to_be_hidden()
    chat.wait_text("#chat .bot", "Two of them.")
    page.click(".places summary")
    assert '"bbox_2d": [100, 200, 300, 400]' in page.inner_text(".places details pre")


def test_boxes_as_files(chat: Tab, tmp_path: Path) -> None:
    page = chat.page
    ask(chat, "boxes", tmp_path / "red.png")
    page.wait_for_function("document.querySelector('.places img').naturalWidth === 200")
    saved = {}
    for name in ("PNG", "JSON", "COCO"):
        with page.expect_download() as download:
            page.click(f".places .tools button:text-is('{name}')")
        saved[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[name])
    with Image.open(saved["PNG"]) as image:
        assert image.size == (200, 100)
        assert image.convert("RGB").getpixel((150, 80)) == pytest.approx((255, 0, 0), abs=6)
        colours = image.convert("RGB").crop((18, 30, 24, 38)).getcolors()
        assert len(colours) > 1  # the left edge of the box
    places = json.loads(saved["JSON"].read_text())
    assert (places["width"], places["height"]) == (200, 100)
    assert places["places"] == [
        {"label": "红色 car", "box": [20, 20, 60, 40]},
        {"label": "dot", "point": [100, 50]},
    ]
    coco = json.loads(saved["COCO"].read_text())
    assert coco["annotations"][0]["bbox"] == [20, 20, 40, 20]
    assert [one["name"] for one in coco["categories"]] == ["红色 car", "dot"]
    assert coco["annotations"][1]["keypoints"] == [100, 50, 2]


def shown_picture(page: Page) -> str:
    """The colour in the middle of the picture under the boxes."""
    return page.evaluate(
        """async () => {
            const image = document.querySelector(".places .canvas img");
            await image.decode();
            const pen = document.createElement("canvas").getContext("2d");
            pen.drawImage(image, 0, 0);
            const [red, green, blue] = pen.getImageData(20, 50, 1, 1).data;
            return red > blue ? "red" : "blue";
        }"""
    )


def test_the_picture_that_is_named_or_chosen(chat: Tab, tmp_path: Path) -> None:
    page = chat.page
    ask(chat, "half of picture 1", tmp_path / "red.png", tmp_path / "blue.png")
    assert shown_picture(page) == "red"  # and not the last one
    new_chat(chat)
    ask(chat, "half", *again(tmp_path / "red.png", tmp_path / "blue.png"))
    chat.wait_text("#chat .bot", "which picture")
    expect(page.locator(".places figure")).to_have_count(0)
    page.click(".places .choice button >> nth=1")
    assert shown_picture(page) == "blue"
    page.wait_for_function(  # at one moment: the page may still make room above
        """() => {
            const edges = (part) => {
                const { left, top, right, bottom } = part.getBoundingClientRect();
                return [left, top, right, bottom];
            };
            const [canvas, image] = [".canvas", ".canvas img"].map((part) =>
                edges(document.querySelector(`.places ${part}`)));
            return canvas.every((edge, i) => Math.abs(edge - image[i]) <= 1);
        }"""
    )
    canvas = edges(page, ".places .canvas")
    assert edges(page, ".places .list")[0] >= canvas[2]  # beside it
    page.click(".places .choice button >> nth=0")
    assert shown_picture(page) == "red"
    assert page.get_attribute(".places .choice button >> nth=0", "aria-pressed") == "true"
    page.reload()  # the page brings it back
    chat.wait_text("#chat .bot", "which picture")
    page.click(".places .choice button >> nth=1")
    assert shown_picture(page) == "blue"


def test_a_region_drawn_by_hand_goes_into_the_question(chat: Tab, tmp_path: Path) -> None:
    page = chat.page
    ask(chat, "hello", tmp_path / "red.png")
    page.fill("#chat-box textarea", "what is it?")
    page.click("#region")
    left, top, right, bottom = edges(page, "dialog .canvas")
    page.mouse.move(left + (right - left) * 0.25, top + (bottom - top) * 0.5)
    page.mouse.down()
    page.mouse.move(left + (right - left) * 0.75, top + (bottom - top) * 0.9, steps=3)
    page.mouse.up()
    page.click("dialog .use")
    value = "document.querySelector('#chat-box textarea').value"
    page.wait_for_function(f"{value}.includes('In picture 1, the region [')")
    asked = page.input_value("#chat-box textarea")
    assert asked.endswith("what is it?")
    numbers = json.loads(asked[asked.index("[") : asked.index("]") + 1])
    assert numbers == pytest.approx([250, 500, 750, 900], abs=8)
    page.fill("#chat-box textarea", "")
    page.click("#region")
    page.wait_for_selector("dialog[open]")
    page.mouse.click(left + (right - left) * 0.5, top + (bottom - top) * 0.5)
    page.click("dialog .use")
    page.wait_for_function(f"{value}.includes('In picture 1, the point [')")
    page.fill("#chat-box textarea", "")
    page.click("#region")  # by keyboard alone
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{value}.includes('[355, 375, 605, 645]')")
    page.click("#region")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_documents_have_a_safe_preview(chat: Tab, tmp_path: Path) -> None:
    page = chat.page
    asked_elsewhere = []
    page.on("request", lambda it: asked_elsewhere.append(it.url) if ":9/" in it.url else None)
    ask(chat, "html", tmp_path / "red.png")
    expect(page.locator(".preview h1")).to_have_text("Invoice J-67")
    expect(page.locator(".marks rect")).to_have_count(3)
    inside = page.inner_html(".preview")
    assert not any(bad in inside for bad in ("<script", "onclick", "href", ":9/"))
    expect(page.locator(".preview .cut img")).to_have_count(1)
    page.hover(".preview p")
    expect(page.locator(".mark.is-lit text")).to_have_text(["p"])
    assert page.title() == "Qwen-VL"
    assert asked_elsewhere == []
    new_chat(chat)
    ask(chat, "markdown", *again(tmp_path / "red.png"))
    expect(page.locator(".preview h1")).to_have_text("Report")
    expect(page.locator(".preview .cut")).to_have_count(1)
    expect(page.locator(".preview")).not_to_contain_text("Image (")
