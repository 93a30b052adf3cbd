"""Tools: what a request may name, what a model calls, and how calls and results travel."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from support.pictures import as_uri, encoded, noise
from support.scripted_engine import ScriptedEngine
from support.tool_templates import JSON_TEMPLATE, XML_TEMPLATE
from test_api import CHAT, asking, serving
from test_remote import asking as remote
from test_remote import send_events, strange

from qwen_vl import EXAMPLES
from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.tool_calls import CallSplitter
from qwen_vl.errors import BadRequest
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import CallPiece, Chunk, Message, TextPart, ToolCall, joined_calls
from qwen_vl.tools import tools_from

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Bern"]},
        "days": {"$ref": "#/$defs/days"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
BOTH = {"tools": [WEATHER, CLOCK]}
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
NOTE = {"type": "function", "function": {"name": "note", "parameters": TEXT}}
NOTED = 'a "b"\n\n</tool_ < \\ 你'
CALL = ToolCall("weather", '{"city": "Oslo", "days": 2}', "c1")
JSON_CALL = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
)
XML_CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
    "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
)
BROKEN = '<tool_call>\n{"name": "weather", "argum'


# --- told apart ---


def split(text: str, seed: int, **fields: Any) -> tuple[str, list[tuple[str, Any]]]:
    tools = tools_from({"tools": [WEATHER, CLOCK, NOTE], **fields})
    assert tools is not None
    splitter, cuts = CallSplitter(tools), random.Random(seed)
    said, pieces = "", []
    while text:
        size = cuts.randint(1, 7)
        piece, text = splitter.push(text[:size]), text[size:]
        said, pieces = said + piece.text, [*pieces, *piece.calls]
    piece = splitter.flush()
    calls = joined_calls([*pieces, *piece.calls])
    assert len({call.id for call in calls}) == len(calls)
    return said + piece.text, [(call.name, json.loads(call.arguments)) for call in calls]


OSLO = ("weather", {"city": "Oslo", "days": 2})


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("It rains.\n", "It rains.\n", []),
        (JSON_CALL, "", [OSLO]),
        (XML_CALL, "", [OSLO]),
        (f"Let me look.\n\n{JSON_CALL}", "Let me look.", [OSLO]),
        (f"{JSON_CALL}\n{XML_CALL}\n", "", [OSLO, OSLO]),
        (JSON_CALL.removesuffix("</tool_call>"), "", [OSLO]),
        (XML_CALL.removesuffix("</tool_call>"), "", [OSLO]),
        (BROKEN, BROKEN, []),
        ("<tool_call>no JSON</tool_call> A", "<tool_call>no JSON</tool_call> A", []),
        (JSON_CALL.replace("weather", "unknown"), JSON_CALL.replace("weather", "unknown"), []),
        ('<tool_call>{"name": "clock"}</tool_call>', "", [("clock", {})]),
        ("1 < 2 <tool", "1 < 2 <tool", []),
        (XML_CALL.replace("\n</function>", ""), "", [OSLO]),
        ("<tool_call>\n<function=clock>\n</function>\n</tool_call>", "", [("clock", {})]),
        (
            f"<tool_call><function=note><parameter=text>\n{NOTED}\n</parameter>\n</function></tool_call>",
            "",
            [("note", {"text": NOTED})],
        ),
    ],
)
def test_calls_are_told_from_text(text: str, said: str, calls: list[Any]) -> None:
    for seed in range(20):
        assert split(text, seed) == (said, calls)


def test_one_call_ends_an_answer_that_may_make_one() -> None:
    assert split(f"{JSON_CALL}\n{XML_CALL}", 1, parallel_tool_calls=False) == ("", [OSLO])


def test_a_tag_in_an_argument_ends_no_call_that_had_to_be_made() -> None:
    text = '<tool_call>{"name": "clock", "arguments": {"a": "</tool_call>"}}</tool_call>'
    for seed in range(20):
        assert split(text, seed, tool_choice="required") == ("", [("clock", {"a": "</tool_call>"})])


@pytest.mark.parametrize("whole", [JSON_CALL, XML_CALL])
def test_a_call_that_is_cut_off_is_told_as_far_as_it_came(whole: str) -> None:
    tools = tools_from(BOTH)
    assert tools is not None
    splitter = CallSplitter(tools)
    said = splitter.push(whole[: whole.index("Oslo") + 4])
    pieces = [*said.calls, *splitter.flush().calls]
    (call,) = joined_calls(pieces)
    assert (said.text, call.name) == ("", "weather")
    assert call.arguments.startswith('{"city": "Os')


# --- what a request may say ---


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"tools": {}}, "'tools'"),
        ({"tools": [{"type": "function"}]}, r"'tools\[0\].function'"),
        ({"tools": [{"function": {"name": "a b"}}]}, r"'tools\[0\].function.name'"),
        ({"tools": [WEATHER, WEATHER]}, "twice"),
        ({"tools": [{"function": {"name": "a", "parameters": {"type": "array"}}}]}, "type"),
        ({"tools": [{"function": {"name": "a", "parameters": {"<|im_end|>": 1}}}]}, "'<'"),
        ({"tools": [CLOCK], "tool_choice": "any"}, "'tool_choice'"),
        ({"tools": [CLOCK], "tool_choice": {"function": {"name": "x"}}}, "'tool_choice'"),
        ({"tool_choice": "required"}, "'tool_choice'"),
        ({"tools": [CLOCK], "parallel_tool_calls": "no"}, "'parallel_tool_calls'"),
        ({"functions": 1}, "'functions'"),
    ],
)
def test_wrong_tools_are_refused_by_name(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(BadRequest, match=place):
        tools_from(fields)


def test_choices_are_read_in_both_forms() -> None:
    named = {"type": "function", "function": {"name": "clock"}}
    older = {"functions": [CLOCK["function"]]}
    choices = [
        tools_from({**BOTH, "tool_choice": "none"}),
        tools_from({**older, "function_call": "none"}),
        tools_from({"tools": [], "tool_choice": "auto"}),
    ]
    assert choices == [None] * 3
    for raw in ({**BOTH, "tool_choice": named}, {**older, "function_call": {"name": "clock"}}):
        tools = tools_from(raw)
        assert tools is not None
        assert tools.must_call == "clock"


# --- a model ---


@pytest.fixture(scope="module", params=[JSON_TEMPLATE, XML_TEMPLATE], ids=["json", "xml"])
def engine(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The bundled model with the chat template of a larger one."""
    from conftest import opened

    folder = tmp_path_factory.mktemp("tools") / "model"
    shutil.copytree(EXAMPLES / "tiny_model/model", folder)
    (folder / "chat_template.jinja").write_text(request.param, encoding="utf-8")
    made = opened(Settings(model=str(folder), dtype="float32"))
    assert made.status().state == "ready", made.status().detail
    yield made
    made.close()


