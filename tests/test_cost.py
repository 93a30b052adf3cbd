"""What a question will cost is told before it is asked, and is what it then costs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, expect
from support.browser_app import Tab, chromium, running_page
from support.held import inference_held
from support.scripted_engine import READY, ScriptedEngine
from test_counting import Huge
from test_engine import GREEDY, assistant, opened, picture, run, user

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.errors import Unsupported
from qwen_vl.schema import Cost, ImagePart, paired
from qwen_vl.ui.cost import line_html, picture_sum
from qwen_vl.ui.presets import lower_detail
from qwen_vl.ui.waiting import duration

FRAMES = [ImagePart(picture(10 + i, 128, 96), i * 2.0) for i in range(5)]
FIRST = [user(picture(1, 160, 128), picture(2, 320, 256), "Describe both.")]
CONVERSATIONS = {
    "a text": [user("Hello")],
    "pictures": FIRST,
    "a later turn": [*FIRST, assistant("A circle."), user("And the other one?")],
    "a new picture in a later turn": [*FIRST, assistant("A circle."), user(picture(3), "And?")],
    "frames of a clip": [user(*FRAMES, "Summarise as a timeline.")],
    "frames in pairs": [user(*paired(FRAMES), "Summarise as a timeline.")],
}


# --- the engine counts ---


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_is_counted_is_what_is_used(name: str, bundled_engine: Engine) -> None:
    messages = CONVERSATIONS[name]
    cost = bundled_engine.count(messages, GREEDY)
    usage = run(bundled_engine, messages, replace(GREEDY, max_new_tokens=1))[-1].usage
    assert cost.prompt_tokens == usage.prompt_tokens
    assert len(cost.picture_tokens) == sum(len(message.images) for message in messages)
    if "frames" not in name:  # the times of those are text
        without = [replace(message, parts=message.parts[-1:]) for message in messages]
        marks = 2 * len(cost.picture_tokens)  # one before each picture, one after it
        rest = bundled_engine.count(without, GREEDY).prompt_tokens
        assert cost.prompt_tokens == rest + marks + sum(cost.picture_tokens)


def test_counting_decodes_nothing_and_waits_for_nothing(bundled_engine: Engine) -> None:
    asked = [user(ImagePart(Huge("cost a")), ImagePart(Huge("cost b")), "What is it?")]
    with inference_held(bundled_engine):
        few = bundled_engine.count(asked, replace(GREEDY, max_image_tokens=64))
        many = bundled_engine.count(asked, replace(GREEDY, max_image_tokens=128))
    assert (few.picture_tokens, many.picture_tokens) == ((64, 64), (121, 121))
    assert not few.is_too_long


def test_what_is_too_long_is_counted_and_not_refused() -> None:
    engine = opened(Settings(model="bundled", max_context_tokens=512))
    try:
        cost = engine.count([user("word " * 600)], GREEDY)
        assert cost.most_tokens == 512 < cost.prompt_tokens
        assert cost.is_too_long
    finally:
        engine.close()


def test_the_first_word_is_expected_once_speeds_were_measured(
    tiny_checkpoints: dict[str, Path],
) -> None:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"]), prefix_cache_mb=64))
    shown, unseen = ([user(picture(seed, 512, 512), "What is it?")] for seed in (1, 2))
    try:
        assert engine.count(shown, GREEDY).ttft_s is None
        run(engine, shown)
        again = engine.count(shown, GREEDY).ttft_s
        # What was read already is not read once more; nobody else is told that somebody has.
        assert 0 < again < engine.count(unseen, GREEDY).ttft_s
        told = {engine.count(asked, GREEDY, "another").ttft_s for asked in (shown, unseen)}
        assert len(told) == 1
    finally:
        engine.close()


def test_a_model_that_reads_text_only_says_so(tiny_checkpoints: dict[str, Path]) -> None:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen_text"])))
    try:
        with pytest.raises(Unsupported, match="remove the pictures"):
            engine.count(FIRST, GREEDY)
    finally:
        engine.close()


# --- the line ---


def test_pictures_are_added_up() -> None:
    assert picture_sum([256]) == "256"
    assert picture_sum([256, 256]) == "2 × 256 = 512"
    assert picture_sum([256, 180]) == "256 + 180 = 436"
    assert picture_sum([100, 200, 300, 400, 500]) == "5 × 100–500 = 1,500"


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (75, "75 s"), (290, "5 min")])
def test_seconds_are_told_as_seconds_until_nobody_counts_them(seconds: float, words: str) -> None:
    assert duration(seconds, "en") == words


def test_the_next_lower_detail() -> None:
    status, settings = replace(READY, most_image_tokens=2048), Settings()
    assert lower_detail(2048, settings, status) == "balanced"
    assert lower_detail(1280, settings, status) == "fast"
    assert lower_detail(300, settings, status) == "fast"  # a mixture of one's own
    assert lower_detail(256, settings, status) is None


def test_nothing_is_said_that_is_not_known() -> None:
    told = line_html(Cost(1310, (256,), 32768), 1, None, "en")
    assert re.sub("<[^>]*>", "", told) == "1,310 of 32,768 tokens (4 %) · picture: 256"


# --- the page ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(bundled_engine: Engine) -> Iterator[str]:
    # Its pictures take 256 tokens at most: with fewer as usual there is something to lower.
    with running_page(bundled_engine, settings=Settings(port=0, image_tokens=100)) as address:
        yield address


def prompt_tokens(words: str) -> int:
    """The first figure of the line, or that of an answer's statistics."""
    found = re.search(r"([\d,]+)(?: of [\d,]+ tokens| prompt tokens)", words)
    assert found, words
    return int(found[1].replace(",", ""))


