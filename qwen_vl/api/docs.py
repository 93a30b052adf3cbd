"""The API's reference: an OpenAPI 3.1 document, and a page made of it.

Written by hand, because the endpoints read their requests themselves: they are lenient where
clients differ. A test sends what this document allows. Source: the OpenAPI Specification 3.1.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

from qwen_vl import __version__

Schema = dict[str, Any]

_DATA_URI = {"type": "string", "description": "data:image/...;base64,..."}


def _number(low: float, high: float, text: str) -> Schema:
    return {"type": ["number", "null"], "minimum": low, "maximum": high, "description": text}


def _integer(low: int, high: int, text: str) -> Schema:
    return {"type": ["integer", "null"], "minimum": low, "maximum": high, "description": text}


_SAMPLING: dict[str, Schema] = {
    "temperature": _number(0, 2, "0 is greedy"),
    "top_p": _number(0, 1, "nucleus sampling"),
    "top_k": _integer(0, 1000, "0 is off"),
    "min_p": _number(0, 1, "share of the likeliest token's probability; 0 is off"),
    "repetition_penalty": _number(0.5, 2, "1 is off"),
    "presence_penalty": _number(-2, 2, "over generated tokens"),
    "frequency_penalty": _number(-2, 2, "over generated tokens"),
    "max_tokens": _integer(1, 1 << 31, "or max_completion_tokens; the server has a limit"),
    "max_completion_tokens": _integer(1, 1 << 31, "the newer name of max_tokens"),
    "seed": _integer(-(1 << 63), (1 << 63) - 1, "the same seed gives the same text"),
    "stop": {
        "description": "texts that end the answer",
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 16},
            {"type": "null"},
        ],
    },
    "logit_bias": {
        "type": ["object", "null"],
        "description": "token id -> -100 .. 100",
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    },
    "max_image_tokens": _integer(4, 16384, "visual tokens per picture; see --max-image-tokens"),
}
_SALT: Schema = {
    "type": ["string", "null"],
    "maxLength": 200,
    "description": "what requests with one salt leave in caches serves no other salt; not for jobs",
}


def _part(kind: str, required: list[str], **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, **properties},
        "required": ["type", *required],
    }


_URL = {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]}
_PARTS = {
    "anyOf": [
        _part("text", ["text"], text={"type": "string"}),
        _part("image_url", ["image_url"], image_url=_URL),
        _part(
            "video_url",
            ["video_url"],
            video_url=_URL,
            every_s={"type": "number", "exclusiveMinimum": 0, "default": 5},
        ),
        _part(
            "video",
            ["frames", "timestamps_s"],
            frames={"type": "array", "items": _DATA_URI, "minItems": 1},
            timestamps_s={"type": "array", "items": {"type": "number", "minimum": 0}},
        ),
    ]
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PARTS}]},
    },
    "required": ["role", "content"],
}
_CHAT = {
    "type": "object",
    "properties": {
        "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
        "model": {"type": "string", "description": "accepted and ignored: one model runs here"},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
        },
        "n": {"enum": [1, None]},
        "response_format": {
            "type": ["object", "null"],
            "properties": {"type": {"enum": ["text", "json_object"]}},
            "description": "json_object is best effort: the model is told to write JSON",
        },
        "cache_salt": _SALT,
        **_SAMPLING,
    },
    "required": ["messages"],
}
_SIMPLE = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "minLength": 1},
        "image": {**_DATA_URI, "type": ["string", "null"]},
        "session_id": {
            "type": ["string", "null"],
            "maxLength": 200,
            "description": "the server remembers the conversation under this name; without API "
            "keys whoever knows it and calls from the same address can go on with it",
        },
        "cache_salt": _SALT,
        **_SAMPLING,
    },
    "required": ["text"],
}
_FORM = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "format": "binary"},
        "prompt": {"type": "string", "description": "what to ask; by default to describe it"},
        "stream": {"type": "boolean"},
    },
    "required": ["image"],
}
_OBJECT: Schema = {"type": "object"}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "partial": {"type": "string", "description": "with a timeout: what was written"},
            },
            "required": ["message", "type", "code"],
        }
    },
    "required": ["error"],
}
_JOB = {
    "type": "object",
    "properties": {
        "task_id": {"type": "string"},
        "status": {"enum": ["processing", "done", "failed", "cancelled"]},
        "position": {"type": "integer", "description": "in the queue; 0: being answered"},
        "result": {"type": "string", "description": "so far, or all of it"},
        "finish_reason": {"type": ["string", "null"]},
        "usage": {"type": ["object", "null"]},
        "error": _OBJECT,
    },
    "required": ["task_id", "status"],
}
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
    "504": "Out of time; the error holds the partial text",
}


def _answers(content: dict[str, Any], text: str, status: str = "200") -> Schema:
    told = {"application/json": {"schema": _ERROR}}
    errors = {code: {"description": said, "content": told} for code, said in _ERRORS.items()}
    return {status: {"description": text, "content": content}, **errors}


def _operation(
    name: str, summary: str, answers: Schema, body: dict[str, Schema] | None = None
) -> Schema:
    operation: Schema = {"operationId": name, "summary": summary, "responses": answers}
    if body:
        content = {kind: {"schema": schema} for kind, schema in body.items()}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def schema() -> Schema:
    """The OpenAPI document."""
    as_json = {"application/json": {"schema": _OBJECT}}
    event = {"type": "object", "properties": {"data": {"type": "string"}}}
    as_events = {"text/event-stream": {"schema": event}}
    as_job = {"application/json": {"schema": _JOB}}
    both: dict[str, Schema] = {"application/json": _CHAT, "multipart/form-data": _FORM}
    jobs: dict[str, Schema] = {
        "application/json": {"anyOf": [_CHAT, _SIMPLE]},
        "multipart/form-data": _FORM,
    }
    health = _answers(as_json, "Requests are taken (status ready or degraded)")
    health["503"] = {"description": "Loading or failed, same fields", "content": as_json}
    task = {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string"}}
    paths: dict[str, Schema] = {
        "/v1/chat/completions": {
            "post": _operation(
                "chat", "One answer, in OpenAI's format",
                _answers({**as_json, **as_events}, "The answer, whole or as events"), both,
            )
        },
        "/stream_chat": {
            "post": _operation(
                "stream_chat", 'Events {"token": "..."}, and a remembered conversation',
                _answers(as_events, "The answer as events"), {"application/json": _SIMPLE},
            )
        },
        "/inference": {
            "post": _operation(
                "submit", "An answer in the background",
                _answers(as_job, "Taken in", "202"), jobs,
            )
        },
        "/result/{task_id}": {
            "parameters": [task],
            "get": _operation("result", "A job as it is now", _answers(as_job, "The job")),
            "delete": _operation("cancel", "Cancel a job", _answers(as_job, "The job")),
        },
        "/v1/models": {"get": _operation("models", "The model", _answers(as_json, "One model"))},
        "/health": {"get": _operation("health", "What is running", health)},
        "/metrics": {
            "get": _operation(
                "metrics", "Figures for Prometheus",
                _answers({"text/plain": {"schema": {"type": "string"}}}, "All figures"),
            )
        },
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Qwen-VL demo",
            "version": __version__,
            "description": "Unknown fields are ignored. Pictures and clips are data: URIs.",
        },
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
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
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                text = json.dumps(content["schema"], indent=2)
                parts.append(f"<details><summary>{kind}</summary><pre>{escape(text)}</pre>")
                parts.append("</details>")
            rows = "".join(
                f"<tr><td>{code}</td><td>{escape(answer['description'])}</td></tr>"
                for code, answer in operation["responses"].items()
            )
            parts.append(f"<details><summary>answers</summary><table>{rows}</table></details>")
    style = (
        "body{font:16px system-ui;max-width:50em;margin:2em auto;padding:0 1em}pre{overflow:auto}"
    )
    head = f"<meta charset=utf-8><title>API</title><style>{style}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>"
