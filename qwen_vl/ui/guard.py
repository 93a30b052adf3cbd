"""What stands between the network and Gradio's routes of the page, as ASGI middleware.

Every response gets its headers, above all a Content-Security-Policy. Routes that the page does not
need are closed. Bodies are checked by size and structure, uploads by their sum, before Gradio sees
them. Knows HTTP and Gradio's route names; knows nothing of handlers or models.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen_vl.config import Settings
from qwen_vl.ui.early import with_script
from qwen_vl.ui.headers import GRADIO, page_policy, with_headers
from qwen_vl.ui.uploads import Uploads

# What the page's own script asks for; everything else of Gradio is switched off.
USED = (
    *("queue/join", "queue/data", "run/predict", "cancel", "reset", "heartbeat/", "startup-events"),
    *("upload", "upload_progress", "file=", "info", "theme.css", "app_id", "login_check", "user"),
)
OFF = ("/monitoring", "/svelte", "/pwa_icon")
UPLOAD = f"{GRADIO}upload"

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")

BODY_BYTES = 2 * 1024**2  # of a request, besides the texts that the settings allow
BODIES_BYTES = 64 * 1024**2  # of all requests that are being received
BYTES_PER_CHAR = 8  # a letter in JSON, escaped or not, once in a history and once more in a thought
NODES_PER_MESSAGE = 100  # lists and objects: pictures, notes and times under an answer have some
MAX_DEPTH = 32
MAX_SESSION_CHARS = 64
RECEIVE_S = 30.0  # between two pieces of a body
MB = 1024 * 1024


class Refused(Exception):
    """The request is not passed on: a status, and what to say."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class PageGuard:
    """Middleware around the whole app; the API's own routes get their headers and pass."""

    def __init__(
        self, app: ASGIApp, settings: Settings, uploads: Uploads, early_script: str = ""
    ) -> None:
        self.app = app
        self.early_script = early_script
        self.settings = settings
        self.uploads = uploads
        self.policy = page_policy(settings.share)
        self.body_bytes = BODY_BYTES + BYTES_PER_CHAR * settings.max_prompt_chars
        self.nodes = NODES_PER_MESSAGE * settings.max_messages
        self._receiving_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        send = with_headers(send, path, self.policy)
        try:
            if not is_used(path):
                raise Refused(404, "Not Found")
            if scope["method"] == "POST" and path.rstrip("/") == UPLOAD:
                await self._upload(scope, receive, send)
            elif scope["method"] == "POST" and path.startswith(GRADIO):
                await self._call(scope, receive, send)
            elif scope["method"] == "GET" and path in ("", "/"):
                await self.app(scope, receive, with_script(send, self.early_script))
            else:
                await self.app(scope, receive, send)
        except Refused as refused:
            # The page's script shows an upload's answer as it is, and a call's detail.
            is_upload = path.startswith(UPLOAD)
            answer: Response = (
                PlainTextResponse(refused.detail, refused.status)
                if is_upload
                else JSONResponse({"detail": refused.detail}, refused.status)
            )
            answer.headers["Connection"] = "close"  # the rest of its body is not read
            await answer(scope, receive, send)
        except ClientDisconnect:
            return

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes an upload on if there is room, and removes what it leaves unfinished."""
        size_bytes = announced_bytes(scope)
        if size_bytes is None:
            raise Refused(411, "Say how large the upload is.")
        pictures_mb = self.settings.max_images * self.settings.max_image_mb
        most_mb = max(pictures_mb, *limits_mb(self.settings).values())
        if size_bytes > most_mb * MB + BODY_BYTES:
            raise Refused(413, f"Upload at most {most_mb:g} MB at once.")
        ticket = await run_in_threadpool(self.uploads.begin, size_bytes)
        if ticket is None:
            raise Refused(503, "There is no room for uploads now: try again later.")
        reply: list[Message] = []

        async def keep(message: Message) -> None:
            reply.append(message)

        try:
            await self.app(scope, promptly(receive), keep)
        finally:
            await run_in_threadpool(self.uploads.end, ticket)
        if await run_in_threadpool(self._drop_large_pictures, reply):
            raise Refused(413, f"A picture may have at most {self.settings.max_image_mb:g} MB.")
        for message in reply:
            await send(message)

    def _drop_large_pictures(self, reply: list[Message]) -> bool:
        """Whether Gradio, whose one limit is that of clips, took too large a picture: it goes."""
        if not reply or reply[0].get("status") != 200:
            return False
        named = json.loads(b"".join(message.get("body", b"") for message in reply))
        pictures = [path for path in map(Path, named) if path.suffix.lower() in PICTURES]
        most = self.settings.max_image_mb * MB
        large = [path for path in pictures if path.is_file() and path.stat().st_size > most]
        for path in large:
            path.unlink(missing_ok=True)
        return bool(large)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a call of a handler on as it was understood here."""
        size_bytes = announced_bytes(scope)
        if size_bytes is not None and size_bytes > self.body_bytes:
            raise Refused(413, TOO_LONG)
        if self._receiving_bytes + self.body_bytes > BODIES_BYTES:
            raise Refused(503, "Too many requests at once: try again.")
        self._receiving_bytes += self.body_bytes
        try:
            body = await whole_body(promptly(receive), self.body_bytes)
        finally:
            self._receiving_bytes -= self.body_bytes
        body = checked(body, self.nodes)
        headers = MutableHeaders(raw=list(scope["headers"]))
        headers["content-length"] = str(len(body))
        scope = {**scope, "headers": headers.raw}
        await self.app(scope, replayed(body, receive), send)


