"""`/v1/responses`: what goes in is read as a chat, what comes out has OpenAI's own types."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, ConfigDict, TypeAdapter
from support.gated import gated
from support.pictures import as_uri, encoded, noise
from support.scripted_engine import ScriptedEngine
from support.until import until
from test_api import CHAT, SMALL, assert_error, serving

from qwen_vl import EXAMPLES
from qwen_vl.api import sessions
from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.errors import EngineFailed
from qwen_vl.schema import CallPiece, Chunk, ToolCall

PATH = "/v1/responses"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = ToolCall("weather", '{"city": "Oslo"}', "call_1")
PIECES = (
    CallPiece(0, name=CALL.name, id=CALL.id),
    CallPiece(0, CALL.arguments[:5]),
    CallPiece(0, CALL.arguments[5:]),
)
KEYS = Settings(api_key=("alice", "mallory"))


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def client(engine: ScriptedEngine) -> Iterator[httpx.Client]:
    with serving(engine, Settings()) as client:
        yield client


def create(client: httpx.Client, input_: Any = "Hello", **fields: Any) -> dict[str, Any]:
    """A response that has been checked against OpenAI's own type."""
    told = client.post(PATH, json={"input": input_, **fields})
    assert told.status_code == 200, told.text
    Response.model_validate(told.json())
    return dict(told.json())


def streamed(client: httpx.Client, input_: Any = "Hello", **fields: Any) -> list[dict[str, Any]]:
    """All events, checked: their types, their names, their numbers."""
    told = client.post(PATH, json={"input": input_, "stream": True, **fields})
    assert told.status_code == 200, told.text
    events = []
    for block in told.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def refusal(client: httpx.Client, status: int, code: str, **body: Any) -> str:
    told = client.post(PATH, json=body)
    assert told.status_code == status, told.text
    return assert_error(told.json(), code)


def text_of(response: dict[str, Any]) -> str:
    return Response.model_validate(response).output_text


# --- what comes out ---


def test_a_response_has_all_that_its_client_reads(client: httpx.Client) -> None:
    told = create(client, metadata={"a": "b"}, instructions="Be brief.", temperature=0.5, user="u")
    assert text_of(told) == "You said: Hello [0 pictures, 2 messages]"
    assert (told["status"], told["incomplete_details"], told["error"]) == ("completed", None, None)
    assert told["metadata"] == {"a": "b"}
    assert (told["instructions"], told["temperature"], told["user"]) == ("Be brief.", 0.5, "u")
    assert told["model"] == "Qwen/Qwen3-VL-Scripted"
    (message,) = told["output"]
    assert (message["role"], message["status"]) == ("assistant", "completed")
    usage = told["usage"]
    assert usage["input_tokens"] == 11
    assert usage["total_tokens"] == 11 + usage["output_tokens"]


def test_a_stream_tells_every_step_in_order(engine: ScriptedEngine, client: httpx.Client) -> None:
    engine.steps = (
        Chunk(thought="Hm, "),
        Chunk(thought="rain."),
        "It ",
        "rains.",
        Chunk(calls=PIECES),
    )
    engine.finish_reason = "tool_calls"
    events = streamed(client, tools=[WEATHER])
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.delta", "reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        "function_call_arguments.done",
        *("output_item.done", "completed"),
    ]
    final = events[-1]["response"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == final["output"]
    thought, message, call = final["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm, rain."}]
    assert message["content"][0]["text"] == "It rains."
    assert (call["name"], call["arguments"], call["call_id"]) == (
        "weather",
        CALL.arguments,
        CALL.id,
    )
    assert final["tools"][0] == {**WEATHER, "description": None}
    for event in events:  # each event names the item that it belongs to
        if "item_id" in event:
            assert event["item_id"] == final["output"][event["output_index"]]["id"]


def test_thoughts_stand_where_summaries_are_asked_for(
    engine: ScriptedEngine, client: httpx.Client
) -> None:
    engine.steps = (Chunk(thought="Hm."), "Yes")
    events = streamed(client, reasoning={"summary": "auto"})
    (delta,) = [one for one in events if one["type"] == "response.reasoning_summary_text.delta"]
    assert (delta["delta"], delta["summary_index"]) == ("Hm.", 0)
    thought, message = events[-1]["response"]["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "Hm."}]
    create(client, [{"role": "user", "content": "?"}, thought, message, *asking("And?")])
    assert engine.requests[-1][0][1].thought == "Hm."


def asking(text: str) -> list[dict[str, Any]]:
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]


