"""The tools `ask` and `keyframes` for agents, over the Model Context Protocol.

One POST, one JSON answer: nothing is remembered between two of them. Source: the specification of
2025-06-18, "Streamable HTTP" and "Tools". Knows JSON-RPC and tools; what they do is handed in.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from io import BytesIO
from typing import Any

from PIL import Image

from qwen_vl import __version__
from qwen_vl.errors import BadRequest, UserError

VERSIONS = ("2025-06-18", "2025-03-26", "2024-11-05")  # of the protocol, the newest first
_INVALID, _NO_METHOD, _BAD_PARAMS = -32600, -32601, -32602

Content = list[dict[str, Any]]
Tool = Callable[[Mapping[str, Any]], Awaitable[Content]]  # arguments -> content

_DATA_URI = {"type": "string", "description": "data:...;base64,..."}
TOOLS: tuple[dict[str, Any], ...] = (
    {
        "name": "ask",
        "description": "Asks a vision-language model about pictures, or about none.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "question": {"type": "string", "minLength": 1},
                "pictures": {"type": "array", "items": _DATA_URI},
            },
            "required": ["question"],
        },
    },
    {
        "name": "keyframes",
        "description": "Takes the pictures that tell the story of a clip, with their times.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "clip": _DATA_URI,
                "method": {"enum": ["auto", "scenes", "even", "interval"], "default": "auto"},
                "count": {"type": "integer", "minimum": 1, "description": "most pictures"},
            },
            "required": ["clip"],
        },
    },
)


async def answered(message: Mapping[str, Any], tools: Mapping[str, Tool]) -> dict[str, Any] | None:
    """The answer to one message of a client; None to a notification, which wants none.

    What a tool refuses is its result, so that the model that called it can read it.
    """
    method, params = message.get("method"), message.get("params") or {}
    if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return _error(message, _INVALID, "This is no JSON-RPC 2.0 request.")
    if "id" not in message:
        return None
    if not isinstance(params, Mapping):
        return _error(message, _BAD_PARAMS, "'params' must be an object.")
    if method == "initialize":
        asked = params.get("protocolVersion")
        return _result(message, _about(asked if asked in VERSIONS else VERSIONS[0]))
    if method == "ping":
        return _result(message, {})
    if method == "tools/list":
        return _result(message, {"tools": list(TOOLS)})
    if method != "tools/call":
        return _error(message, _NO_METHOD, f"There is no method {method[:100]!r} here.")
    tool, arguments = tools.get(str(params.get("name"))), params.get("arguments") or {}
    if tool is None or not isinstance(arguments, Mapping):
        return _error(message, _BAD_PARAMS, f"Call one of {', '.join(tools)} with an object.")
    try:
        return _result(message, {"content": await tool(arguments), "isError": False})
    except UserError as error:
        return _result(message, {"content": [text(str(error))], "isError": True})


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def picture(image: Image.Image) -> dict[str, Any]:
    """As a JPEG: a frame of a clip was one before."""
    file = BytesIO()
    image.save(file, "JPEG", quality=90)
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "image", "data": data, "mimeType": "image/jpeg"}


def question_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `ask` as a chat request."""
    pictures, question = arguments.get("pictures") or [], arguments.get("question")
    if not isinstance(question, str) or not isinstance(pictures, list):
        raise BadRequest("'question' must be a text and 'pictures' a list of data: URIs.")
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in pictures]
    return {"messages": [{"role": "user", "content": [*parts, text(question)]}]}


def clip_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `keyframes` as a part of a message."""
    part: dict[str, Any] = {"type": "video_url", "video_url": {"url": arguments.get("clip")}}
    part["method"] = arguments.get("method") or "auto"
    if (count := arguments.get("count")) is not None:
        part |= {"count": count, "max_frames": count}
    return part


def _about(version: str) -> dict[str, Any]:
    server = {"name": "qwen-vl-demo", "version": __version__}
    return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}


def _result(message: Mapping[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def _error(message: Mapping[str, Any], code: int, said: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": code, "message": said}}
