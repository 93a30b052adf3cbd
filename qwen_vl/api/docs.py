"""The API's reference: an OpenAPI 3.1 document made of `schemas`, and a page made of it.

Source: the OpenAPI Specification 3.1.
"""

from __future__ import annotations

import json
from functools import cache
from html import escape
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from qwen_vl import __version__
from qwen_vl.api import schemas as s
from qwen_vl.api.responses import schemas as r

Schema = dict[str, Any]

_JSON, _EVENTS, _FORM = "application/json", "text/event-stream", "multipart/form-data"
HERE = "http://127.0.0.1:7860"  # in examples
_REF = "#/components/schemas/{model}"
_MODELS: tuple[type[BaseModel], ...] = (
    *(s.ChatRequest, s.TextRequest, s.SimpleRequest, s.PictureForm),
    *(s.ChatCompletion, s.ChatCompletionChunk, s.TokenEvent, s.JobTaken, s.JobResult),
    *(s.TextCompletion, s.ModelList, s.Model, s.Health, s.Error),
    *(r.ResponsesRequest, r.ResponseObject, r.ResponseEvent, r.ResponseDeleted),
)
_ERRORS = {
    "400": "Malformed",
    "401": "The API key is missing or wrong",
    "403": "The API is off on this server",
    "404": "Not found",
    "409": "The session is still answering",
    "413": "Over a limit",
    "415": "Not a picture, a clip or JSON",
    "422": "This model or server cannot do it",
    "429": "The queue is full, or too many requests; see Retry-After",
    "500": "The request broke inside the server",
    "503": "Loading, failed or shutting down",
    "504": "Out of time before the first word",
}


def _ref(*models: type[BaseModel]) -> Schema:
    refs = [{"$ref": _REF.format(model=model.__name__)} for model in models]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


def _content(**models: type[BaseModel]) -> Schema:
    """Media types, by `json`, `events` and `form`, with the shapes that they hold.

    An event is an object whose `data` is JSON of that shape, or [DONE] at the end.
    """
    kinds = {"json": _JSON, "events": _EVENTS, "form": _FORM}
    content: Schema = {}
    for kind, model in models.items():
        shape = _ref(model)
        if kind == "events":
            data = {"type": "string", "description": "JSON, or [DONE]", "x-json": shape}
            shape = {"type": "object", "properties": {"data": data}}
        content[kinds[kind]] = {"schema": shape}
    return content


def _operation(
    name: str,
    summary: str,
    told: str,
    content: Schema,
    body: Schema | None = None,
    status: str = "200",
) -> Schema:
    """One operation: `content` is what it answers, described by `told`."""
    errors = {
        code: {"description": text, "content": _content(json=s.Error)}
        for code, text in _ERRORS.items()
    }
    operation: Schema = {
        "operationId": name,
        "summary": summary,
        "responses": {status: {"description": told, "content": content}, **errors},
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _paths() -> Schema:
    job = _content(json=s.JobResult)
    jobs = _content(form=s.PictureForm) | {_JSON: {"schema": _ref(s.ChatRequest, s.SimpleRequest)}}
    health = _operation(
        "health", "What is running", "Requests are taken (ready or degraded)",
        _content(json=s.Health),
    )  # fmt: skip
    health["responses"]["503"] = {
        "description": "Loading, failed or draining; the same fields",
        "content": _content(json=s.Health),
    }
    response = _content(json=r.ResponseObject)
    task = {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/chat/completions": {
            "post": _operation(
                "chat", "One answer, in OpenAI's format", "The answer, whole or as events",
                _content(json=s.ChatCompletion, events=s.ChatCompletionChunk),
                _content(json=s.ChatRequest, form=s.PictureForm),
            )
        },
        "/v1/completions": {
            "post": _operation(
                "complete", "Texts gone on with, in OpenAI's format", "The answers, or events",
                _content(json=s.TextCompletion, events=s.TextCompletion),
                _content(json=s.TextRequest),
            )
        },
        "/v1/responses": {
            "post": _operation(
                "respond", "One response, in OpenAI's newer format",
                "The response, whole or as named events",
                _content(json=r.ResponseObject, events=r.ResponseEvent),
                _content(json=r.ResponsesRequest),
            )
        },
        "/v1/responses/{response_id}": {
            "parameters": [{**task, "name": "response_id"}],
            "get": _operation("response", "A stored response", "It", response),
            "delete": _operation(
                "forget", "Forget a stored response", "It is forgotten",
                _content(json=r.ResponseDeleted),
            ),
        },
        "/v1/responses/{response_id}/cancel": {
            "parameters": [{**task, "name": "response_id"}],
            "post": _operation("end", "End a stream from elsewhere", "As far as it came", response),
        },
        "/stream_chat": {
            "post": _operation(
                "stream_chat", 'Events {"token": "..."}, and a remembered conversation',
                "The answer as events", _content(events=s.TokenEvent),
                _content(json=s.SimpleRequest),
            )
        },
        "/inference": {
            "post": _operation(
                "submit", "An answer in the background", "Taken in",
                _content(json=s.JobTaken), jobs, status="202",
            )
        },
        "/result/{task_id}": {
            "parameters": [task],
            "get": _operation("result", "A job as it is now", "The job", job),
            "delete": _operation("cancel", "Cancel a job", "The job", job),
        },
        "/v1/models": {
            "get": _operation("models", "The model", "One model", _content(json=s.ModelList))
        },
        "/v1/models/{name}": {
            "parameters": [{**task, "name": "name"}],
            "get": _operation("model", "The model by its name", "It", _content(json=s.Model)),
        },
        "/health": {"get": health},
        "/metrics": {
            "get": _operation(
                "metrics", "Figures for Prometheus", "All figures",
                {"text/plain": {"schema": {"type": "string"}}},
            )
        },
    }  # fmt: skip