def test_openais_client_reads_whole_answers_streams_and_models(bundled_engine: Engine) -> None:
    class Shape(BaseModel):
        model_config = ConfigDict(extra="forbid")

        kind: Literal["circle", "square"]

    picture = as_uri((EXAMPLES / "images/scene.png").read_bytes())
    shown: Any = [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Describe the image."},
                {"type": "input_image", "image_url": picture, "detail": "auto"},
            ],
        }
    ]
    with serving(bundled_engine, Settings(), closes_engine=False) as client:
        api = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="-", max_retries=0)
        ask: Any = {"model": "m", "temperature": 0, "input": shown}
        whole = api.responses.create(**ask)
        assert whole.output_text.strip()
        chat = client.post(CHAT, json={"messages": shown, "temperature": 0}).json()
        assert whole.output_text == chat["choices"][0]["message"]["content"]
        with api.responses.stream(**ask) as stream:
            deltas = [one.delta for one in stream if one.type == "response.output_text.delta"]
            final = stream.get_final_response()
        assert final.output_text == whole.output_text == "".join(deltas)
        assert len(deltas) > 1
        parsed = api.responses.parse(**ask, text_format=Shape)
        assert isinstance(parsed.output_parsed, Shape)
        assert api.responses.retrieve(whole.id).output_text == whole.output_text
        more = api.responses.create(model="m", input="And now?", previous_response_id=whole.id)
        assert more.usage is not None
        assert whole.usage is not None
        assert more.usage.input_tokens_details.cached_tokens >= whole.usage.input_tokens
        api.responses.delete(whole.id)
        with pytest.raises(openai.NotFoundError):
            api.responses.retrieve(whole.id)


def test_a_limit_ends_a_response_as_incomplete(bundled_engine: Engine) -> None:
    with serving(bundled_engine, Settings(), closes_engine=False) as client:
        told = create(client, "Describe a house.", max_output_tokens=2, temperature=0)
        assert told["status"] == "incomplete"
        assert told["incomplete_details"] == {"reason": "max_output_tokens"}
        assert told["output"][0]["status"] == "incomplete"
        assert told["usage"]["output_tokens"] == 2
        *_, last = streamed(client, "Describe a house.", max_output_tokens=2, temperature=0)
        assert last["type"] == "response.incomplete"
        form = {"type": "json_schema", "name": "a", "schema": {"enum": ["yes", "no"]}}
        bound = create(client, "Is it?", text={"format": form})
        assert json.loads(text_of(bound)) in ("yes", "no")
        assert bound["text"]["format"] == form
        logged = create(client, "Hi", include=["message.output_text.logprobs"], top_logprobs=2)
        part = logged["output"][0]["content"][0]
        assert bytes(b for one in part["logprobs"] for b in one["bytes"]).decode() == part["text"]
        assert {len(one["top_logprobs"]) for one in part["logprobs"]} == {2}


def test_a_stream_that_breaks_off_says_so(engine: ScriptedEngine, client: httpx.Client) -> None:
    engine.steps = ("It ", EngineFailed("It broke: try again."))
    *_, done, last = streamed(client)
    assert (done["type"], done["item"]["status"]) == ("response.output_item.done", "incomplete")
    assert last["type"] == "response.failed"
    error = {"code": "server_error", "message": "It broke: try again."}
    assert (last["response"]["status"], last["response"]["error"]) == ("failed", error)


# --- what goes in ---


def test_items_become_the_turns_of_a_chat(engine: ScriptedEngine, client: httpx.Client) -> None:
    picture = as_uri(encoded(noise(8, 8)))
    create(
        client,
        [
            {"role": "developer", "content": "Be kind."},
            *asking("Weather?"),
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
                {"type": "reasoning_text", "text": "I look it up."}]},
            {"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": "Let me see.", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"type": "function_call_output", "call_id": "c2", "output": [
                {"type": "input_image", "image_url": picture}]},
        ],
        instructions="Be brief.",
    )  # fmt: skip
    system, asked, turn, first, second = engine.requests[-1][0]
    assert (system.role, system.text) == ("system", "Be brief.\n\nBe kind.")
    assert asked.text == "Weather?"
    assert (turn.role, turn.text, turn.thought) == ("assistant", "Let me see.", "I look it up.")
    assert [call.id for call in turn.calls] == ["c1", "c2"]
    assert (first.role, first.call_id, first.text) == ("tool", "c1", "sunny")
    assert (second.call_id, len(second.images)) == ("c2", 1)