NAMED = {"type": "function", "function": {"name": "weather"}}


def test_calls_that_must_be_made_always_parse(engine: Engine) -> None:
    with serving(engine, Settings(), closes_engine=False) as client:
        api = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="-", max_retries=0)
        turn: Any = [{"role": "user", "content": "What is the weather?"}]
        for seed in range(2):
            fields: Any = {"model": "m", "seed": seed, "extra_body": {"top_k": 0}}
            fields |= {"temperature": 1.5, "top_p": 1.0, "max_tokens": 200, "tools": [WEATHER]}
            whole = api.chat.completions.create(messages=turn, tool_choice=NAMED, **fields)
            (choice,) = whole.choices
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            assert choice.message.tool_calls is not None
            (call,) = choice.message.tool_calls
            assert call.type == "function"
            assert call.function.name == "weather"
            jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
            with api.chat.completions.stream(
                messages=turn, tool_choice="required", parallel_tool_calls=False, **fields
            ) as stream:
                told = [event.type for event in stream]
                streamed = stream.get_final_completion().choices[0]
            assert told.count("tool_calls.function.arguments.delta") > 2
            assert streamed.finish_reason == "tool_calls"
            assert streamed.message.tool_calls is not None
            (call,) = streamed.message.tool_calls
            jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)


def test_a_form_beside_tools_binds_what_is_no_call(engine: Engine) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}}
    fields: Any = {"response_format": form, "max_tokens": 200, "temperature": 1.5, "top_k": 0}
    with serving(engine, Settings(), closes_engine=False) as client:
        for choice in ("auto", NAMED):
            body = asking(**fields, tools=[WEATHER], tool_choice=choice, seed=1)
            told = client.post(CHAT, json=body)
            assert told.status_code == 200, told.text
            message = told.json()["choices"][0]["message"]
            calls = message.get("tool_calls", [])
            for call in calls:
                jsonschema.validate(json.loads(call["function"]["arguments"]), PARAMETERS)
            assert bool(calls) or json.loads(message["content"]) in ("yes", "no")
            assert calls or choice == "auto"


def test_the_limit_may_cut_a_call_and_says_so(engine: Engine) -> None:
    params = SamplingParams(
        temperature=0, max_new_tokens=8, tools=tools_from({**BOTH, "tool_choice": "required"})
    )
    chunks = list(engine.stream([Message("user", (TextPart("Hello"),))], params))
    assert chunks[-1].finish_reason == "length"
    assert not any(chunk.calls for chunk in chunks)


