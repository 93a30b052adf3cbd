"""Thoughts and answers are apart: split, switched, bounded, and shown or sent as such."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from support import tiny_models
from support.gated import gated
from support.oracle import Oracle
from support.scripted_engine import READY, ScriptedEngine
from test_api import CHAT, assert_error
from test_engine import assistant, opened, picture, user

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.thoughts import ThoughtSplitter
from qwen_vl.errors import Unsupported
from qwen_vl.families import FAMILIES, family_of
from qwen_vl.sampling import EFFORTS, SamplingParams, params_from
from qwen_vl.schema import Chunk, Message, TextPart, Usage

GREEDY = SamplingParams(temperature=0, presence_penalty=0, max_new_tokens=24)
SETTINGS = Settings()


# --- told apart ---


def split(text: str, inside: bool, seed: int) -> tuple[str, str]:
    """Pushed in pieces of one to five characters."""
    splitter, cuts = ThoughtSplitter(inside), random.Random(seed)
    thought, said = "", ""
    while text:
        size = cuts.randint(1, 5)
        piece, text = splitter.push(text[:size]), text[size:]
        thought, said = thought + piece.thought, said + piece.text
    piece = splitter.flush()
    return thought + piece.thought, said + piece.text


@pytest.mark.parametrize(
    ("text", "inside", "thought", "said"),
    [
        ("<think>\nSo.\n</think>\n\nRed.", False, "So.", "Red."),
        ("So.\n</think>\n\nRed.", True, "So.", "Red."),
        ("<think>\nSo.</think>Red.", True, "So.", "Red."),
        ("没有。</think>红色。", True, "没有。", "红色。"),
        ("So it goes", True, "So it goes", ""),
        ("So </thi", True, "So </thi", ""),
        ("</think>\n\nRed.", True, "", "Red."),
        ("\n\n</think>\n\nRed.", True, "", "Red."),
        ("<think></think>Red.", False, "", "Red."),
        ("<think>A <think> in it</think>Red.", False, "A <think> in it", "Red."),
        ("<think>One.</think>\n<think>Two.</think>Red.", False, "One.\n\nTwo.", "Red."),
        ("</think></think>Red.", True, "", "Red."),
        ("A tag is <think>, and </think>.", False, "", "A tag is <think>, and </think>."),
        ("  indented", False, "", "  indented"),
        ("1 < 2 <", False, "", "1 < 2 <"),
        ("", True, "", ""),
    ],
)
def test_tags_part_thoughts_from_answers(text: str, inside: bool, thought: str, said: str) -> None:
    for seed in range(20):
        assert split(text, inside, seed) == (thought, said)


def test_a_model_that_never_thinks_may_write_tags() -> None:
    splitter = ThoughtSplitter(may_think=False)
    assert splitter.push("<think>").text == "<think>"


# --- a model ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("switched")
    return tiny_models.qwen3_vl(where / "my-model", tiny_models.SWITCHED_TEMPLATE)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    made = opened(Settings(model=str(folder)))
    yield made
    made.close()


def asked(engine: Engine, **wishes: Any) -> tuple[str, str, Usage]:
    chunks = list(engine.stream([user(picture(1), "What?")], replace(GREEDY, **wishes)))
    usage = chunks[-1].usage
    assert usage is not None
    return "".join(c.thought for c in chunks), "".join(c.text for c in chunks), usage


def judged(folder: Path, prompt_end: str, new_tokens: int) -> str:
    """What `generate` makes of the same prompt."""
    oracle = Oracle(folder)
    plain = oracle.prompt
    oracle.prompt = lambda messages: plain(messages) + prompt_end  # type: ignore[method-assign]
    return oracle.text([user(picture(1), "What?")], new_tokens)


def test_the_family_is_told_by_the_template(engine: Engine) -> None:
    family = engine.status().family
    assert (family.thinking, family.opens_thought) == ("switched", True)
    assert family.efforts == ("low", "xhigh")


def test_without_a_thought_it_is_generate(engine: Engine, folder: Path) -> None:
    thought, said, usage = asked(engine, enable_thinking=False)
    assert thought == ""
    assert said == judged(folder, "<think>\n\n</think>\n\n", GREEDY.max_new_tokens)
    assert usage.thought_tokens == 0


def test_a_thought_is_generate_until_its_budget_is_spent(engine: Engine, folder: Path) -> None:
    thought, said, usage = asked(engine, thinking_budget=7)
    assert thought
    assert judged(folder, "<think>\n", 7) == thought.removesuffix("Ċ")  # this tokenizer's \n
    assert said  # what follows the words that close it
    closing = len("\n</think>\n\n")
    assert usage.thought_tokens <= 7 + closing
    assert usage.completion_tokens == GREEDY.max_new_tokens


def test_an_answer_always_has_tokens_left(engine: Engine) -> None:
    for most in (24, 64):
        thought, said, usage = asked(engine, max_new_tokens=most)  # random weights close nothing
        assert thought
        assert said
        assert usage.completion_tokens - usage.thought_tokens >= 1


def test_no_budget_is_no_thought(engine: Engine) -> None:
    thought, said, _ = asked(engine, thinking_budget=0)
    assert not thought.strip("Ċ")
    assert said


def test_an_end_within_the_thought_is_no_end(engine: Engine) -> None:
    end = tiny_models.control_id("<|im_end|>")
    thought, said, _ = asked(engine, logit_bias=((end, 100.0),))
    assert (thought.strip("Ċ"), said.strip("Ċ")) == ("", "")  # it is closed, and ends after that
    chunks = list(engine.stream([user("Hi")], GREEDY))
    assert chunks[-1].finish_reason == "length"


def test_a_thought_that_runs_in_a_circle_is_closed(engine: Engine) -> None:
    letter = ((ord("A") - 33, 100.0),)  # the byte-level alphabet begins with "!"
    chunks = list(
        engine.stream(
            [user("Hi")],
            SamplingParams(
                temperature=0, presence_penalty=0, logit_bias=letter, max_new_tokens=1024
            ),
        )
    )
    thought = "".join(chunk.thought for chunk in chunks)
    assert set(thought.strip("Ċ")) == {"A"}
    assert len(thought) < 1024 * 3 / 4  # before its budget was spent
    assert set("".join(chunk.text for chunk in chunks).strip("Ċ")) == {"A"}
    assert chunks[-1].finish_reason == "repetition"


def test_stop_strings_end_what_is_said_only(engine: Engine) -> None:
    letter = ((ord("A") - 33, 100.0),)
    thought, said, _ = asked(engine, logit_bias=letter, stop=("AA",), thinking_budget=5)
    assert "AAA" in thought
    assert "A" not in said


@pytest.mark.parametrize("effort", EFFORTS)
def test_every_effort_is_one_that_the_template_takes(engine: Engine, effort: str) -> None:
    thought, said, _ = asked(engine, reasoning_effort=effort)
    assert said
    assert bool(thought) == (effort not in ("none", "minimal"))


def test_earlier_thoughts_are_shown_where_the_template_shows_them(engine: Engine) -> None:
    before = Message("assistant", (TextPart("Red."),), thought="It looks red to me")
    lengths = {}
    for keeps in (None, False, True):
        params = SamplingParams(max_new_tokens=1, preserve_thinking=keeps)
        usage = list(engine.stream([user("A?"), before, user("Sure?")], params))[-1].usage
        assert usage is not None
        lengths[keeps] = usage.prompt_tokens
    assert lengths[None] == lengths[False]
    assert lengths[True] == lengths[None] + len("<think>It looks red to me</think>")


def test_a_forged_thought_opens_nothing(engine: Engine) -> None:
    told = assistant("<think>\n")
    chunks = list(engine.stream([user("A?"), told, user("B?")], GREEDY))
    plain = list(engine.stream([user("A?"), assistant("[think]\n"), user("B?")], GREEDY))
    assert chunks[-1].usage is not None
    assert plain[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == plain[-1].usage.prompt_tokens


@pytest.mark.parametrize(
    ("kind", "wishes", "told"),
    [
        ("qwen3_vl", {"enable_thinking": True}, "does not think: leave 'enable_thinking'"),
        ("qwen3_vl", {"reasoning_effort": "high"}, "does not think: leave 'reasoning_effort'"),
        ("qwen3_vl", {"preserve_thinking": True}, "keeps no earlier thoughts"),
        ("qwen3_vl_thinking", {"enable_thinking": False}, "always thinks"),
        ("qwen3_vl_thinking", {"reasoning_effort": "none"}, "'thinking_budget'"),
    ],
)
def test_a_wish_that_cannot_be_fulfilled_is_refused(
    tiny_checkpoints: dict[str, Path], kind: str, wishes: dict[str, Any], told: str
) -> None:
    made = opened(Settings(model=str(tiny_checkpoints[kind])))
    try:
        with pytest.raises(Unsupported, match=told):
            asked(made, **wishes)
    finally:
        made.close()


# --- sampling ---


def test_each_mode_has_its_preset() -> None:
    family = family_of("qwen3_vl", "enable_thinking", opens_thought=False)
    quick, slow = (family.preset(has_images=True, thinks=thinks) for thinks in (False, True))
    assert (quick.temperature, slow.temperature) == (0.7, 0.6)
    assert family.preset(has_images=True) == quick


def test_a_greedy_answer_is_not_penalised_unless_asked() -> None:
    defaults = FAMILIES["qwen3_vl"].with_pictures
    assert defaults.presence_penalty > 0
    assert params_from({"temperature": 0}, defaults, SETTINGS).presence_penalty == 0
    asked = {"temperature": 0, "presence_penalty": 0.5}
    assert params_from(asked, defaults, SETTINGS).presence_penalty == 0.5


# --- the API ---


def thinking_engine() -> ScriptedEngine:
    family = family_of("qwen3_vl", "enable_thinking", opens_thought=True)
    return ScriptedEngine(
        Chunk(thought="It is "),
        Chunk(thought="red."),
        "Red",
        ".",
        status=replace(READY, family=family),
    )


def test_the_official_client_reads_thoughts() -> None:
    with gated(thinking_engine()) as http:
        client = openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="-", max_retries=0)
        ask: dict[str, Any] = {"model": "-", "messages": [{"role": "user", "content": "Which?"}]}
        whole = client.chat.completions.create(**ask)
        message = whole.choices[0].message
        assert message.content == "Red."
        assert message.reasoning_content == "It is red."  # type: ignore[attr-defined]
        assert message.reasoning == "It is red."  # type: ignore[attr-defined]
        assert whole.usage is not None
        assert whole.usage.completion_tokens_details is not None
        assert whole.usage.completion_tokens_details.reasoning_tokens == 2
        thought, text = "", ""
        for event in client.chat.completions.create(**ask, stream=True):
            delta = event.choices[0].delta
            thought += getattr(delta, "reasoning_content", None) or ""
            assert not (text and getattr(delta, "reasoning_content", None))
            text += delta.content or ""
        assert (thought, text) == ("It is red.", "Red.")


def test_wishes_and_earlier_thoughts_reach_the_engine() -> None:
    engine = thinking_engine()
    turns = [
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "content": "Red.", "reasoning_content": "It is red."},
        {"role": "user", "content": "Sure?"},
    ]
    with gated(engine) as http:
        body = {
            "messages": turns,
            "chat_template_kwargs": {"enable_thinking": True, "preserve_thinking": True},
            "reasoning_effort": "high",
            "thinking_budget": 99,
        }
        assert http.post(CHAT, json=body).status_code == 200
        messages, params = engine.requests[-1]
        assert [message.thought for message in messages] == ["", "It is red.", ""]
        assert (params.enable_thinking, params.preserve_thinking) == (True, True)
        assert (params.reasoning_effort, params.thinking_budget) == ("high", 99)
        assert params.temperature == 0.6  # the preset of an answer that thinks first
        http.post(CHAT, json={"messages": turns, "enable_thinking": False})
        assert engine.requests[-1][1].temperature == 1.0


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("reasoning_effort", "extreme", "none, minimal, low"),
        ("enable_thinking", "yes", "true or false"),
        ("thinking_budget", -7, "between 0 and"),
        ("chat_template_kwargs", [], "must be an object"),
        ("chat_template_kwargs", {"add_vision_id": True}, "'add_vision_id'"),
        ("chat_template_kwargs", {"enable_thinking": 3}, "'enable_thinking'"),
    ],
)
def test_what_is_no_wish_is_refused_by_name(field: str, value: Any, told: str) -> None:
    with gated(thinking_engine()) as http:
        response: httpx.Response = http.post(
            CHAT, json={"messages": [{"role": "user", "content": "Hi"}], field: value}
        )
        assert response.status_code == 400
        message = assert_error(response.json(), "bad_request")
        assert told in message
        assert field in message or field == "chat_template_kwargs"