def test_a_clip_is_seen(engine: ScriptedEngine, client: httpx.Client) -> None:
    data = base64.b64encode((EXAMPLES / "clip.webm").read_bytes()).decode()
    clip = {"type": "input_video", "video_url": {"url": f"data:video/webm;base64,{data}"}}
    told = create(client, [{"role": "user", "content": [{**clip, "count": 3}, text("What?")]}])
    assert len(told["usage"]["frames_s"]) == 3
    assert len(engine.requests[-1][0][0].images) == 3


def text(words: str) -> dict[str, Any]:
    return {"type": "input_text", "text": words}


def test_tools_are_told_and_chosen(engine: ScriptedEngine, client: httpx.Client) -> None:
    clock = {"type": "function", "name": "clock"}
    both: Any = {"tools": [WEATHER, clock]}
    named = {"type": "function", "name": "clock"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    for choice, names, must in (
        ("auto", ["weather", "clock"], False),
        ("required", ["weather", "clock"], True),
        (named, ["weather", "clock"], "clock"),
        (allowed, ["clock"], True),
    ):
        told = create(client, **both, tool_choice=choice, parallel_tool_calls=False)
        assert told["tool_choice"] == choice
        tools = engine.requests[-1][1].tools
        assert tools is not None
        assert [tool.name for tool in tools.tools] == names
        assert (tools.must_call, tools.parallel) == (must, False)
    create(client, **both, tool_choice="none")
    assert engine.requests[-1][1].tools is None


def file(**fields: Any) -> list[Any]:
    return [{"role": "user", "content": [{"type": "input_file", "filename": "a.pdf", **fields}]}]


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({}, 400, "bad_request", "'input' must be"),
        ({"input": ""}, 400, "bad_request", "empty"),
        ({"input": [5]}, 400, "bad_request", "input[0] must be"),
        ({"input": [{"role": "king", "content": "a"}]}, 400, "bad_request", "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "bad_request",
         "input[0].content[0].image_url must"),
        ({"input": [{"type": "function_call", "name": "a b"}]}, 400, "bad_request",
         "input[0].name"),
        ({"input": [{"type": "function_call_output", "call_id": 5, "output": "a"}]}, 400,
         "bad_request", "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "a", "output": [5]}]}, 400,
         "bad_request", "input[0].output[0]"),
        ({"input": [{"type": "item_reference", "id": "rs_0"}]}, 400, "bad_request", "input[0].id"),
        ({"input": [{"type": "web_search_call"}]}, 422, "unsupported", "input[0].type"),
        ({"input": [{"type": "reasoning", "content": "a"}]}, 400, "bad_request", "input[0].cont"),
        ({"input": file(file_data="data:application/pdf;base64,AA==")}, 422, "unsupported",
         "send its pages as pictures"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, 422,
         "unsupported", "input[0].content[0].file_id"),
        ({"input": "a", "max_output_tokens": 0}, 400, "bad_request", "'max_output_tokens'"),
        ({"input": "a", "instructions": 5}, 400, "bad_request", "'instructions'"),
        ({"input": "a", "metadata": {"a": 5}}, 400, "bad_request", "'metadata'"),
        ({"input": "a", "metadata": dict.fromkeys("abcdefghijklmnopq", "")}, 400, "bad_request",
         "'metadata'"),
        ({"input": "a", "store": "no"}, 400, "bad_request", "'store'"),
        ({"input": "a", "include": "all"}, 400, "bad_request", "'include'"),
        ({"input": "a", "background": True}, 422, "unsupported", "'background'"),
        ({"input": "a", "conversation": "c"}, 422, "unsupported", "'conversation'"),
        ({"input": "a", "prompt": {"id": "p"}}, 422, "unsupported", "'prompt'"),
        ({"input": "a", "n": 2}, 422, "unsupported", "'n'"),
        ({"input": "a", "reasoning": "high"}, 400, "bad_request", "'reasoning'"),
        ({"input": "a", "reasoning": {"effort": "huge"}}, 400, "bad_request",
         "'reasoning.effort'"),
        ({"input": "a", "text": {"verbosity": "low"}}, 422, "unsupported", "'text.verbosity'"),
        ({"input": "a", "text": {"format": "json"}}, 400, "bad_request", "'text.format'"),
        ({"input": "a", "text": {"format": {"type": "json_schema", "name": "a"}}}, 400,
         "bad_request", "'text.format'"),
        ({"input": "a", "text": {"format": {"type": "json_schema", "name": "a", "schema": 5}}},
         400, "bad_request", "'text.format.schema'"),
        ({"input": "a", "tools": {}}, 400, "bad_request", "'tools'"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, 422, "unsupported", "'tools[0].type'"),
        ({"input": "a", "tools": [{"type": "function", "name": "a b"}]}, 400, "bad_request",
         "'tools[0].name'"),
        ({"input": "a", "tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "tools": [
            {"type": "function", "name": "b"}]}}, 400, "bad_request", "'tool_choice'"),
        ({"input": "a", "previous_response_id": "resp_0"}, 400, "previous_response_not_found",
         "'previous_response_id'"),
        ({"input": "a", "top_logprobs": 30}, 400, "bad_request", "'top_logprobs'"),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_in_their_own_words(
    client: httpx.Client, body: dict[str, Any], status: int, code: str, words: str
) -> None:
    message = refusal(client, status, code, **body)
    assert words in message
    assert "messages[" not in message


