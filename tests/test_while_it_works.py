"""What is told while an answer has no words yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect
from support.browser_app import Tab, chromium, running_page
from support.held import inference_held
from support.scripted_engine import ScriptedEngine, echo
from support.until import until
from test_engine import GREEDY, picture, user
from torch.nn.modules.module import register_module_forward_hook

from qwen_vl.engine import Engine
from qwen_vl.engine.local.reading import Reading, Speeds
from qwen_vl.schema import Standing


def test_those_who_wait_know_their_place_and_then_what_is_read(
    bundled_engine: Engine,
) -> None:
    pictures = [picture(seed) for seed in range(3)]
    with inference_held(bundled_engine):
        first = bundled_engine.stream([user(*pictures, "What is it?")], GREEDY, "a")
        second = bundled_engine.stream([user("And this?")], GREEDY, "a")
        until(lambda: first.standing is not None and second.standing is not None)
        # Words alone go before new pictures.
        assert {first.standing and first.standing.place} == {2}
        assert {second.standing and second.standing.place} == {1}
        told: list[Standing] = []
        watch = register_module_forward_hook(
            lambda *_: told.append(first.standing) if first.standing else None
        )
    try:
        assert list(first)[-1].finish_reason
        assert list(second)[-1].finish_reason
    finally:
        watch.remove()
    read = [standing for standing in dict.fromkeys(told) if standing.pictures]
    assert [one.picture for one in read][:4] == [1, 2, 3, 0]
    assert all(one.pictures == 3 for one in read)
    assert [one.done for one in read] == sorted(one.done for one in read)


def test_the_time_left_is_told_as_soon_as_both_speeds_were_measured() -> None:
    speeds, told = Speeds(), list[Standing]()
    Reading(speeds, told.append).begin([100, 100], 400)
    assert told[-1].left_s is None
    speeds.encoding.add(100, 2.0)
    speeds.prefill.add(100, 1.0)
    reading = Reading(speeds, told.append)
    reading.begin([100, 100], 400)
    assert told[-1] == Standing(picture=1, pictures=2, done=0.0, left_s=8.0)
    reading.encoded()
    assert told[-1] == Standing(picture=2, pictures=2, done=1 - 500 / 600, left_s=6.0)


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine(echo)


@pytest.fixture(scope="module")
def url(engine: ScriptedEngine) -> Iterator[str]:
    with running_page(engine) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        (
            "en-GB",
            ("Place 2 in the queue", "Reading picture 3 of 27 · 40 % · about 12 s left", "· 90 %"),
        ),
        ("zh-CN", ("排队第 2 位", "正在读取第 3/27 张图片 · 40% · 约剩 12 秒", "· 90%")),
    ],
)
def test_the_page_says_where_a_question_is(
    browser: Browser, url: str, engine: ScriptedEngine, locale: str, words: tuple[str, ...]
) -> None:
    context = browser.new_context(locale=locale, viewport={"width": 1280, "height": 900})
    tab = Tab(context.new_page(), url).open()
    go_on = threading.Event()
    engine.steps = (go_on, "done")
    before = len(engine.answers)
    tab.ask("slow")
    until(lambda: len(engine.answers) > before)
    answer, bot = engine.answers[-1], tab.page.locator("#chat")
    answer.standing = Standing(place=2)
    expect(bot).to_contain_text(words[0])
    answer.standing = Standing(picture=3, pictures=27, done=0.4, left_s=12.2)
    expect(bot).to_contain_text(words[1])
    answer.standing = Standing(pictures=27, done=0.9)
    expect(bot).to_contain_text(words[2])
    go_on.set()
    expect(bot).to_contain_text("done")
    engine.steps = (echo,)
    context.close()


def test_a_server_that_is_gone_is_told_and_the_draft_stays(browser: Browser, url: str) -> None:
    context = browser.new_context(locale="en-GB", viewport={"width": 390, "height": 844})
    tab = Tab(context.new_page(), url).open()
    tab.page.fill("#chat-box textarea", "a draft")
    context.set_offline(True)
    expect(tab.page.locator("#server-gone")).to_contain_text("The server does not answer")
    expect(tab.page.locator("#chat-box textarea")).to_have_value("a draft")
    context.set_offline(False)
    expect(tab.page.locator("#server-gone")).to_have_count(0)
    context.close()