def limits_mb(settings: Settings) -> dict[str, float]:
    """How large one file of each kind may be. `adding.js` tells it before anything is sent."""
    return {
        "picture": settings.max_image_mb,
        "clip": settings.max_video_mb,
        "document": settings.max_document_mb,
    }


TOO_LONG = "The conversation is too long for this server: start a new one."


def is_used(path: str) -> bool:
    """Whether the page needs this route. Only local files are served, never addresses."""
    if path.startswith(GRADIO):
        rest = path.removeprefix(GRADIO)
        return rest.startswith(USED) and "://" not in rest
    return not path.startswith(OFF)


def announced_bytes(scope: Scope) -> int | None:
    """The length that the request names; None without one."""
    length = Headers(scope=scope).get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def promptly(receive: Receive) -> Receive:
    """`receive` with a time limit for the next piece of a body."""

    async def receiving() -> Message:
        try:
            return await asyncio.wait_for(receive(), RECEIVE_S)
        except asyncio.TimeoutError:
            return {"type": "http.disconnect"}

    return receiving


async def whole_body(receive: Receive, most_bytes: int) -> bytes:
    """Raises Refused when the body is longer, ClientDisconnect when it stops coming."""
    pieces: list[bytes] = []
    left = most_bytes
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        piece = message.get("body", b"")
        left -= len(piece)
        if left < 0:
            raise Refused(413, TOO_LONG)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives this body first."""
    waiting = [body]

    async def receiving() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receiving


def checked(body: bytes, most_nodes: int) -> bytes:
    """The JSON of a call, written anew: Gradio then reads exactly what was checked here.

    Raises Refused for what no page sends: too many lists and objects, or too deep; files at an
    address, which Gradio would fetch; components as messages, which it would build and run.
    """
    try:
        value = json.loads(body or b"null")
    except (ValueError, RecursionError):
        raise Refused(400, "The request is not JSON that can be read here.") from None
    if not isinstance(value, (dict, type(None))) or not _is_session(value):
        raise Refused(400, "The request is not one that a page sends.")
    level, nodes, depth = [value], 0, 0
    while level := [item for node in level for item in _children(node)]:
        nodes, depth = nodes + len(level), depth + 1
        if nodes > most_nodes or depth > MAX_DEPTH:
            raise Refused(413, TOO_LONG)
        if any(isinstance(item, dict) and _is_forged(item) for item in level):
            raise Refused(400, "Files must be uploaded here first.")
    return json.dumps(value).encode()


def _is_session(value: dict[str, Any] | None) -> bool:
    name = (value or {}).get("session_hash")
    return name is None or (isinstance(name, str) and len(name) <= MAX_SESSION_CHARS)


def _children(node: Any) -> list[Any]:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [item for item in inner if isinstance(item, (dict, list))]


def _is_forged(item: dict[str, Any]) -> bool:
    path = item.get("path")
    return "component" in item or (isinstance(path, str) and "://" in path)