def test_what_an_engine_refuses_is_told_in_those_words_too(bundled_engine: Engine) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "http://b"}}}
    form = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
    with serving(bundled_engine, Settings(), closes_engine=False) as client:
        for stream in (False, True):
            told = refusal(client, 400, "bad_request", input="a", text=form, stream=stream)
            assert "'text.format.schema" in told


# --- what is remembered ---


def test_a_conversation_goes_on_without_its_instructions(
    engine: ScriptedEngine, client: httpx.Client
) -> None:
    picture = {"type": "input_image", "image_url": as_uri(encoded(noise(8, 8)))}
    asked = [
        {"role": "system", "content": "Stay."},
        {"role": "user", "content": [picture, text("What?")]},
    ]
    first = create(client, asked, instructions="Go.")
    *_, last = streamed(client, "And?", previous_response_id=first["id"], instructions="New.")
    second = last["response"]
    assert second["previous_response_id"] == first["id"]
    create(client, "So?", previous_response_id=second["id"])
    messages = engine.requests[-1][0]
    assert [message.role for message in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert messages[0].text == "Stay."
    assert messages[2].text == text_of(first)
    assert messages[4].text == text_of(second)
    assert len(messages[1].images) == 1
    assert engine.requests[1][0][0].text == "New.\n\nStay."
    # One may go on from an earlier one, too: nothing has changed it.
    create(client, "Or?", previous_response_id=first["id"])
    assert len(engine.requests[-1][0]) == 4


def test_calls_and_their_results_are_part_of_it(
    engine: ScriptedEngine, client: httpx.Client
) -> None:
    engine.steps, engine.finish_reason = (Chunk(thought="Hm."), Chunk(calls=PIECES)), "tool_calls"
    first = create(client, "Weather?", tools=[WEATHER])
    thought, call = first["output"]
    result = {"type": "function_call_output", "call_id": CALL.id, "output": "sunny"}
    engine.steps, engine.finish_reason = ("Sunny.",), "stop"
    create(client, [result], previous_response_id=first["id"])
    gone_on = engine.requests[-1][0]
    assert (gone_on[1].calls, gone_on[1].thought) == ((CALL,), "Hm.")
    assert (gone_on[2].role, gone_on[2].text) == ("tool", "sunny")
    referred = [{"type": "item_reference", "id": one["id"]} for one in (thought, call)]
    create(client, [*asking("Weather?"), *referred, result])
    assert engine.requests[-1][0] == gone_on
    told = refusal(client, 400, "bad_request", input=[*asking("Weather?"), *referred])
    assert "results" in told


def test_what_is_not_to_be_stored_is_not(client: httpx.Client) -> None:
    told = create(client, store=False)
    assert told["store"] is False
    assert client.get(f"{PATH}/{told['id']}").status_code == 404
    refusal(client, 400, "previous_response_not_found", input="a", previous_response_id=told["id"])


def test_a_stored_response_is_got_and_deleted(client: httpx.Client) -> None:
    told = create(client)
    path = f"{PATH}/{told['id']}"
    assert client.get(path).json() == told
    assert client.get(path, params={"stream": "true"}).status_code == 422
    cancelled = client.post(f"{path}/cancel")
    assert "ended" in assert_error(cancelled.json(), "bad_request")
    gone = client.delete(path)
    assert gone.json() == {"id": told["id"], "object": "response", "deleted": True}
    for again in (client.get(path), client.delete(path), client.post(f"{path}/cancel")):
        assert again.status_code == 404
        assert_error(again.json(), "not_found")
    assert client.put(path).status_code == 405


def test_a_stream_is_cancelled_from_elsewhere(engine: ScriptedEngine, client: httpx.Client) -> None:
    gate = threading.Event()
    engine.steps = ("It ", gate)
    with client.stream("POST", PATH, json={"input": "a", "stream": True}) as told:
        lines = (line.removeprefix("data: ") for line in told.iter_lines() if "data: " in line)
        name = json.loads(next(lines))["response"]["id"]
        assert engine.answers[0].waiting.wait(60)
        cancelled = client.post(f"{PATH}/{name}/cancel").json()
        last = json.loads(list(lines)[-1])
    Response.model_validate(cancelled)
    assert cancelled["status"] == last["response"]["status"] == "cancelled"
    assert engine.cancelled == 1
    assert text_of(client.get(f"{PATH}/{name}").json()) == "It "


def test_no_key_sees_what_belongs_to_another() -> None:
    engine, gate = ScriptedEngine("It ", Chunk("is.")), threading.Event()

    def bearer(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    with serving(engine, KEYS) as client:
        told = client.post(PATH, json={"input": "secret"}, headers=bearer("alice")).json()
        path = f"{PATH}/{told['id']}"
        assert client.get(path).status_code == 401
        for key, status in (("mallory", 404), ("alice", 200)):
            assert client.get(path, headers=bearer(key)).status_code == status
        other = bearer("mallory")
        assert client.delete(path, headers=other).status_code == 404
        bodies: list[Any] = [
            {"input": "a", "previous_response_id": told["id"]},
            {"input": [{"type": "item_reference", "id": told["output"][0]["id"]}, *asking("a")]},
        ]
        for body in bodies:
            assert client.post(PATH, json=body, headers=other).status_code == 400
            assert client.post(PATH, json=body, headers=bearer("alice")).status_code == 200
        engine.steps = ("It ", gate)
        asked: Any = {"json": {"input": "a", "stream": True}, "headers": bearer("alice")}
        with client.stream("POST", PATH, **asked) as stream:
            line = next(line for line in stream.iter_lines() if line.startswith("data: "))
            name = json.loads(line.removeprefix("data: "))["response"]["id"]
            assert client.post(f"{PATH}/{name}/cancel", headers=other).status_code == 404
            gate.set()


def test_memory_is_bounded_and_shared_out_with_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    with serving(ScriptedEngine(), KEYS) as client:

        def ask(key: str) -> str:
            headers = {"Authorization": f"Bearer {key}"}
            return str(client.post(PATH, json={"input": "a"}, headers=headers).json()["id"])

        def kept(key: str, name: str) -> bool:
            headers = {"Authorization": f"Bearer {key}"}
            return client.get(f"{PATH}/{name}", headers=headers).status_code == 200

        mine = ask("alice")
        others = [ask("mallory") for _ in range(4)]
        assert kept("alice", mine)
        assert [kept("mallory", name) for name in others] == [False, False, True, True]
        monkeypatch.setattr(sessions, "MAX_BYTES", 1000)  # a response has more
        ask("mallory")
        assert not any(kept("mallory", name) for name in others)


def test_the_limits_of_a_conversation_hold_for_all_of_it(engine: ScriptedEngine) -> None:
    with serving(engine, SMALL) as client:
        told = create(client, "a" * 100)
        message = refusal(
            client, 413, "too_large", input="b" * 150, previous_response_id=told["id"]
        )
        assert "characters" in message


# --- like all other routes ---


def test_the_gate_knows_the_route(engine: ScriptedEngine) -> None:
    settings = Settings(cors_origin=("https://a.example",))
    with gated(engine, settings) as client:
        for path in ("/responses", "//v1//responses", "/v1/responses/"):
            headers = {"Origin": "https://a.example", "X-Request-Id": "mine"}
            told = client.post(path, json={"input": "Hello"}, headers=headers)
            assert told.status_code == 200, path
            assert told.headers["access-control-allow-origin"] == "https://a.example"
            assert told.headers["x-request-id"] == "mine"
        name = told.json()["id"]
        assert client.get(f"/responses/{name}").status_code == 200
        until(lambda: f'route="{PATH}"' in client.get("/metrics").text)
