"""As a Hugging Face Space: embedded in the hub's page, and without an API until it has a key."""

from __future__ import annotations

import httpx
from playwright.sync_api import Page, expect
from support.browser_app import chromium, running_page
from support.gated import gated
from support.scripted_engine import ScriptedEngine

from qwen_vl.config import load_settings

SPACE = {"SPACE_ID": "someone/demo", "SPACE_HOST": "someone-demo.hf.space"}
HUB = "https://huggingface.co/spaces/someone/demo"
NO_STORAGE = """
for (const name of ["localStorage", "sessionStorage", "indexedDB"])
    Object.defineProperty(window, name, {
        get() { throw new DOMException("Access is denied for this document.", "SecurityError"); }
    });
"""


def embedded(page: Page, url: str) -> None:
    """The hub's page with the Space in a frame, as browsers show it that block foreign storage."""
    frame = f'<iframe id="space" src="{url}" style="width:1200px;height:850px"></iframe>'
    page.route(HUB, lambda route: route.fulfill(body=frame, content_type="text/html"))
    page.add_init_script(f"if (window !== top) {{ {NO_STORAGE} }}")
    page.goto(HUB)


def test_without_storage_the_page_answers_inside_the_hubs_and_says_what_is_not_kept() -> None:
    with running_page(ScriptedEngine()) as url, chromium() as browser:
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(error.message))
        embedded(page, url)
        inside = page.frame_locator("#space")
        expect(inside.get_by_text("This browser keeps nothing here")).to_be_visible()
        box = inside.locator("#chat-box textarea")
        box.fill("Hello")
        box.press("Enter")
        inside.locator("#chat .bot", has_text="You said: Hello").wait_for()
        assert errors == []


def test_a_space_has_a_health_and_no_api_until_it_has_a_key() -> None:
    settings = load_settings([], SPACE)
    with gated(ScriptedEngine(), settings) as client:
        client.headers["Host"] = SPACE["SPACE_HOST"]
        assert client.get("/health").json()["status"] == "ready"
        refused = client.get("/v1/models")
        assert refused.status_code == 403
        assert "QWEN_VL_API_KEY" in refused.json()["error"]["message"]
    settings = load_settings([], {**SPACE, "QWEN_VL_API_KEY": "secret"})
    with gated(ScriptedEngine(), settings) as client:
        client.headers["Host"] = SPACE["SPACE_HOST"]
        asked: httpx.Response = client.get("/v1/models", headers={"Authorization": "Bearer secret"})
        assert asked.status_code == 200
