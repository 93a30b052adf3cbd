"""Reading: what an answer looks like, and that nobody is pulled away from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import ScriptedEngine, echo
from support.until import until

from qwen_vl.schema import Message
from qwen_vl.ui.markup import INVISIBLE, from_page, to_page

RICH = """- [x] done
- [ ] open

| a | b | c |
|:--|:-:|--:|
| 1 | 2 | 3 |

Maths $a_1*b*c$ and a price of $5 or $6.

```sh
echo $A $B$
- [x] no
```"""
TYPED = "2*3*4 = __init__.py\n# x\n    in &lt; $x$"


def script(messages: Sequence[Message]) -> str:
    if messages[-1].text == "rich":
        return RICH
    if messages[-1].text == "long":
        return " ".join(f"w{i}\n\n" if i % 5 == 0 else f"w{i}" for i in range(4000))
    return echo(messages)


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with chromium() as browser, running_page(ScriptedEngine(script, delay_s=0.01)) as url:
        yield opened(browser, url)


def opened(browser: Browser, url: str) -> Tab:
    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    return Tab(context.new_page(), url).open()


def styles(tab: Tab, selector: str, name: str) -> list[str]:
    return tab.page.evaluate(
        "([selector, name]) => [...document.querySelectorAll(selector)]"
        ".map((found) => getComputedStyle(found)[name])",
        [selector, name],
    )


def test_an_answer_keeps_its_ticks_columns_and_formulas(tab: Tab) -> None:
    page = tab.page
    tab.ask("rich")
    tab.wait_text("#chat .bot", "new tokens")
    tab.wait_idle()
    boxes = "[...document.querySelectorAll('#chat li input')]"
    assert page.evaluate(f"{boxes}.map((box) => box.checked)") == [True, False]
    assert styles(tab, "#chat li input", "appearance") == ["auto", "auto"]
    assert styles(tab, "#chat td", "textAlign") == ["left", "center", "right"]
    page.wait_for_selector("#chat .katex")
    formulas = page.locator("#chat .katex annotation").all_text_contents()
    assert [from_page(formula) for formula in formulas] == ["a_1*b*c"]
    assert "a price of $5 or $6." in tab.text()
    assert "echo $A $B$\n- [x] no" in from_page(page.inner_text("#chat pre"))
    page.get_by_label("Copy the answer").click()
    tab.wait_clipboard(RICH)


def test_what_was_typed_is_shown_copied_and_edited_as_typed(tab: Tab) -> None:
    page = tab.page
    tab.ask(TYPED)
    tab.wait_text("#chat .user", "in &lt; $x$")
    tab.wait_idle()
    assert page.locator("#chat .user.message").last.inner_text() == TYPED
    page.locator(
        "#chat .user-row + .message-buttons button[aria-label='Copy message']"
    ).last.click()
    tab.wait_clipboard(TYPED)
    page.get_by_label("Edit the question").last.click()
    page.wait_for_function("document.activeElement.matches('.edit-textarea')")
    expect(page.locator("#chat .edit-textarea")).to_have_value(TYPED)
    page.fill("#chat .edit-textarea", "something else")
    page.press("#chat .edit-textarea", "Escape")
    page.wait_for_function("document.querySelector('.edit-textarea') === null")
    assert page.locator("#chat .user.message").last.inner_text() == TYPED


def test_one_labelled_row_of_buttons_that_a_finger_can_hit(tab: Tab) -> None:
    row = tab.page.locator("#chat .icon-button-wrapper[data-tools]").last
    shown = row.locator("button:visible")
    boxes = [button.bounding_box() for button in shown.all()]
    sizes = [(box["width"], box["height"]) for box in boxes if box]
    assert min(min(size) for size in sizes) >= 24
    assert len({round(box["y"] + box["height"] / 2) for box in boxes if box}) == 1
    by_place = sorted(shown.all(), key=lambda button: (button.bounding_box() or {})["x"])
    assert [button.get_attribute("aria-label") for button in by_place] == [
        "Copy the answer",
        "Retry",
        "Edit the question",
        "Undo",
        "Delete the question and its answer",
    ]


LOG = "document.querySelector('#chat [role=log]')"
SCROLLED = f"{LOG}.scrollTop"
TO_END = f"({LOG}.scrollHeight - {LOG}.scrollTop - {LOG}.clientHeight)"


def turned_to_the_end(page: Page) -> bool:
    """Turns the wheel once. The answer grows meanwhile: the end may be further down by then."""
    page.mouse.wheel(0, 100_000)
    page.wait_for_timeout(200)
    return bool(page.evaluate(f"{TO_END} < 5"))


def test_a_reader_who_scrolls_up_stays_there_and_follows_again_at_the_end(tab: Tab) -> None:
    page = tab.page
    tab.ask("long")
    tab.wait_text("#chat .bot", "w150")
    page.wait_for_function(f"{TO_END} < 5")
    page.hover("#chat [role=log]")
    page.mouse.wheel(0, -500)
    page.wait_for_function(f"{TO_END} > 200")
    place = page.evaluate(SCROLLED)
    tab.wait_text("#chat .bot", "w300")
    # Following would move it down; a wheel that still turns moves it up.
    assert page.evaluate(SCROLLED) <= place
    until(lambda: turned_to_the_end(page))
    tab.wait_text("#chat .bot", "w400")
    page.wait_for_function(f"{TO_END} < 5")
    tab.stop()
    tab.wait_text("#chat .bot", "stopped")


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("$x$, $y$.", 2),
        ("costs $5 and $6", 0),
        ("$5-$10", 0),
        ("a 5$ and a 10$ bill", 0),
        ("$5 and a 10$", 0),
        ("US$5 and CA$6", 0),
        (r"\$5 and x$", 0),
        ("$$x$$", 0),  # has its own sign
        ("$ x $", 0),
    ],
)
def test_a_price_is_no_formula(text: str, formulas: int) -> None:
    shown = to_page(text)
    assert shown.count(f"${INVISIBLE}{INVISIBLE}") == formulas
    assert from_page(shown) == text
