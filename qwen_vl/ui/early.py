"""Puts a script in front of everything else of the page: Gradio runs its own `head` too late.

Knows ASGI messages; knows nothing of what the script does.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

HEAD = b"<head>"


def with_script(send: Send, script: str) -> Send:
    """`send` that adds the script to an HTML document; everything else passes as it is."""
    tag = HEAD + f"<script>{script}</script>".encode()
    waiting: list[Message] = []  # the start of a document, until its body is known

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start" and _is_document(message):
            waiting.append(message)
            return
        if not waiting or message["type"] != "http.response.body":
            await send(message)
            return
        waiting.append(message)
        if message.get("more_body", False):
            return
        start, *pieces = waiting
        body = b"".join(piece.get("body", b"") for piece in pieces).replace(HEAD, tag, 1)
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        waiting.clear()
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return sending


def _is_document(start: Message) -> bool:
    headers = MutableHeaders(scope=start)
    is_html = headers.get("content-type", "").startswith("text/html")
    return is_html and "content-encoding" not in headers
