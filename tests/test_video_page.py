"""The Video tab in a real browser: everything in one screen, ticks, times, subtitles, edits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import ScriptedEngine, echo

from qwen_vl.schema import Message

LONG = "count"  # this question gets a long answer
LONG_WORDS = 2000
CLIP_FPS = 10
CLIP_SECONDS = 12
TIMELINE = (
    "0.0 s: dark & still\n\n00:05 - 00:08: it <brightens>\n\n<10.0 seconds> bright\n\n99.0 s: never"
)


def script(messages: Sequence[Message]) -> str:
    asked = messages[-1].text
    if asked.startswith(LONG):
        return " ".join(f"{asked.split()[-1]}{i}" for i in range(LONG_WORDS))
    if asked.startswith("Summarise as a timeline."):
        return TIMELINE
    if asked.startswith("when"):
        return "At 4.0 s, at 00:06, from 7 to 8 s and 9 秒; 3 shapes, 10:30 pm, `v1.2`."
    return echo(messages)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_page(ScriptedEngine(script, delay_s=0.02)) as address:
        yield address


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds of WebM, which every Chromium plays."""
    path = tmp_path_factory.mktemp("clip") / "clip.webm"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), CLIP_FPS, (160, 120))
    for index in range(CLIP_SECONDS * CLIP_FPS):
        writer.write(np.full((120, 160, 3), (0, 0, 20 * (index // CLIP_FPS)), np.uint8))
    writer.release()
    return path


def opened(browser: Browser, url: str, width: int = 1280, height: int = 900) -> Tab:
    size = {"width": width, "height": height}
    context = browser.new_context(locale="en-GB", viewport=size, has_touch=width < 640)
    tab = Tab(context.new_page(), url).open()
    tab.page.get_by_role("tab", name="Video").click()
    return tab


@pytest.fixture
def tab(browser: Browser, url: str) -> Iterator[Tab]:
    made = opened(browser, url)
    yield made
    assert made.error_overlays() == 0
    made.page.context.close()


def read(tab: Tab, clip: Path) -> None:
    """Reads the clip every five seconds: three frames."""
    tab.page.click("#choose-frames .label-wrap")
    tab.page.get_by_label("Every N seconds").check()
    tab.page.wait_for_selector("#every-s")
    tab.page.click("#choose-frames .label-wrap")
    tab.page.set_input_files("#clip input[type=file]", clip)
    tab.wait_text("#video-note", "3 frames")
    tab.page.wait_for_function("document.querySelectorAll('#kept input').length === 3")


def ask(tab: Tab, question: str) -> None:
    tab.page.fill("#question textarea", question)
    tab.page.click("#ask")


def wait_idle(tab: Tab) -> None:
    tab.wait_text("#video-chat .bot", "tokens/s")
    tab.page.wait_for_selector("#timeline:not([disabled])")


def wait_played_to(page: Page, at: float) -> None:
    page.wait_for_function(
        "(at) => Math.abs(document.querySelector('#clip video').currentTime - at) < 0.05", arg=at
    )


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_everything_is_in_one_screen(
    browser: Browser, url: str, clip: Path, size: tuple[int, int]
) -> None:
    tab = opened(browser, url, *size)
    read(tab, clip)

    for part in ("#clip", "#frames .strip", "#video-chat", "#question", "#ask"):
        box = tab.page.locator(part).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + min(box["height"], 60) <= size[1], part
    ask_bottom = "document.querySelector('#ask').getBoundingClientRect().bottom"
    assert tab.page.evaluate(ask_bottom) <= size[1]
    assert tab.page.locator("#video-chat").bounding_box()["height"] >= 120
    ask(tab, "when?")
    wait_idle(tab)
    tab.page.locator("#video-chat .time", has_text="00:06").click()
    wait_played_to(tab.page, 6)
    player = tab.page.locator("#clip video").bounding_box()
    assert 0 <= player["y"] < size[1] / 2
    tab.page.context.close()


def test_frames_are_ticked_on_their_pictures_and_stay_so(tab: Tab, clip: Path) -> None:
    page = tab.page
    read(tab, clip)
    assert page.locator("#frames .strip label span").all_inner_texts() == [
        "0.0 s",
        "5.0 s",
        "10.0 s",
    ]
    size = page.evaluate(
        "parseFloat(getComputedStyle(document.querySelector('.strip label span')).fontSize)"
    )
    assert size >= 12
    page.locator("#frames .frame > button").nth(1).click()
    wait_played_to(page, 5)
    page.locator("#frames .strip input").nth(1).uncheck()
    ask(tab, "what happens?")
    tab.wait_text("#video-chat .bot", "You said: what happens? [2 pictures, 1 messages]")
    wait_idle(tab)
    # Another number of frames: those on the page are marked as old until they are read anew.
    page.click("#choose-frames .label-wrap")
    page.fill("#every-s input", "2.5")
    page.wait_for_selector("#frames.is-stale .stale-note", state="visible")
    page.fill("#every-s input", "5")
    page.wait_for_selector("#frames:not(.is-stale)")
    page.fill("#every-s input", "2.5")
    page.click("#extract")
    tab.wait_text("#video-note", "5 frames")
    page.wait_for_function("document.querySelectorAll('#kept input').length === 5")
    left_out = "[...document.querySelectorAll('{} input')].map((box) => box.checked)"
    expected = [True, True, False, True, True]  # 5.0 s stays left out
    page.wait_for_function(
        f"JSON.stringify({left_out.format('#kept')}) === '{json.dumps(expected).replace(' ', '')}'"
    )
    assert page.evaluate(left_out.format("#frames .strip")) == expected
    expect(page.locator("#frames.is-stale")).to_have_count(0)
    page.click("#frames [data-ticks=none]")
    page.wait_for_function("document.querySelectorAll('#kept input:checked').length === 0")
    ask(tab, "and now?")
    tab.wait_text(".toast-body", "leave at least one")
    page.click("#frames [data-ticks=all]")
    page.wait_for_function("document.querySelectorAll('#kept input:checked').length === 5")
    page.click("#ask")
    tab.wait_text("#video-chat .bot", "You said: and now? [5 pictures, 3 messages]")


def test_times_in_answers_are_links(tab: Tab, clip: Path) -> None:
    page = tab.page
    read(tab, clip)
    ask(tab, "when?")
    wait_idle(tab)
    links = page.locator("#video-chat .time")
    expect(links).to_have_text(["4.0 s", "00:06", "7", "8 s", "9 秒"])
    for index, at in enumerate([4, 6, 7, 8, 9]):
        links.nth(index).click()
        wait_played_to(page, at)


def test_a_timeline_is_subtitles_and_files(tab: Tab, clip: Path, tmp_path: Path) -> None:
    page = tab.page
    read(tab, clip)
    page.click("#timeline")
    wait_idle(tab)
    assert page.locator("#video-chat .time").all_inner_texts() == [
        *("0.0 s", "00:05", "00:08", "10.0 seconds")
    ]
    saved = {}
    for name in ("SRT", "WebVTT", "JSON"):
        with page.expect_download() as download:
            page.click(f".timeline-tools button:text-is('{name}')")
        saved[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[name])
    events = json.loads(saved["JSON"].read_text())
    assert [event["start"] for event in events[:3]] == [0, 5, 10]
    assert [event["end"] for event in events[:2]] == [5, 8]
    assert events[0]["text"] == "dark & still"
    assert "00:00:05,000 --> 00:00:08,000\nit <brightens>" in saved["SRT"].read_text()
    vtt = saved["WebVTT"].read_text()
    assert vtt.startswith("WEBVTT\n")
    assert "00:00:05.000 --> 00:00:08.000\nit &lt;brightens&gt;" in vtt
    page.click(".timeline-tools .show")
    tracks = (
        "[...document.querySelector('#clip video').textTracks].filter((t) => t.mode === 'showing')"
    )
    assert page.evaluate(f"{tracks}[0].cues.length") >= 3
    page.locator("#video-chat .time", has_text="00:05").click()
    page.wait_for_function(f"{tracks}[0].activeCues[0]?.text.includes('brightens')")
    page.click(".timeline-tools .show")
    assert page.evaluate(f"{tracks}.length") == 0


def test_a_question_about_a_clip_is_edited(tab: Tab, clip: Path) -> None:
    page = tab.page
    read(tab, clip)
    ask(tab, "frist")
    wait_idle(tab)
    page.click("#video-chat button[aria-label='Edit']")
    page.fill("#video-chat .user textarea", "first")
    page.click("#video-chat button[aria-label='Submit']")
    tab.wait_text("#video-chat .bot", "You said: first [3 pictures, 1 messages]")


def test_versions_of_a_question_about_a_clip_are_kept(tab: Tab, clip: Path) -> None:
    page = tab.page
    said = page.locator("#video-chat .bot.message").filter(has_text="You said")
    versions = page.locator("#video-chat .versions")
    read(tab, clip)
    ask(tab, "first")
    wait_idle(tab)
    page.click("#video-chat button[aria-label='Edit']")
    page.fill("#video-chat .user textarea", "second")
    page.click("#video-chat button[aria-label='Submit']")
    expect(versions).to_contain_text("2/2")
    page.get_by_role("button", name="Retry").click()
    expect(versions).to_contain_text("3/3")
    page.get_by_role("button", name="Earlier version").click()
    expect(versions).to_contain_text("2/3")
    page.get_by_role("button", name="Earlier version").click()
    expect(said).to_contain_text("You said: first [3 pictures, 1 messages]")
    page.reload()
    page.get_by_role("tab", name="Video").click()
    expect(versions).to_contain_text("1/3")
    page.get_by_role("button", name="Later version").click()
    expect(said).to_contain_text("You said: second")
    tab.wait_text("#video-note", "3 frames")  # read anew: the clip came back as well
    ask(tab, "third")
    expect(said).to_have_text([re.compile("second"), re.compile(r"third \[3 pictures, 3 messages")])
    wait_idle(tab)
    page.get_by_role("button", name="Delete").first.click()
    expect(said).to_have_count(1)
    page.locator("#undo-bar").get_by_role("button", name="Undo").click()
    expect(said).to_have_count(2)
    # Cleared, it can come back; what is asked after that begins anew.
    page.get_by_role("button", name="Clear").last.click()
    expect(said).to_have_count(0)
    ask(tab, "fourth")
    wait_idle(tab)
    expect(said).to_have_count(1)
    expect(versions).to_have_count(0)
    page.locator("#undo-bar").get_by_role("button", name="Undo").click()
    expect(said).to_have_text([re.compile("second"), re.compile("third")])
    expect(versions).to_contain_text("2/3")


def test_stop_in_the_video_tab(tab: Tab, clip: Path) -> None:
    page = tab.page
    read(tab, clip)
    ask(tab, f"{LONG} v")
    tab.wait_text("#video-chat .bot", "v5")
    page.click("#video-stop")
    tab.wait_text("#video-chat .bot", "stopped")
    page.wait_for_selector("#ask:not([disabled])")
    assert f"v{LONG_WORDS - 1}" not in tab.text("#video-chat")


def test_a_broken_clip_is_refused_in_words(tab: Tab, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 100)
    tab.page.set_input_files("#clip input[type=file]", broken)
    tab.wait_text("#video-note", "⚠️")
    expect(tab.page.locator("#frames .frame")).to_have_count(0)
