"""What a browser keeps comes back, in a real browser; and nobody gets what is not theirs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.utils import get_upload_folder
from PIL import Image
from playwright.sync_api import expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import ScriptedEngine

from qwen_vl.config import Settings
from qwen_vl.ui.history import answer_turn, is_page_turn, page_turn, text_of, user_turns
from qwen_vl.ui.keeping import Keeping
from qwen_vl.ui.markup import as_typed, from_page, to_page

OFFLINE_MS = 20_000
SETTLES_MS = 5_000
REQUEST: Any = SimpleNamespace(session_hash="a", headers={"accept-language": "en"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads are kept, with one of them, `mine.png`; next to it lies `secret.png`."""
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    for path in (uploads / "mine.png", tmp_path / "secret.png"):
        Image.new("RGB", (8, 8), "red").save(path)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    return uploads


@pytest.fixture(scope="module")
def keeping() -> Keeping:
    with gr.Blocks():
        made = Keeping(Settings())
        made.keep({"chat": gr.Chatbot(), "box": gr.MultimodalTextbox(), "clip": gr.Video()})
        made.keep({"heat": gr.Slider(0, 2, 1), "how": gr.Radio(["a", "b"]), "on": gr.Checkbox()})
        made.keep({"words": gr.Textbox()})
    return made


def back(keeping: Keeping, **kept: Any) -> dict[str, Any]:
    """What comes back for these kept values, by name; what is skipped is missing."""
    values = keeping.restore(json.dumps(kept), REQUEST)
    named = zip(keeping.components, values, strict=True)
    return {name: value for name, value in named if value != gr.skip()}


def test_a_conversation_comes_back_as_it_was(keeping: Keeping, folder: Path) -> None:
    mine = str(folder / "mine.png")
    turns = [*user_turns("a <b> *c*", [mine]), answer_turn(to_page("**d** <i>")), page_turn("3 s")]
    assert back(keeping, chat=turns)["chat"] == turns


def test_what_the_browser_had_altered_is_made_safe_anew(keeping: Keeping, folder: Path) -> None:
    said = "<img src=x onerror=alert(1)> [x](javascript:alert(1))"
    asked, answered = back(
        keeping,
        chat=[
            {"role": "user", "content": [{"type": "text", "text": said}]},
            {"role": "assistant", "content": [{"type": "text", "text": said}]},
        ],
    )["chat"]
    assert (text_of(asked), text_of(answered)) == (as_typed(said), to_page(said))


def test_a_picture_that_is_gone_is_said_to_be_gone(keeping: Keeping, folder: Path) -> None:
    turns = user_turns("look", [str(folder / "mine.png"), str(folder / "gone.png")])
    note, pictures, text = back(keeping, chat=turns)["chat"]
    assert is_page_turn(note)
    assert "any more: 1" in note["metadata"]["title"]
    assert (len(pictures["content"]), from_page(text_of(text))) == (1, "look")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "x" * 5000, "a\0b", ".", ""])
def test_no_file_comes_back_that_is_no_upload(
    keeping: Keeping, folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gr, "Info", lambda _: None)
    named = str(folder / path)
    found = back(
        keeping,
        chat=[{"role": "user", "content": [{"type": "file", "file": {"path": named}}]}],
        box={"text": "draft", "files": [{"path": named}]},
        clip={"path": named},
    )
    assert [is_page_turn(turn) for turn in found["chat"]] == [True]
    assert found["box"] == {"text": "draft", "files": []}
    assert "clip" not in found


def test_settings_come_back_where_a_visitor_could_have_set_them(keeping: Keeping) -> None:
    good = {"heat": 1.5, "how": "b", "on": True, "words": "be brief"}
    assert back(keeping, **good) == good
    assert back(keeping, heat=3, how="c", on=1, words=["x"]) == {}
    assert back(keeping, heat="1", how=["b"], words="x" * 10_000_000) == {}


@pytest.mark.parametrize("text", ["", "[", "[]", "null", '{"chat": 1}', '{"chat": [[]], "box": 2}'])
def test_what_cannot_be_read_changes_nothing(keeping: Keeping, text: str) -> None:
    assert all(value == gr.skip() for value in keeping.restore(text, REQUEST))


