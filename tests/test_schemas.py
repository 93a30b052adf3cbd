"""The API's reference is made of models; what is really answered has their shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from support.scripted_engine import ScriptedEngine
from support.until import until
from test_api import CHAT, asking, serving

from qwen_vl.api import schemas as s
from qwen_vl.api.docs import page, schema
from qwen_vl.api.responses import schemas as r
from qwen_vl.errors import Busy
from qwen_vl.sampling import FIELDS, help_of, json_schema, range_of, wire_names


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_answers_have_the_shapes_of_the_reference() -> None:
    with serving(ScriptedEngine("A ", "cat")) as client:
        whole = client.post(CHAT, json=asking()).json()
        assert s.ChatCompletion.model_validate(whole).choices[0].message.content == "A cat"
        streamed = asking(stream=True, stream_options={"include_usage": True})
        for event in events(client.post(CHAT, json=streamed).text):
            s.ChatCompletionChunk.model_validate(event)
        for event in events(client.post("/stream_chat", json={"text": "Hi"}).text):
            s.TokenEvent.model_validate(event)
        asked: dict[str, object] = {"input": "Hi"}
        answered = r.ResponseObject.model_validate(client.post("/v1/responses", json=asked).json())
        assert answered.status == "completed"
        path = f"/v1/responses/{answered.id}"
        r.ResponseDeleted.model_validate(client.delete(path).json())
        streamed = {**asked, "stream": True}
        lines = client.post("/v1/responses", json=streamed).text.splitlines()
        told = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert r.ResponseEvent.model_validate_json(told[-1]).type == "response.completed"
        taken = client.post("/inference", json={"text": "Hi"}).json()
        path = f"/result/{s.JobTaken.model_validate(taken).task_id}"
        until(lambda: client.get(path).json()["status"] == "done")
        assert s.JobResult.model_validate(client.get(path).json()).result == "A cat"
        s.ModelList.model_validate(client.get("/v1/models").json())
        assert s.Health.model_validate(client.get("/health").json()).family == "qwen3_vl"
        wrong = client.post(CHAT, json=asking(temperature=9))
        s.Error.model_validate(wrong.json())
        with pytest.raises(ValidationError):
            s.ChatCompletion.model_validate(wrong.json())


def test_refusals_of_the_engine_have_their_shape() -> None:
    with serving(ScriptedEngine(refusal=Busy("Full: try again."))) as client:
        response = client.post(CHAT, json=asking())
    assert response.status_code == 429
    assert s.Error.model_validate(response.json()).error.message == "Full: try again."


@pytest.mark.parametrize("name", FIELDS)
def test_the_reference_tells_every_sampling_field(name: str) -> None:
    shapes = schema()["components"]["schemas"]
    for request in ("ChatRequest", "SimpleRequest", "ResponsesRequest"):
        for wire in wire_names(name):
            told = shapes[request]["properties"][wire]
            assert told == json_schema(name)
            assert told["description"] == help_of(name)
    number = json_schema(name)["anyOf"][0]
    if number["type"] in ("number", "integer"):
        low, high = range_of(name)
        assert number["minimum"] == low
        assert float(number.get("maximum", "inf")) == high


@pytest.mark.parametrize(
    "model", [s.ChatRequest, s.SimpleRequest, s.ChatCompletion, s.Error, r.ResponsesRequest]
)
def test_examples_have_the_shape_that_they_explain(model: Any) -> None:
    (example,) = schema()["components"]["schemas"][model.__name__]["examples"]
    model.model_validate(example)


def test_every_reference_leads_somewhere() -> None:
    document = json.dumps(schema())
    shapes = schema()["components"]["schemas"]
    names = {part.split('"')[0] for part in document.split("#/components/schemas/")[1:]}
    assert names <= set(shapes)
    for name in names:
        assert f"id={name}>" in page()
