"""The list of chats, their versions, and the file of one: in a real browser, and what a server lets
in."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Download, expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import ScriptedEngine, echo

from qwen_vl.config import Settings
from qwen_vl.schema import Message
from qwen_vl.ui.chat import Chat
from qwen_vl.ui.chat_strings import CHAT_EN, CHAT_ZH
from qwen_vl.ui.chats import Chats
from qwen_vl.ui.history import answer_turn, text_of, user_turns
from qwen_vl.ui.keeping import Keeping
from qwen_vl.ui.markup import as_typed, to_page
from qwen_vl.ui.runs import Runs
from qwen_vl.ui.sidebar import lay_out
from qwen_vl.ui.strings import EN
from qwen_vl.ui.video import VideoChat
from qwen_vl.ui.video_file import VideoFile

HOSTILE = "<img src=x onerror=\"document.title='broken'\"> **bold** $x^2$"


def script(messages: Sequence[Message]) -> str:
    if messages[-1].text.startswith("hostile"):
        return f"{HOSTILE}\n\n- [x] done\n\n| a |\n|--:|\n| 1 |\n\n[x](javascript:alert(1))"
    return echo(messages)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_page(ScriptedEngine(script)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def tab(browser: Browser, url: str) -> Iterator[Tab]:
    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
    opened = Tab(context.new_page(), url).open()
    failed: list[Any] = []
    opened.page.on("pageerror", lambda error: failed.append(error))
    yield opened
    assert failed == []
    assert opened.error_overlays() == 0
    context.close()


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (48, 32), "red").save(path)
    return path


def titles(tab: Tab) -> list[str]:
    """The list as it is shown, newest first."""
    names = tab.page.locator("#chats .chat-title").all_inner_texts()
    return [name.splitlines()[0] for name in names]


def new_chat(tab: Tab) -> None:
    tab.page.click("#new-chat")
    tab.page.wait_for_selector("#undo-bar")
    tab.page.wait_for_function("document.querySelectorAll('#chat .bot').length === 0")


def until_shown(tab: Tab, *texts: str) -> None:
    """Until the conversation has these questions, and no others."""
    tab.page.wait_for_function(
        """(texts) => {
            const shown = [...document.querySelectorAll("#chat .user.message p")];
            return JSON.stringify(shown.map((one) => one.innerText)) === JSON.stringify(texts);
        }""",
        arg=list(texts),
    )


def test_chats_are_listed_opened_renamed_searched_deleted_and_brought_back(tab: Tab) -> None:
    page = tab.page
    tab.ask_whole("about whales")
    new_chat(tab)
    page.click("#undo-bar button >> nth=0")  # clearing is undone
    until_shown(tab, "about whales")
    new_chat(tab)
    tab.ask_whole("about <b>birds</b>")
    page.click("#show-chats")
    assert titles(tab) == ["about <b>birds</b>", "about whales"]
    page.fill("#chats input[type=search]", "SAID whales")  # words of the answer, too
    assert titles(tab) == ["about whales"]
    page.get_by_label("Rename “about whales”").click()
    page.keyboard.type("Sea")
    page.keyboard.press("Enter")
    page.fill("#chats input[type=search]", "sea")
    page.click("#chats .chat-title")
    until_shown(tab, "about whales")
    tab.ask("and more")  # it goes on where it was
    tab.wait_text("#chat .bot", "You said: and more [0 pictures, 3 messages]")
    tab.wait_idle()
    page.click("#show-chats")
    assert titles(tab) == ["Sea", "about <b>birds</b>"]
    page.get_by_label("Delete “Sea”").click()  # the one that is shown
    tab.page.wait_for_function("document.querySelectorAll('#chat .bot').length === 0")
    assert titles(tab) == ["about <b>birds</b>"]
    page.click("#undo-bar button >> nth=0")
    until_shown(tab, "about whales", "and more")
    tab.open()  # a reload
    until_shown(tab, "about whales", "and more")


def test_two_tabs_that_go_on_with_one_chat_lose_nothing(tab: Tab, url: str) -> None:
    tab.ask_whole("first")
    other = Tab(tab.page.context.new_page(), url).open()
    until_shown(other, "first")
    other.ask_whole("of the other tab")
    tab.ask_whole("of this tab")
    tab.page.click("#show-chats")
    tab.page.wait_for_function("document.querySelectorAll('#chats li').length === 2")
    tab.page.click("#chats li:not(.shown) .chat-title")
    until_shown(tab, "first", "of the other tab")


def test_the_oldest_chats_make_room_and_it_is_said(tab: Tab) -> None:
    tab.page.evaluate("""() => {
        const turns = [{ role: "user", content: [{ type: "text", text: "old ".repeat(4000) }] }];
        const tree = { next: [{ turns, next: [], at: -1 }], at: 0 };
        const chat = JSON.stringify({ title: "", tree });
        for (let i = 0; i < 220; i++)
            localStorage.setItem(`qwen-vl chat ${i}`, `${i + 1} x\\n${chat}`);
    }""")
    tab.open()
    tab.ask_whole("new")
    tab.wait_text("#undo-bar", "The oldest chats went")
    kept = tab.page.evaluate(
        "Object.keys(localStorage).filter((key) => key.startsWith('qwen-vl chat '))"
    )
    assert len(kept) == 200
    assert "qwen-vl chat 219" in kept
    assert "qwen-vl chat 0" not in kept


def versions(tab: Tab) -> list[str]:
    return tab.page.locator("#chat .versions").all_inner_texts()


def until_versions(tab: Tab, *told: str) -> None:
    tab.page.wait_for_function(
        """(told) => {
            const shown = [...document.querySelectorAll("#chat .versions")];
            return JSON.stringify(shown.map((one) => one.innerText)) === JSON.stringify(told);
        }""",
        arg=list(told),
    )


def test_an_edit_and_a_retry_keep_the_old_versions(tab: Tab) -> None:
    page = tab.page
    tab.ask_whole("first")
    tab.ask_whole("second")
    page.get_by_label("Edit the question").first.click()
    page.fill("#chat .edit-textarea", "changed")
    page.click("#chat button[aria-label='Submit']")
    until_shown(tab, "changed")
    tab.wait_text("#chat .bot", "You said: changed")
    tab.wait_idle()
    until_versions(tab, "2/2")
    page.get_by_label("Retry").click()
    until_versions(tab, "3/3")
    tab.wait_text("#chat .bot", "You said: changed")
    page.get_by_label("Earlier version").click()
    until_versions(tab, "2/3")
    page.get_by_label("Earlier version").click()
    until_shown(tab, "first", "second")
    until_versions(tab, "1/3")
    tab.open()  # versions are kept, too
    until_versions(tab, "1/3")
    page.get_by_label("Undo").last.click()
    until_shown(tab, "first")
    page.get_by_label("Back to the version before").click()
    until_shown(tab, "first", "second")
    page.get_by_label("Delete the question and its answer").first.click()
    until_shown(tab, "second")
    page.click("#undo-bar button >> nth=0")
    until_shown(tab, "first", "second")
    assert versions(tab) == ["1/3"]


def saved(tab: Tab, label: str) -> Download:
    tab.page.click("#show-chats")
    with tab.page.expect_download() as told:
        tab.page.get_by_role("button", name=label).click()
    return told.value


def opened(tab: Tab, file: dict[str, Any] | str, tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    path.write_text(file if isinstance(file, str) else json.dumps(file))
    tab.page.click("#show-chats")
    with tab.page.expect_file_chooser() as chooser:
        tab.page.get_by_role("button", name="Open a file").click()
    chooser.value.set_files(path)


def test_a_chat_goes_from_one_browser_to_another_as_a_file(
    tab: Tab, browser: Browser, url: str, red: Path, tmp_path: Path
) -> None:
    tab.page.set_input_files("#chat-box input[type=file]", red)
    tab.page.wait_for_selector("#chat-box img")
    tab.ask_whole("a red __one")
    tab.open_settings(expert=True)
    tab.page.fill("#system-prompt textarea", "be brief")
    tab.page.fill("#seed input", "7")
    file = json.loads(saved(tab, "Save as a file").path().read_text())
    assert file["model"]["id"] == "Qwen/Qwen3-VL-Scripted"
    assert (file["sampling"]["seed"], file["system_prompt"]) == (7, "be brief")
    assert {"qwen-vl-demo", "gradio"} <= file["versions"].keys()
    said = [block.get("text") for turn in file["messages"] for block in turn["content"]]
    assert "a red __one" in said
    (picture,) = file["pictures"].values()
    assert base64.b64decode(picture.partition(",")[2]) == red.read_bytes()

    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
    other = Tab(context.new_page(), url).open()
    opened(other, file, tmp_path)
    until_shown(other, "a red __one")
    other.page.wait_for_function("document.querySelector('#chat .user img')?.naturalWidth === 48")
    other.open_settings(expert=True)
    expect(other.page.locator("#seed input")).to_have_value("7")
    expect(other.page.locator("#style input:checked")).to_have_count(0)  # its values are its own
    expect(other.page.locator("#system-prompt textarea")).to_have_value("be brief")
    other.ask("and now?")
    other.wait_text("#chat .bot", "You said: and now? [1 pictures, 4 messages]")
    other.wait_idle()
    other.open()
    until_shown(other, "a red __one", "and now?")
    context.close()


PAGE = "data:text/html;base64," + base64.b64encode(b"<script>1</script>").decode()


REFUSED: list[tuple[dict[str, Any] | str, str]] = [
    ("{", "file_other"),
    ({"format": "another", "messages": []}, "file_other"),
    ({"format": "qwen-vl chat", "version": 1, "messages": [{"role": "user"}]}, "file_other"),
    ({"format": "qwen-vl chat", "version": 2, "messages": []}, "file_newer"),
    ({"format": "qwen-vl chat", "messages": [], "pictures": {"a": PAGE}}, "file_no_picture"),
]


def test_a_file_that_is_no_chat_is_refused_in_words(tab: Tab, tmp_path: Path) -> None:
    for file, told in REFUSED:
        opened(tab, file, tmp_path)
        tab.wait_text("#undo-bar", CHAT_EN[told])
        tab.page.click("#undo-bar button")  # closes it


def test_a_hostile_file_can_neither_run_nor_read_anything(tab: Tab, tmp_path: Path) -> None:
    asked = {
        "role": "user",
        "content": [
            {"type": "file", "file": {"path": "/etc/passwd"}},
            {"type": "text", "text": HOSTILE},
        ],
    }
    said = {"role": "assistant", "content": [{"type": "text", "text": HOSTILE}]}
    note = {**said, "metadata": {"title": HOSTILE}}
    file = {"format": "qwen-vl chat", "messages": [asked, said, note], "title": HOSTILE}
    opened(tab, {**file, "sampling": {"temperature": 99}}, tmp_path)
    tab.wait_text("#chat .bot", "any more: 1")
    tab.wait_text("#chat .user", HOSTILE)
    expect(tab.page.locator("#chat .message img")).to_have_count(0)
    tab.page.click("#show-chats")
    assert titles(tab) == [HOSTILE]
    assert tab.page.title() == "Qwen-VL"
    tab.page.keyboard.press("Escape")  # closes the list
    tab.open_settings(expert=True)
    expect(tab.page.locator("#temperature input[type=number]")).not_to_have_value("99")


def test_a_conversation_is_shared_as_a_page_that_needs_nothing(
    tab: Tab, browser: Browser, red: Path, tmp_path: Path
) -> None:
    tab.page.set_input_files("#chat-box input[type=file]", red)
    tab.page.wait_for_selector("#chat-box img")
    tab.ask("hostile <script>document.title = 'ran'</script>")
    tab.wait_text("#chat .bot", "new tokens")
    tab.wait_idle()
    report = tmp_path / "report.html"
    saved(tab, "Save as a web page").save_as(report)
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    expect(
        page.locator("script, iframe, object, form, [onerror], [href^=javascript]")
    ).to_have_count(0)
    assert page.title().startswith("hostile <script>")
    assert page.locator(".asked").inner_text().startswith("hostile <script>document")
    assert page.evaluate("[...document.images].map((image) => image.naturalWidth)") == [48]
    expect(page.locator(".said strong")).to_have_text("bold")
    expect(page.locator(".said math")).to_have_count(1)
    expect(page.locator(".said")).to_contain_text("☑ done")
    assert page.evaluate("getComputedStyle(document.querySelector('td')).textAlign") == "right"
    context.close()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Six seconds of WebM, one colour a second."""
    path = tmp_path / "clip.webm"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 10, (160, 120))
    for index in range(60):
        writer.write(np.full((120, 160, 3), (0, 0, 40 * (index // 10)), np.uint8))
    writer.release()
    return path


def test_a_conversation_about_a_clip_comes_back_and_goes_on_from_a_file(
    tab: Tab, browser: Browser, url: str, clip: Path, tmp_path: Path
) -> None:
    page = tab.page
    page.get_by_role("tab", name="Video").click()
    page.click("#choose-frames .label-wrap")
    page.get_by_label("Every N seconds").check()
    page.wait_for_selector("#every-s")
    page.fill("#every-s input", "2")
    page.set_input_files("#clip input[type=file]", clip)
    tab.wait_text("#video-note", "3 frames")
    page.fill("#question textarea", "what happens?")
    page.click("#ask")
    tab.wait_text("#video-chat .bot", "You said: what happens? [3 pictures, 1 messages]")
    page.wait_for_selector("#ask:not([disabled])")
    page.click("#video-chat button[aria-label='Clear']")
    page.wait_for_function("document.querySelectorAll('#video-chat .bot').length === 0")
    page.click("#undo-bar button >> nth=0")
    tab.wait_text("#video-chat .bot", "You said: what happens?")
    with page.expect_download() as told:
        page.click("#save-video")
    file = json.loads(told.value.path().read_text())
    assert [frame["time_s"] for frame in file["frames"]] == [0.0, 2.0, 4.0]

    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
    other = Tab(context.new_page(), url).open()
    opened(other, file, tmp_path)
    other.wait_text("#video-note", "from a file")
    other.wait_text("#video-chat .bot", "You said: what happens?")
    captions = other.page.locator("#frames .strip label span").all_inner_texts()
    assert captions == ["0.0 s", "2.0 s", "4.0 s"]
    other.page.fill("#question textarea", "and then?")
    other.page.click("#ask")
    other.wait_text("#video-chat .bot", "You said: and then? [3 pictures, 3 messages]")
    context.close()


# --- what the server lets in ---

REQUEST: Any = SimpleNamespace(session_hash="a", headers={"accept-language": "en"})


@pytest.fixture(scope="module")
def chats() -> Chats:
    engine = ScriptedEngine()
    with gr.Blocks():
        keeping = Keeping(Settings())
        side = lay_out(Settings(), engine.status().family)
        keeping.keep({"system_prompt": side.system_prompt, **side.controls})
    return Chats(Chat(engine, Settings(), Runs()), keeping)


def test_an_opened_chat_is_made_safe_anew(chats: Chats) -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": HOSTILE}]},
        {"role": "assistant", "content": [{"type": "text", "text": HOSTILE}]},
    ]
    (asked, said), *settings = chats.open(json.dumps({"turns": turns}), REQUEST)
    assert (text_of(asked), text_of(said)) == (as_typed(HOSTILE), to_page(HOSTILE))
    assert all(value == gr.skip() for value in settings)


def test_only_settings_that_a_visitor_could_have_come_with_a_chat(chats: Chats) -> None:
    given = {"temperature": 1.5, "top_p": 7, "seed": "x", "system_prompt": "be brief", "odd": 1}
    turns = [*user_turns("q", []), answer_turn("a")]
    _, *values = chats.open(json.dumps({"turns": turns, "settings": given}), REQUEST)
    told = dict(zip(chats.settings, values, strict=True))
    kept = {name: value for name, value in told.items() if value != gr.skip()}
    assert kept == {"temperature": 1.5, "system_prompt": "be brief"}


@pytest.mark.parametrize("text", ["", "[", "[]", '{"turns": 1}', '{"turns": [{"role": "system"}]}'])
def test_what_is_no_chat_leaves_the_page_as_it_is(
    chats: Chats, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(gr, "Warning", warned.append)
    assert all(value == gr.skip() for value in chats.open(text, REQUEST))
    assert warned == [EN["chat_unreadable"]]


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def test_frames_from_a_file_are_pictures_that_were_uploaded(
    uploads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(gr, "Warning", warned.append)
    files = VideoFile(VideoChat(ScriptedEngine(), Settings(), Runs()))
    good, text, secret = uploads / "f.png", uploads / "t.png", tmp_path / "secret.png"
    for path in (good, secret):
        Image.new("RGB", (32, 24), "blue").save(path)
    text.write_text("no picture")

    def opened(*frames: tuple[float, Path]) -> tuple[Any, ...]:
        given = [{"time_s": time_s, "path": str(path)} for time_s, path in frames]
        return files.open(json.dumps({"turns": [], "frames": given}), REQUEST)

    _, frames, *_ = opened((2.5, good), (1.0, good))
    assert [frame.time_s for frame in frames] == [1.0, 2.5]
    for bad in ((1.0, secret), (1.0, text), (-1.0, good), (math.inf, good)):
        assert all(value == gr.skip() for value in opened(bad))
    assert len(warned) == 4
    _, frames, *_ = opened(*((float(i), good) for i in range(Settings().max_frames + 5)))
    assert len(frames) == Settings().max_frames


def test_the_scripts_speak_both_languages() -> None:
    assert CHAT_EN.keys() == CHAT_ZH.keys()