def test_a_wait_that_is_over_does_not_come_back(keeping: Keeping, folder: Path) -> None:
    turns = [*user_turns("q", []), page_turn("…", status="pending")]
    assert back(keeping, chat=turns)["chat"] == turns[:1]


def test_nothing_is_lost_by_a_reload(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    with chromium() as browser:
        page = browser.new_context(locale="en-GB").new_page()
        with running_page(ScriptedEngine()) as url:
            tab = Tab(page, url).open()
            page.set_input_files("#chat-box input[type=file]", picture)
            page.wait_for_selector("#chat-box img")
            tab.ask_whole("what is it?")
            page.fill("#chat-box textarea", "half a thou")
            tab.open_settings()
            page.fill("#system-prompt textarea", "be brief")
            page.get_by_role("tab", name="Video").click()
            page.click("#choose-frames .label-wrap")
            page.get_by_label("Every N seconds").check()
            page.fill("#question textarea", "and then?")
            # Typed and taken, not yet written: that is done as the page is left.
            page.wait_for_function("keeping.kept().includes('and then?')")
            tab.open()  # a reload
            tab.wait_text("#chat .bot", "You said: what is it? [1 pictures, 1 messages]")
            tab.wait_text("#chat .user", "what is it?")
            expect(page.locator("#chat .user img")).to_have_count(1)
            expect(page.locator("#chat-box textarea")).to_have_value("half a thou")
            expect(page.locator("#system-prompt textarea")).to_have_value("be brief")
            page.get_by_role("tab", name="Video").click()
            page.click("#choose-frames .label-wrap")
            expect(page.get_by_label("Every N seconds")).to_be_checked()
            expect(page.locator("#question textarea")).to_have_value("and then?")
            page.get_by_role("tab", name="Chat").click()
            tab.ask("and now?")  # the server has the picture and the system prompt, too
            tab.wait_text("#chat .bot", "You said: and now? [1 pictures, 4 messages]")
            tab.wait_idle()
            page.click("#new-chat")
            page.wait_for_function("document.querySelectorAll('#chat .bot').length === 0")
            tab.open()
            page.wait_for_function("document.querySelectorAll('#chat .example').length > 0")
            expect(page.locator("#chat .bot")).to_have_count(0)
        page.context.close()


def test_a_tab_that_was_offline_comes_back_with_everything() -> None:
    with chromium() as browser, running_page(ScriptedEngine()) as url:
        page = browser.new_context(locale="en-GB").new_page()
        tab = Tab(page, url).open()
        tab.ask_whole("what is it?")
        page.fill("#chat-box textarea", "half a thou")
        tab.open_settings()
        page.fill("#system-prompt textarea", "be brief")
        network = page.context.new_cdp_session(page)
        cut = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        network.send("Network.emulateNetworkConditions", cut)
        page.wait_for_timeout(OFFLINE_MS)
        back = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        network.send("Network.emulateNetworkConditions", back)
        page.wait_for_timeout(SETTLES_MS)  # Gradio may reload the page by itself
        page.wait_for_selector("#chat-box textarea")
        tab.wait_text("#chat .bot", "You said: what is it?")
        expect(page.locator("#chat-box textarea")).to_have_value("half a thou")
        expect(page.locator("#system-prompt textarea")).to_have_value("be brief")
        tab.ask("and now?")
        tab.wait_text("#chat .bot", "You said: and now? [0 pictures, 4 messages]")
        page.context.close()


def test_a_restarted_server_gets_the_chat_back_and_pictures_that_are_gone_are_named(
    tmp_path: Path,
) -> None:
    picture = tmp_path / "p.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    with chromium() as browser:
        page = browser.new_context(locale="en-GB").new_page()
        with running_page(ScriptedEngine()) as url:
            tab = Tab(page, url).open()
            page.set_input_files("#chat-box input[type=file]", picture)
            page.wait_for_selector("#chat-box img")
            tab.ask_whole("what is it?")
            page.wait_for_timeout(1000)  # it is kept a moment after it is shown
        for upload in Path(get_upload_folder()).glob("*/p.png"):
            upload.unlink()
        with running_page(ScriptedEngine(), port=int(url.strip("/").rpartition(":")[2])):
            tab.open()
            tab.wait_text("#chat .bot", "any more: 1")
            tab.ask("and now?")
            tab.wait_text("#chat .bot", "You said: and now? [0 pictures, 3 messages]")
        page.context.close()
