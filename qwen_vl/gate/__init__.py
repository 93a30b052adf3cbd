"""The gate before everything on the port, page and API alike.

A request gets through if its Host is a name of this server, no web page that may not sent it, and
its body is within bounds. Knows ASGI and the settings. Knows nothing of what is behind it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, Forbidden, UnsupportedMedia, UserError, WrongHost
from qwen_vl.gate import origins
from qwen_vl.gate.bodies import BODY, Bodies, Receive, body_limit
from qwen_vl.gate.hosts import Hosts, host_name
from qwen_vl.gate.proxies import Headers, Proxies, header, without_forwarding
from qwen_vl.gate.rates import RateLimit
from qwen_vl.gate.refusals import error_object
from qwen_vl.media.pictures import BYTES_PER_MB

__all__ = ["Gate", "is_api"]

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LOGINS_PER_MINUTE = 5  # wrong passwords from one address
PAGE_BYTES = 8 * BYTES_PER_MB  # what the page sends besides files: a conversation's texts
_UPLOAD = "/gradio_api/upload"
_LOGIN = ("/login", "/login/")
_HEALTH = "/health"
_API = (_HEALTH, "/stream_chat", "/inference", "/metrics", "/docs", "/openapi.json", "/mcp")
_API_FOLDERS = ("/v1/", "/result/")
# A base URL that lacks it.
_WITHOUT_V1 = ("/chat/completions", "/completions", "/responses", "/models")
_CODINGS = ("gzip", "x-gzip", "deflate")


def is_api(path: str) -> bool:
    """Whether the API answers this path, and not the page."""
    return path in _API or path.startswith(_API_FOLDERS)


def canonical(path: str) -> str:
    """An API path as it is meant: without doubled or last slashes, and with its /v1."""
    meant = re.sub("/{2,}", "/", path).rstrip("/")
    if meant.startswith(_WITHOUT_V1):
        meant = f"/v1{meant}"
    return meant if is_api(meant) else path


class Gate:
    """An ASGI application around the whole server."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self._app = app
        self.hosts = Hosts(settings)
        self._proxies = Proxies(settings.trusted_proxy)
        self._has_keys = bool(settings.api_key)
        self._origins = origins.Origins(settings.cors_origin)
        self._logins = RateLimit(LOGINS_PER_MINUTE, "logins")
        self._largest_bytes = body_limit(settings)
        self._bodies = Bodies(self._largest_bytes)  # in sum, too: most are far smaller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        # Nothing here speaks anything else.

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = {**scope, "path": canonical(scope["path"])}
        headers: Headers = list(scope["headers"])
        peer = scope["client"][0] if scope["client"] else ""
        path, client = scope["path"], self._proxies.client_of(peer, headers)
        adding: Headers = []
        try:
            host = self._host(scope, peer, headers)
            if origins.is_foreign(headers, host, self.hosts):
                adding = self._origins.readable(headers) if is_api(path) else []
                asks_first = origins.is_preflight(scope["method"], headers)
                if adding and asks_first:
                    await _send(send, 204, [*adding, *origins.preflight_headers(headers)])
                    return
                if not adding and (asks_first or scope["method"] not in origins.SAFE_METHODS):
                    raise _page_of_others(headers)
            coding = (header(headers, b"content-encoding") or "identity").strip().lower()
            if coding not in ("", "identity", *(_CODINGS if is_api(path) else ())):
                raise UnsupportedMedia(
                    f"The body's Content-Encoding '{coding[:20]}' is not read here: send it plain."
                )
            if path in _LOGIN and scope["method"] == "POST":
                self._logins.take(client)
        except UserError as error:
            await _refuse(send, error, adding)
            return
        known = self.hosts.is_share(host_name(host) or "")
        scheme = "https" if known else self._proxies.scheme_of(peer, headers, scope["scheme"])
        rest = [item for item in without_forwarding(headers) if item[0] not in (b"host", b"origin")]
        inner = {
            **scope,
            "client": (client, scope["client"][1] if client == peer and scope["client"] else 0),
            "scheme": scheme,
            # No origin: who may read an answer is decided here, and Gradio would let more in.
            "headers": [(b"host", host.encode("latin-1")), *rest] if host else rest,
        }
        await self._pass_on(inner, receive, send, adding)

    def _host(self, scope: Scope, peer: str, headers: Headers) -> str:
        """The `Host` as it was sent, "" if there is none. Raises BadRequest and WrongHost."""
        if not scope["path"].startswith("/"):
            raise BadRequest("The request's target must be a path.")
        host = self._proxies.host_of(peer, headers, self.hosts)
        if host is None and header(headers, b"origin") is None:
            return ""  # HTTP/1.0, as health checks speak it; no browser does
        name = host_name(host or "")
        if host is None or name is None:
            raise BadRequest("The header 'Host' must be a name or an address.")
        if self.hosts.allow(name):
            return host
        if self._has_keys and is_api(scope["path"]) and scope["path"] != _HEALTH:
            return host  # the key decides: a page that leads a name of its own here has none
        raise WrongHost(
            f"This server does not go by the name '{name[:100]}': use its address, or start it "
            f"with --allowed-host {name[:100]}."
        )

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, adding: Headers) -> None:
        path = scope["path"]
        is_upload = path.rstrip("/") == _UPLOAD
        limit_bytes: float = self._largest_bytes if is_api(path) else PAGE_BYTES
        body = self._bodies.open(
            receive, float("inf") if is_upload else limit_bytes, counts=not is_upload
        )
        started = False

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if body.refusal is not None and not started:
                return  # the app's words about a client that seemed to leave
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *adding]}
                if path in _LOGIN and message["status"] < 400:
                    self._logins.give_back(scope["client"][0])
            await send(message)

        try:
            await self._app({**scope, BODY: body}, body.receive, answer)
        except ClientDisconnect:
            pass  # as it happens; or so it was told, because its body was refused
        finally:
            body.close()
        if body.refusal is not None and not started:
            await _refuse(send, body.refusal, adding)


def _page_of_others(headers: Headers) -> Forbidden:
    origin = (header(headers, b"origin") or "another site")[:100]
    named = "'*'" if origin == "null" else origin  # a page out of a file, or in a sandbox
    return Forbidden(
        f"Web pages of {origin} may not call this server: start it with --cors-origin {named} to "
        "open its API to them; if this is its own page behind a proxy, with --allowed-host and "
        "that page's host."
    )


async def _refuse(send: Send, error: UserError, adding: Headers) -> None:
    headers: Headers = [(b"content-type", b"application/json"), *adding]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status == 408:
        headers.append((b"connection", b"close"))  # nothing more is read from it
    await _send(send, error.status, headers, json.dumps(error_object(error)).encode())


async def _send(send: Send, status: int, headers: Headers, body: bytes = b"") -> None:
    if status != 204:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