def told_by(line: Locator) -> int:
    """The line's first figure, once it has one."""
    expect(line).to_be_visible()
    expect(line).to_contain_text(re.compile(r"[\d,]+ of [\d,]+ tokens"))
    return prompt_tokens(line.inner_text())


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_line_follows_pictures_and_detail_and_tells_the_truth(
    browser: Browser, url: str, tmp_path: Path, width: int, height: int
) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, (path, side) in enumerate(zip(files, (640, 480), strict=True)):
        picture(seed, side, 480).save(path)
    context = browser.new_context(locale="en-GB", viewport={"width": width, "height": height})
    kept = json.dumps(json.dumps({"detail": "fine", "max_image_tokens": 256}))
    context.add_init_script(f"localStorage['qwen-vl'] ??= {kept}")
    page = context.new_page()
    tab = Tab(page, url).open()
    line, lower = page.locator("#chat-cost"), page.locator("#chat-cost .less-detail")
    expect(line).not_to_be_visible()
    top = page.locator("#chat-box").bounding_box()["y"]
    page.fill("#chat-box textarea", "Which is larger?")
    expect(line).to_be_visible()
    assert page.locator("#chat-box").bounding_box()["y"] == top  # nothing has moved
    page.set_input_files("#chat-box input[type=file]", files)
    expect(line).to_contain_text("pictures: 234 + 225 = 459")
    expect(lower).to_have_text("Less detail (Balanced)")
    lower.click()
    page.evaluate("cost.chat.told()")  # as when an earlier count comes only now
    expect(line).to_contain_text("pictures: 88 + 100 = 188")
    expect(lower).to_have_count(0)  # it is the lowest
    expect(page.locator("#cost-announced")).to_contain_text("88 + 100 = 188")
    page.locator("#chat-box button[aria-label*=emove]").first.click()
    expect(line).to_contain_text("picture: 100")
    told = told_by(line)
    page.press("#chat-box textarea", "Enter")
    expect(line).not_to_be_visible()
    tab.wait_text("#chat .bot", "prompt tokens")
    assert prompt_tokens(page.inner_text("#chat")) == told
    tab.wait_idle()
    page.fill("#chat-box textarea", "And what else?")  # the history counts as well
    expect(line).to_be_visible()
    later = told_by(line)
    assert later > told
    page.press("#chat-box textarea", "Enter")
    statistics = page.locator("#chat .bot", has_text="prompt tokens")
    expect(statistics).to_have_count(2)
    assert prompt_tokens(statistics.last.inner_text()) == later
    tab.wait_idle()
    assert tab.error_overlays() == 0
    context.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_line_of_a_clip_follows_frames_and_detail_and_tells_the_truth(
    browser: Browser, url: str, tmp_path: Path, width: int, height: int
) -> None:
    clip = tmp_path / "clip.webm"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"VP80"), 10, (320, 240))
    for index in range(40):
        writer.write(np.full((240, 320, 3), (0, 0, 255 * (index // 20)), np.uint8))
    writer.release()
    context = browser.new_context(locale="en-GB", viewport={"width": width, "height": height})
    page = context.new_page()
    tab = Tab(page, url).open()
    page.get_by_role("tab", name="Video").click()
    line, lower = page.locator("#video-cost"), page.locator("#video-cost .less-detail")
    expect(line).not_to_be_visible()
    page.set_input_files("#clip input[type=file]", clip)
    tab.wait_text("#video-note", "4 frames")
    expect(line).to_contain_text("frames: 4 × 117 = 468")  # what a timeline will cost
    expect(page.locator("#ask")).to_be_in_viewport(ratio=1)
    page.locator("#frames .strip input").first.uncheck()
    expect(line).to_contain_text("frames: 3 × 117 = 351")
    page.locator("#frames .strip input").first.check()
    expect(lower).to_contain_text("Less detail")
    lower.click()
    expect(line).to_contain_text("frames: 4 × 48 = 192")
    page.click("#choose-frames .label-wrap")
    expect(page.locator("#frame-tokens input[type=number]")).to_have_value("48")
    page.click("#choose-frames .label-wrap")
    of_timeline = told_by(line)
    page.fill("#question textarea", "What happens?")
    expect(line).not_to_contain_text(f"{of_timeline} of")
    told = told_by(line)
    page.click("#ask")
    expect(line).not_to_be_visible()
    tab.wait_text("#video-chat .bot", "prompt tokens")
    assert prompt_tokens(page.inner_text("#video-chat")) == told
    page.wait_for_selector("#ask:not([disabled])")
    expect(line).not_to_be_visible()  # nothing is asked
    assert tab.error_overlays() == 0
    context.close()


def test_what_will_be_refused_is_said_before(browser: Browser, url: str) -> None:
    context = browser.new_context(locale="zh-CN", viewport={"width": 390, "height": 844})
    page = context.new_page()
    Tab(page, url).open()
    page.fill("#chat-box textarea", "a b c d " * 5000)
    expect(page.locator("#chat-cost .refused")).to_contain_text("此模型最多")
    expect(page.locator("#cost-announced")).to_contain_text("此模型最多")
    page.fill("#chat-box textarea", "")
    expect(page.locator("#chat-cost")).not_to_be_visible()
    context.close()


def test_an_engine_that_cannot_count_says_nothing(browser: Browser, tmp_path: Path) -> None:
    """But what the server itself refuses is known before."""
    picture(1).save(tmp_path / "a.png")
    with running_page(ScriptedEngine()) as url:
        context = browser.new_context(locale="en-GB")
        page = context.new_page()
        Tab(page, url).open()
        page.fill("#chat-box textarea", "x" * 300_000)
        expect(page.locator("#chat-cost")).to_contain_text(
            "300,000 characters are more than the limit"
        )
        page.fill("#chat-box textarea", "short")
        expect(page.locator("#chat-cost p")).to_have_count(0)
        context.close()