@cache
def schema() -> Schema:
    """The OpenAPI document."""
    shapes = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Qwen-VL demo",
            "version": __version__,
            "description": "Unknown fields are ignored. Pictures and clips are data: URIs.",
        },
        "paths": _paths(),
        "components": {
            "schemas": shapes[1]["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def page() -> str:
    """The document as a page that needs no scripts and no other server."""
    document = schema()
    parts = [f"<h1>{escape(document['info']['title'])} {escape(__version__)}</h1>"]
    parts.append(f"<p>{escape(document['info']['description'])} Everything as ")
    parts.append('<a href="openapi.json">openapi.json</a>.</p>')
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "parameters":
                continue
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation['summary'])}</p>")
            parts += _try(path, operation, document["components"]["schemas"])
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                parts.append(f"<p>takes <code>{kind}</code>: {_links(content['schema'])}</p>")
            rows = "".join(
                f"<tr><td>{code}</td><td>{escape(answer['description'])}</td>"
                f"<td>{' '.join(_links(c['schema']) for c in answer['content'].values())}</td></tr>"
                for code, answer in operation["responses"].items()
            )
            parts.append(f"<details><summary>answers</summary><table>{rows}</table></details>")
    parts.append("<h1>Shapes</h1>")
    for name, shape in document["components"]["schemas"].items():
        parts.append(f"<h3 id={name}>{name}</h3><p>{escape(shape.get('description', ''))}</p>")
        rows = "".join(_row(key, value, shape) for key, value in shape["properties"].items())
        parts.append(f"<table>{rows}</table>")
        for example in shape.get("examples", []):
            text = json.dumps(example, indent=2)
            parts.append(f"<details><summary>example</summary><pre>{escape(text)}</pre></details>")
    style = (
        "body{font:16px system-ui;max-width:56em;margin:2em auto;padding:0 1em}pre{overflow:auto}"
        "td{padding:.2em 1em .2em 0;vertical-align:top}"
    )
    head = f"<meta charset=utf-8><title>API</title><style>{style}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>"


def _try(path: str, operation: Schema, shapes: Schema) -> list[str]:
    """A command with an example of the request, and the example of its answer."""
    takes = operation.get("requestBody", {}).get("content", {}).get(_JSON, {}).get("schema", {})
    example = _example_of(takes, shapes)
    parts = []
    if example is not None:
        body = json.dumps(example, indent=2).replace("'", "'\\''")
        command = f"curl {HERE}{path} -H 'Authorization: Bearer KEY' \\\n"
        command += f"  -H 'Content-Type: application/json' \\\n  -d '{body}'"
        parts.append(f"<pre>{escape(command)}</pre>")
    done = next(answer for code, answer in operation["responses"].items() if code < "300")
    answered = _example_of(done["content"].get(_JSON, {}).get("schema", {}), shapes)
    if answered is not None:
        parts.append(f"<p>answers</p><pre>{escape(json.dumps(answered, indent=2))}</pre>")
    return parts


def _example_of(schema: Schema, shapes: Schema) -> Any:
    """The example of a shape, or of the first of several; None without one."""
    ref = (schema.get("anyOf") or [schema])[0].get("$ref", "")
    examples = shapes.get(ref.rpartition("/")[2], {}).get("examples")
    return examples[0] if examples else None


def _row(name: str, field: Schema, shape: Schema) -> str:
    needed = "required" if name in shape.get("required", []) else ""
    text = escape(field.get("description", ""))
    return (
        f"<tr><td><code>{escape(name)}</code></td><td>{_links(field)}</td>"
        f"<td>{needed}</td><td>{text}</td></tr>"
    )


def _links(field: Schema) -> str:
    """A field's type in a few words; shapes are links."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if "data" in field.get("properties", {}):
        return f"events of {_links(field['properties']['data']['x-json'])}"
    if "anyOf" in field:
        return " or ".join(_links(choice) for choice in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_links(field['items'])}"
    if "enum" in field or "const" in field:
        return escape(" | ".join(map(json.dumps, field.get("enum", [field.get("const")]))))
    low, high = field.get("minimum"), field.get("maximum")
    bounds = "" if low is None else f" {low:g} .. {'' if high is None else f'{high:g}'}"
    return escape(f"{field.get('type', 'any')}{bounds}")