def test_definitions_results_and_their_pictures_are_shown(engine: Engine) -> None:
    results = [
        {"role": "tool", "tool_call_id": "c1", "content": ""},
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": [
                {"type": "image_url", "image_url": {"url": as_uri(encoded(noise(64, 64)))}},
                {"type": "text", "text": "<|im_end|> sunny"},
            ],
        },
    ]
    function = {"name": "weather", "arguments": CALL.arguments}
    called = {"id": "c1", "type": "function", "function": function}
    turns = [
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
    ]

    with serving(engine, Settings(), closes_engine=False) as client:

        def tokens(messages: list[Any], **fields: Any) -> int:
            told = client.post(CHAT, json={"messages": messages, "max_tokens": 1, **fields})
            assert told.status_code == 200, told.text
            count: int = told.json()["usage"]["prompt_tokens"]
            return count

        plain = tokens([*turns, results[0]])
        assert tokens([*turns, results[0]], tools=[WEATHER]) > plain
        assert tokens([*turns, results[0]], tools=[WEATHER], tool_choice="none") == plain
        assert tokens([*turns, results[1]]) > plain + 4


# --- a template without tools, and what cannot be had together ---


def test_a_model_without_tools_says_so(bundled_engine: Engine) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    older = {"name": "weather", "arguments": "{}"}
    histories = [
        [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1"}],
        [
            {"role": "assistant", "content": None, "function_call": older},
            {"role": "function", "name": "weather", "content": "sunny"},
        ],
    ]
    with serving(bundled_engine, Settings(), closes_engine=False) as client:
        for choice in ("auto", "required"):
            told = client.post(CHAT, json=asking(**BOTH, tool_choice=choice))
            assert told.status_code == 422
            assert "knows no tools" in told.json()["error"]["message"]
        for history in histories:
            turns = [*asking()["messages"], *history]
            told = client.post(CHAT, json={"messages": turns, "max_tokens": 2})
            assert told.status_code == 200, told.text
        unanswered = [*asking()["messages"], histories[0][0]]
        told = client.post(CHAT, json={"messages": unanswered})
        assert (told.status_code, "results" in told.text) == (400, True)


@pytest.mark.parametrize("fields", [{"guided_choice": ["yes", "no"]}, {"logprobs": True}])
def test_what_does_not_go_with_tools_is_refused(fields: dict[str, Any]) -> None:
    with serving(ScriptedEngine("a"), Settings()) as client:
        told = client.post(CHAT, json=asking(**BOTH, **fields))
        assert told.status_code == 422
        assert "'tools'" in told.json()["error"]["message"]
        jobs = client.post("/stream_chat", json={"text": "Hello", **BOTH})
        assert jobs.status_code == 422


def test_several_calls_are_numbered_in_a_stream() -> None:
    pieces = [CallPiece(0, name="weather", id="c1"), CallPiece(0, CALL.arguments[:9])]
    pieces += [CallPiece(0, CALL.arguments[9:]), CallPiece(1, "{}", "clock", "c2")]
    steps = (Chunk("Well."), *(Chunk(calls=(piece,)) for piece in pieces))
    with serving(ScriptedEngine(*steps, finish_reason="tool_calls"), Settings()) as client:
        api = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="-")
        tools: Any = [WEATHER, CLOCK]
        with api.chat.completions.stream(
            messages=[{"role": "user", "content": "?"}], model="m", tools=tools
        ) as stream:
            message = stream.get_final_completion().choices[0].message
    assert message.content == "Well."
    told = [(one.id, one.function.name, one.function.arguments) for one in message.tool_calls or ()]
    assert told == [("c1", "weather", CALL.arguments), ("c2", "clock", "{}")]


# --- another server ---


def test_tools_go_to_another_server_and_calls_come_back() -> None:
    seen: list[Any] = []

    def answer(handler: Any, body: Any) -> None:
        seen.append(body)
        head = {"index": 0, "id": "c1", "type": "function"}
        half = len(CALL.arguments) // 2
        send_events(
            handler,
            {"tool_calls": [{**head, "function": {"name": "weather", "arguments": ""}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": CALL.arguments[:half]}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": CALL.arguments[half:]}}]},
        )

    messages = [
        Message("user", (TextPart("?"),)),
        Message("assistant", (), calls=(CALL,)),
        Message("tool", (TextPart("sunny"),), call_id="c1"),
    ]
    params = SamplingParams(tools=tools_from({**BOTH, "tool_choice": "required"}))
    with strange(answer) as url, remote(url) as engine:
        chunks = list(engine.stream(messages, params))
    pieces = [piece for chunk in chunks for piece in chunk.calls]
    assert joined_calls(pieces) == (CALL,)
    assert len(pieces) > 2  # they are passed on as they come
    assert chunks[-1].finish_reason == "tool_calls"
