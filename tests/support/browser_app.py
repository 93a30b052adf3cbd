"""A running page and a browser, for `test_browser`: started once, looked at through Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import gradio as gr
from playwright.sync_api import Browser, Page, expect, sync_playwright

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.ui import build, launch_options
from support.ports import free_port

CHROMIUM = shutil.which("chromium")  # `make test` makes sure that it is there
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream",  # a camera that shows a test picture and asks nobody
    "--use-fake-device-for-media-stream",
    "--disable-features=LocalNetworkAccessChecks",  # this machine stands for a public one
]
WAIT_MS = 60_000  # what a person waits for takes a moment; this only ends a test that fails
expect.set_options(timeout=WAIT_MS)


@contextmanager
def running_page(
    engine: Engine,
    port: int | None = None,
    beside: Engine | None = None,
    settings: Settings = Settings(port=0),  # noqa: B008 - it is frozen
) -> Iterator[str]:
    """Serves the page for `engine` on a free port, or this one; gives its address."""
    demo: gr.Blocks = build(engine, settings, beside)
    _, url, _ = demo.launch(
        server_name="127.0.0.1",
        server_port=port or free_port(),  # Gradio's own range is shared by all workers
        prevent_thread_lock=True,
        quiet=True,
        **launch_options(settings),
    )
    try:
        yield url
    finally:
        demo.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@dataclass
class Tab:
    """One browser context with the page open: what a person does and sees."""

    page: Page
    url: str

    def open(self) -> Tab:
        self.page.set_default_timeout(WAIT_MS)
        self.page.goto(self.url)
        self.page.wait_for_selector("#chat-box textarea")
        self.page.wait_for_function("document.querySelector('#state-pill.ready') !== null")
        self.page.wait_for_selector("html.begun")  # a person is not as quick; what was kept is back
        return self

    def open_settings(self, expert: bool = False) -> None:
        """Opens the panel, and its expert values if they are wanted."""
        if "open" not in (self.page.get_attribute("#sidebar", "class") or "").split():
            self.page.click("#open-settings")
        self.page.wait_for_selector("#sidebar.open")
        if expert and not self.page.locator("#temperature").is_visible():
            self.page.click("#expert .label-wrap")
            self.page.wait_for_selector("#temperature input:visible")

    def ask(self, text: str) -> None:
        self.page.fill("#chat-box textarea", text)
        self.page.press("#chat-box textarea", "Enter")

    def ask_whole(self, text: str) -> None:
        """Asks, and waits until the answer has ended."""
        self.ask(text)
        self.wait_text("#chat .bot", f"You said: {text}")
        self.wait_idle()

    def stop(self) -> None:
        self.page.click("#chat-box .stop-button")

    def wait_text(self, selector: str, text: str) -> None:
        self.page.wait_for_function(
            "([selector, text]) => [...document.querySelectorAll(selector)]"
            ".some(found => found.innerText.includes(text))",
            arg=[selector, text],
        )

    def wait_idle(self) -> None:
        """Until nothing is being answered: Send is back in the box."""
        self.page.wait_for_selector("#chat-box .submit-button")

    def wait_clipboard(self, text: str) -> None:
        """Until the clipboard holds `text`: a page writes it a moment after the click."""
        self.page.wait_for_function(
            "async (text) => await navigator.clipboard.readText() === text", arg=text
        )

    def text(self, selector: str = "#chat") -> str:
        return self.page.inner_text(selector)

    def error_overlays(self) -> int:
        """How many components show Gradio's "Error" cover."""
        return self.page.locator(".wrap .error:visible").count()
