"""How few clicks the page takes, how still and how smooth it is: `tests/page_numbers.py`.

    PYTHONPATH=. python tests/page_numbers.py

With Chromium and an engine that says what it is told. Prints the clicks from the opened page to the
first answer about a picture of one's own, how much the layout shifts while an answer streams, and
frames per second while one streams below 200 turns, and while one of 20,000 characters does.
"""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import ScriptedEngine

from qwen_vl.config import Settings

SIZE = {"width": 1280, "height": 900}
TURNS, LONG_CHARS = 200, 20_000
PIECE_CHARS, PIECE_S = 5, 0.005  # as a fast model writes
SENTENCE = "A long answer has **some** words, `code` and a line now and then, as answers do.\n\n"
COUNT_CLICKS = """window.clicks = 0;
addEventListener("click", (event) => { window.clicks += event.isTrusted; }, true)"""
# What moves though nobody touched anything, and the times between two frames.
WATCH = """() => {
  window.shifts = 0;
  new PerformanceObserver((list) => list.getEntries().forEach((one) => {
    if (!one.hadRecentInput) window.shifts += one.value;
  })).observe({ type: "layout-shift" });
  window.gaps = [];
  let last = performance.now();
  const frame = (now) => {
    window.gaps.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}"""
FRAMES = """() => {
  const gaps = window.gaps.slice(1).sort((a, b) => a - b);
  const sum = gaps.reduce((a, b) => a + b, 0);
  return { fps: 1000 * gaps.length / sum, worst_ms: gaps[Math.floor(gaps.length * 0.99)] };
}"""


def opened(browser: Browser, url: str) -> Tab:
    """The page in a context of its own."""
    return Tab(browser.new_context(locale="en-GB", viewport=SIZE).new_page(), url).open()


def clicks(tab: Tab, folder: Path) -> int:
    """From the opened page to an answer about a picture of one's own, without the keyboard."""
    picture = folder / "own.png"
    Image.new("RGB", (320, 200), "teal").save(picture)
    tab.page.evaluate(COUNT_CLICKS)
    with tab.page.expect_file_chooser() as chooser:
        tab.page.click("#chat-box button[data-testid=upload-button]")
    chooser.value.set_files(picture)
    tab.page.wait_for_selector("#chat-box .thumbnail-item img")
    tab.page.click("#tasks .chip >> nth=0")
    tab.page.click("#chat-box .submit-button")
    tab.wait_text("#chat .bot", "pictures")
    return int(tab.page.evaluate("window.clicks"))


def fill(page: Page, folder: Path) -> None:
    """Opens a chat of TURNS turns from a file."""
    messages = []
    for number in range(TURNS // 2):
        messages.append(
            {"role": "user", "content": [{"type": "text", "text": f"Question {number}"}]}
        )
        messages.append({"role": "assistant", "content": [{"type": "text", "text": SENTENCE * 4}]})
    file = folder / "long.json"
    file.write_text(json.dumps({"format": "qwen-vl chat", "version": 1, "messages": messages}))
    with page.expect_file_chooser() as chooser:
        page.evaluate("chatFile.choose()")
    chooser.value.set_files(file)
    page.wait_for_function(f"document.querySelectorAll('#chat .message').length >= {TURNS}")


def streamed(tab: Tab, release: threading.Event) -> dict[str, float]:
    """Asks, watches the answer from its first word to its end, and tells what was seen."""
    tab.ask("Go on.")
    tab.page.wait_for_function(
        "[...document.querySelectorAll('#chat .bot')].at(-1)?.innerText.includes('Here')"
    )
    tab.page.evaluate(WATCH)
    release.set()
    tab.wait_idle()
    return {"shift": tab.page.evaluate("window.shifts"), **tab.page.evaluate(FRAMES)}


def tell(what: str, seen: dict[str, float]) -> None:
    """One line."""
    print(
        f"{what}: layout shift {seen['shift']:.4f}, {seen['fps']:.0f} frames/s, "
        f"99 of 100 frames within {seen['worst_ms']:.0f} ms",
        flush=True,
    )


def main() -> None:
    """Runs everything, one after another."""
    engine, settings = ScriptedEngine(), Settings(port=0, max_messages=2 * TURNS)
    answers = (
        ("an answer of 2,000 characters", 2_000, False),
        (f"one below {TURNS} turns", 2_000, True),
        (f"one of {LONG_CHARS:,} characters", LONG_CHARS, False),
    )
    with (
        tempfile.TemporaryDirectory() as name,
        running_page(engine, settings=settings) as url,
        chromium() as browser,
    ):
        folder = Path(name)
        needed = clicks(opened(browser, url), folder)
        print(f"clicks to the first answer about an own picture: {needed}", flush=True)
        for what, chars, is_full in answers:
            tab = opened(browser, url)
            if is_full:
                fill(tab.page, folder)
            release = threading.Event()
            text = SENTENCE * (chars // len(SENTENCE))
            pieces = [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]
            engine.steps, engine.delay_s = ("Here ", release, *pieces), PIECE_S
            tell(what, streamed(tab, release))
            tab.page.context.close()


if __name__ == "__main__":
    main()
