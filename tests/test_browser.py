"""The page in a real browser: what a person does, and what they see of it.

A scripted engine answers, slowly enough to be stopped, so that the page is what is tested; the last
test has the bundled model behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import ScriptedEngine, echo

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.schema import Message

LONG = "count"  # this question gets a long answer
LONG_WORDS = 2000
ELSEWHERE = "http://127.0.0.1:9/spy.png"  # another origin


def script(messages: Sequence[Message]) -> str:
    if messages[-1].text.startswith(LONG):
        return " ".join(f"{messages[-1].text.split()[-1]}{i}" for i in range(LONG_WORDS))
    if messages[-1].text.startswith("html"):
        return "<img src=x onerror=\"document.title='broken'\"> <script>document.title='x'</script>"
    if messages[-1].text.startswith("spy"):
        return f"![spy]({ELSEWHERE}?secret)"
    return echo(messages)


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine(script, delay_s=0.02)


@pytest.fixture(scope="module")
def url(engine: ScriptedEngine) -> Iterator[str]:
    with running_page(engine) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def tab(browser: Browser, url: str) -> Iterator[Tab]:
    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
    opened = Tab(context.new_page(), url).open()
    yield opened
    assert opened.error_overlays() == 0
    context.close()


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (96, 64), "red").save(path)
    return path


def test_a_question_is_answered_with_its_statistics(tab: Tab) -> None:
    tab.ask("hello **there**")
    tab.wait_text("#chat .bot", "You said: hello there [0 pictures, 1 messages]")
    tab.wait_text("#chat .bot", "12.5 tokens/s")
    tab.wait_idle()
    expect(tab.page.locator("#chat .bot strong")).to_have_count(1)  # Markdown
    tab.ask("again")
    tab.wait_text("#chat .bot", "You said: again [0 pictures, 3 messages]")


def test_an_uploaded_picture_stays_in_the_conversation(tab: Tab, red: Path) -> None:
    tab.page.set_input_files("#chat-box input[type=file]", [red, red])
    tab.page.wait_for_function("document.querySelectorAll('#chat-box img').length === 2")
    tab.ask("what is it?")
    tab.wait_text("#chat .bot", "You said: what is it? [2 pictures, 1 messages]")
    expect(tab.page.locator("#chat .user img")).to_have_count(2)
    tab.wait_idle()
    tab.ask("and now?")
    tab.wait_text("#chat .bot", "You said: and now? [2 pictures, 3 messages]")


PASTE = """(target, data) => target.dispatchEvent(
    new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
)"""
DROP = """(target, data) => target.dispatchEvent(
    new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
)"""


@pytest.mark.parametrize("give", [PASTE, DROP], ids=["paste", "drop"])
def test_a_pasted_or_dropped_picture_is_sent(tab: Tab, give: str) -> None:
    tab.page.evaluate(
        """async (give) => {
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = 32;
            const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
            const data = new DataTransfer();
            data.items.add(new File([blob], "given.png", { type: "image/png" }));
            eval(give)(document.querySelector("#chat-box textarea"), data);
        }""",
        give,
    )
    tab.page.wait_for_selector("#chat-box img")
    tab.ask("given")
    tab.wait_text("#chat .bot", "You said: given [1 pictures, 1 messages]")


def test_a_webcam_picture_joins_the_question(tab: Tab) -> None:
    tab.page.click("#webcam-panel .label-wrap")
    tab.page.click("#webcam [title='grant webcam access'] button")
    tab.page.wait_for_function("document.querySelector('#webcam video')?.videoWidth > 0")
    tab.page.click("#webcam button[aria-label='capture photo']")
    tab.page.wait_for_selector("#chat-box img")
    tab.ask("who?")
    tab.wait_text("#chat .bot", "You said: who? [1 pictures, 1 messages]")


def test_stop_keeps_the_partial_text(tab: Tab, engine: ScriptedEngine) -> None:
    cancelled = engine.cancelled
    tab.ask(f"{LONG} a")
    tab.wait_text("#chat .bot", "a5")
    tab.stop()
    tab.wait_text("#chat .bot", "stopped")
    tab.wait_idle()
    assert engine.cancelled == cancelled + 1
    assert "a5" in tab.text()
    assert f"a{LONG_WORDS - 1}" not in tab.text()
    tab.ask("next")
    tab.wait_text("#chat .bot", "You said: next [0 pictures, 3 messages]")


def test_enter_while_an_answer_is_written_loses_neither(tab: Tab) -> None:
    tab.ask(f"{LONG} c")
    tab.wait_text("#chat .bot", "c5")
    tab.ask("too early")
    tab.wait_text(".toast-body", "press Stop")
    expect(tab.page.locator("#chat-box textarea")).to_have_value("too early")
    tab.stop()
    tab.wait_text("#chat .bot", "stopped")
    tab.wait_idle()


def test_retry_undo_and_clear(tab: Tab) -> None:
    tab.ask("hello")
    tab.wait_text("#chat .bot", "new tokens")
    tab.wait_idle()
    tab.page.click("#chat button[aria-label='Retry']")
    tab.page.wait_for_selector("#chat-box .stop-button")
    tab.wait_text("#chat .bot", "new tokens")
    tab.wait_idle()
    assert tab.text().count("You said: hello") == 1
    tab.page.click("#chat button[aria-label='Undo']")
    tab.page.wait_for_function("document.querySelector('#chat-box textarea').value === 'hello'")
    assert "You said" not in tab.text()
    tab.page.press("#chat-box textarea", "Enter")
    tab.wait_text("#chat .bot", "new tokens")
    tab.wait_idle()
    tab.page.click("#new-chat")
    tab.page.wait_for_function("document.querySelectorAll('#chat .bot').length === 0")


def test_an_edited_question_is_answered_anew(tab: Tab, red: Path) -> None:
    tab.page.set_input_files("#chat-box input[type=file]", red)
    tab.page.wait_for_selector("#chat-box img")
    tab.ask_whole("before")
    tab.page.click("#chat button[aria-label='Edit']")
    tab.page.fill("#chat .user textarea", "after")
    tab.page.click("#chat button[aria-label='Submit']")
    tab.wait_text("#chat .bot", "You said: after [1 pictures, 1 messages]")
    assert "before" not in tab.text()


def test_the_editor_holds_what_was_typed(tab: Tab) -> None:
    tab.ask_whole("is x_y <b>?")
    tab.page.click("#chat button[aria-label='Edit']")
    tab.page.focus("#chat .user textarea")
    expect(tab.page.locator("#chat .user textarea")).to_have_value("is x_y <b>?")


def test_right_to_left_text_and_a_long_paste_are_shown_as_typed(tab: Tab) -> None:
    box = "document.querySelector('#chat-box textarea')"
    tab.page.fill("#chat-box textarea", "مرحبا")
    assert tab.page.evaluate(f"getComputedStyle({box}).direction") == "rtl"
    tab.ask_whole("مرحبا 123 abc")
    for who in ("user", "bot"):
        style = f"getComputedStyle(document.querySelector('#chat .{who}.message p')).unicodeBidi"
        assert tab.page.evaluate(style) == "plaintext"
    tab.page.fill("#chat-box textarea", "")
    pasted = "word " * (Settings().max_prompt_chars // 4)  # more than a question may have
    tab.page.evaluate(
        """(text) => {
            const data = new DataTransfer();
            data.setData("text/plain", text);
            const target = document.querySelector("#chat-box textarea");
            const event = { clipboardData: data, bubbles: true, cancelable: true };
            // A made-up paste puts in nothing by itself; the page may still stop it.
            if (target.dispatchEvent(new ClipboardEvent("paste", event))) {
                target.focus();
                document.execCommand("insertText", false, text);
            }
        }""",
        pasted,
    )
    tab.page.press("#chat-box textarea", "Enter")
    tab.wait_text(".toast-body", f"{Settings().max_prompt_chars:,}")
    expect(tab.page.locator("#chat-box textarea")).to_have_value(pasted)


def test_sending_nothing_leaves_the_chat_as_it_is(tab: Tab) -> None:
    tab.ask_whole("before")
    tab.page.press("#chat-box textarea", "Enter")
    tab.page.wait_for_selector("text=Write a question or add a picture first")
    tab.ask("after")  # what the empty one did is over by then
    tab.wait_text("#chat .bot", "You said: after [0 pictures, 3 messages]")
    tab.wait_text("#chat .bot", "You said: before")


@pytest.mark.parametrize(("locale", "again"), [("en-GB", "Retry"), ("zh-CN", "重试")])
def test_retry_is_there_in_every_language(
    locale: str, again: str, browser: Browser, url: str
) -> None:
    context = browser.new_context(locale=locale)
    tab = Tab(context.new_page(), url).open()
    for text in ("first", "second"):
        tab.ask_whole(text)
    expect(tab.page.locator(f"#chat button[aria-label='{again}']:visible")).to_have_count(1)
    tab.page.click(f"#chat button[aria-label='{again}']")
    tab.page.wait_for_selector("#chat-box .stop-button")
    tab.wait_idle()
    assert tab.text().count("You said: second [0 pictures, 3 messages]") == 1
    context.close()


def test_an_emptied_question_comes_back(tab: Tab) -> None:
    tab.ask_whole("before")
    tab.page.click("#chat button[aria-label='Edit']")
    tab.page.fill("#chat .user textarea", " ")
    tab.page.click("#chat button[aria-label='Submit']")
    tab.page.wait_for_selector("text=the old one was kept")
    tab.wait_text("#chat .user", "before")
    tab.wait_text("#chat .bot", "You said: before")


def test_clearing_while_an_answer_is_written_leaves_an_empty_chat(tab: Tab) -> None:
    tab.ask(f"{LONG} b")
    tab.wait_text("#chat .bot", "b5")
    tab.page.click("#new-chat")
    tab.page.wait_for_function("document.querySelectorAll('#chat .bot').length === 0")
    tab.wait_idle()
    tab.ask("fresh")
    tab.wait_text("#chat .bot", "You said: fresh [0 pictures, 1 messages]")
    assert "b5" not in tab.text()


def test_two_people_stop_only_their_own_answers(tab: Tab, browser: Browser, url: str) -> None:
    other = Tab(browser.new_context(locale="en-GB").new_page(), url).open()
    tab.ask(f"{LONG} ann")
    other.ask(f"{LONG} bob")
    tab.wait_text("#chat .bot", "ann5")
    other.wait_text("#chat .bot", "bob5")
    tab.stop()
    tab.wait_text("#chat .bot", "stopped")
    so_far = len(other.text())
    other.page.wait_for_function(
        "(length) => document.querySelector('#chat').innerText.length > length", arg=so_far + 20
    )
    assert "stopped" not in other.text()
    assert "bob" not in tab.text()
    assert "ann" not in other.text()
    other.stop()
    other.wait_text("#chat .bot", "stopped")
    assert other.error_overlays() == 0
    other.page.context.close()


def test_a_closed_tab_cancels_its_answer(
    browser: Browser, url: str, engine: ScriptedEngine, tab: Tab
) -> None:
    cancelled = engine.cancelled
    other = Tab(browser.new_context(locale="en-GB").new_page(), url).open()
    other.ask(f"{LONG} gone")
    other.wait_text("#chat .bot", "gone5")
    other.page.context.close()
    for _ in range(600):
        if engine.cancelled == cancelled + 1:
            break
        tab.page.wait_for_timeout(100)
    assert engine.cancelled == cancelled + 1


def test_html_in_an_answer_is_text(tab: Tab) -> None:
    tab.ask("html please")
    tab.wait_text("#chat .bot", "<script>")
    tab.wait_text("#chat .bot", "new tokens")
    expect(tab.page.locator("#chat .bot img, #chat .bot script")).to_have_count(0)
    assert tab.page.title() == "Qwen-VL"


def test_an_answer_cannot_make_the_browser_call_another_server(tab: Tab) -> None:
    tab.page.evaluate(
        "addEventListener('securitypolicyviolation', (event) => { window.blocked = event })"
    )
    tab.ask("spy")
    tab.wait_text("#chat .bot", "tokens/s")
    tab.page.wait_for_function("window.blocked !== undefined")
    assert tab.page.evaluate("window.blocked.blockedURI").startswith(ELSEWHERE)


@pytest.mark.parametrize("locale", ["zh", "zh-CN", "zh-HK", "zh-TW", "zh-Hans"])
def test_the_page_speaks_chinese(browser: Browser, url: str, locale: str) -> None:
    context = browser.new_context(locale=locale, viewport={"width": 390, "height": 844})
    chinese = Tab(context.new_page(), url).open()
    chinese.wait_text("#tabs", "视频")
    chinese.wait_text("#state-pill", "就绪")
    width = chinese.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390  # nothing sticks out of a phone's screen
    assert chinese.page.evaluate("document.documentElement.lang").startswith("zh")
    context.close()


def test_the_language_is_switched_and_stays(tab: Tab) -> None:
    tab.ask_whole("hello")
    tab.page.click("#language")
    tab.wait_text("#tabs", "视频")
    tab.wait_text("#chat .bot", "You said: hello")  # what was made comes back
    tab.page.click("#new-chat")
    tab.page.press("#chat-box textarea", "Enter")
    tab.wait_text(".toast-body", "请先输入问题")  # the server's sentences, too
    tab.page.reload()
    tab.wait_text("#tabs", "视频")
    tab.page.click("#language")
    tab.wait_text("#tabs", "Video")


# --- the bundled model, behind the same page ---


def test_the_bundled_model_answers_an_example_and_a_clip(
    browser: Browser, bundled_engine: Engine
) -> None:
    with running_page(bundled_engine) as address:
        context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
        visitor = Tab(context.new_page(), address).open()
        visitor.wait_text("#banner", "demo model")  # it says what it is
        visitor.page.locator("#chat .example").first.click()
        visitor.wait_text("#chat .bot", "tokens/s")
        visitor.wait_text("#chat .bot", bundled_engine.model_id)
        visitor.wait_idle()
        visitor.page.get_by_role("tab", name="Video").click()
        visitor.page.locator("#clip-examples tr").last.click()
        visitor.wait_text("#video-note", "frames")
        visitor.wait_text("#video-chat .bot", "tokens/s")
        visitor.page.wait_for_selector("#ask:not([disabled])")
        assert visitor.error_overlays() == 0
        context.close()
