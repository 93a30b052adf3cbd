"""What comes over the wire from a server behind this one, read within bounds.

Nothing that such a server sends is trusted: redirects are not followed, compressed answers are
refused, sizes are bounded before anything is parsed, and every value is looked at before it is
used. Knows HTTP and the OpenAI format as a client; knows nothing of answers or of several servers.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeGuard, get_args
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import httpx2  # what openai's client runs on
from openai import AsyncOpenAI

from qwen_vl.schema import FinishReason, TokenLogprob, Usage

EVENT_BYTES = 2**20  # of one server-sent event
BODY_BYTES = 4 * 2**20  # of anything else, such as a list of models
ERROR_BYTES = 2**16  # of what comes with an error; the rest is not read
TOKEN_BYTES = 4096  # of all events for one token, with all that surrounds it
MOST_LIKELIEST = 20  # of the tokens in one place, as OpenAI bounds them
LEAST_LOGPROB = -9999.0  # OpenAI's figure for what is nearly impossible
MOST_TOKENS = 10**9  # what is beyond is no count


class Garbled(Exception):
    """The server sent something that is no answer. The message says what."""


# --- sending ---


def client_of(url: str, key: str, timeout: httpx2.Timeout) -> AsyncOpenAI:
    """A client for one server. A name and a password in `url` are sent in place of the key."""
    parts = urlsplit(url)
    headers = {}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    http = httpx2.AsyncClient(
        timeout=timeout,
        limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100),
        follow_redirects=False,  # the question and the key are for this server only
        headers={"Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        event_hooks={"response": [_guard]},
    )
    return AsyncOpenAI(
        base_url=shown_url(url),
        default_query=dict(parse_qsl(parts.query)),
        api_key=key or "none",
        default_headers=headers,
        max_retries=0,  # tried again by the engine, where another server can be asked
        http_client=http,
    )


def shown_url(url: str) -> str:
    """The address as anybody may see it: without name, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, _host(url), parts.path, "", ""))


def credentials_of(url: str, key: str) -> tuple[str, ...]:
    """All texts that give away how to get into a server, the longest first."""
    netloc, query = urlsplit(url).netloc, urlsplit(url).query
    found = {key, query}
    if "@" in netloc:
        pair = netloc.rpartition("@")[0]
        plain = unquote(pair)
        found |= {pair, plain, base64.b64encode(plain.encode()).decode()}
        found |= {pair.partition(":")[2], unquote(pair.partition(":")[2])}
    return tuple(sorted(filter(None, found), key=len, reverse=True))


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


async def _guard(response: httpx2.Response) -> None:
    """Looks at every response before its body is read."""
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Garbled("it sends compressed answers, which were not asked for")
    if not response.is_success:
        response.stream = _Beginning(response.stream)


class _Beginning(httpx2.AsyncByteStream):
    """The first ERROR_BYTES of a body."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = ERROR_BYTES
        async with contextlib.aclosing(aiter(self._body)) as blocks:
            async for block in blocks:
                yield block[:left]
                left -= len(block)
                if left <= 0:
                    return

    async def aclose(self) -> None:
        await self._body.aclose()


# --- reading ---


async def whole(blocks: AsyncIterator[bytes]) -> dict[str, Any]:
    """A body that is one JSON object. Raises Garbled."""
    body = bytearray()
    async for block in blocks:
        body += block
        if len(body) > BODY_BYTES:
            raise Garbled("it sends more than was asked for")
    return _parsed(bytes(body))


async def events(blocks: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[dict[str, Any]]:
    """The server-sent events of a body, up to [DONE]. Raises Garbled."""
    data, line = bytearray(), bytearray()  # of the event and of the line that have begun
    read = 0
    async for block in blocks:
        read += len(block)
        if read > most_bytes:
            raise Garbled("it sends more than an answer can be")
        *ended, rest = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for end in ended:
            line += end
            if line.startswith(b"data:"):
                data += (b"\n" if data else b"") + line[5:].removeprefix(b" ")
            elif not line and data:  # an empty line ends an event
                if data.strip() == b"[DONE]":
                    return
                yield _parsed(bytes(data))
                data.clear()
            line.clear()
        line += rest
        if len(line) + len(data) > EVENT_BYTES:
            raise Garbled("it sends a line without an end")
    if data and data.strip() != b"[DONE]":
        yield _parsed(bytes(data))


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):  # nested too deeply, too
        raise Garbled("what it sends is not JSON") from None
    if not isinstance(found, dict):
        raise Garbled("what it sends is not an object")
    return found


@dataclass(frozen=True)
class Piece:
    """What one event says."""

    thought: str = ""
    text: str = ""
    reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[Any, ...] = ()  # pieces of them, as they came


def piece_of(event: dict[str, Any]) -> Piece:
    """One `chat.completion.chunk`. Null is absent, another type than the format's is Garbled.

    Figures that make no sense are left out: they are not the answer.
    """
    if error := event.get("error"):
        said = error.get("message") if isinstance(error, dict) else error
        raise Garbled(said if said and isinstance(said, str) else "it says that something broke")
    thought, text, reason = "", "", None
    logprobs: list[TokenLogprob] = []
    calls: list[Any] = []
    for choice in _list(event, "choices"):
        if not isinstance(choice, dict):
            raise Garbled("a choice of its answer is no object")
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            raise Garbled("a delta of its answer is no object")
        # Servers put what a reasoning model thinks beside the answer under either name.
        thought += _text(delta, "reasoning_content") or _text(delta, "reasoning")
        text += _text(delta, "content") or _text(choice, "text")  # the latter of a raw text
        logprobs += _logprobs(choice.get("logprobs"))
        calls += _list(delta, "tool_calls")
        reason = _reason(choice) or reason
    usage = _usage(event.get("usage"))
    return Piece(thought, text, reason, usage, tuple(logprobs), tuple(calls))


def models_of(listed: dict[str, Any]) -> tuple[str, ...]:
    """The ids in a list of models, those that can be shown."""
    if "data" not in listed:
        raise Garbled("it lists no models")
    entries = [entry for entry in _list(listed, "data") if isinstance(entry, dict)]
    ids = [entry.get("id") for entry in entries]
    return tuple(id for id in ids if isinstance(id, str) and 0 < len(id) < 300 and id.isprintable())


def contexts_of(listed: dict[str, Any]) -> dict[str, int]:
    """How many tokens prompt and answer may have, by model id, where the list tells it."""
    entries = [entry for entry in _list(listed, "data") if isinstance(entry, dict)]
    told = {entry.get("id"): _context(entry) for entry in entries}
    return {id: tokens for id, tokens in told.items() if isinstance(id, str) and tokens}


def _context(entry: dict[str, Any]) -> int | None:
    """vLLM's, SGLang's and our own name for it, OpenRouter's, and those of llama.cpp's server."""
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    told = [entry.get("max_model_len"), entry.get("context_length")]
    told += [meta.get("n_ctx"), meta.get("n_ctx_train")]
    return next((n for n in told if type(n) is int and 0 < n <= MOST_TOKENS), None)


def _list(found: dict[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    if not isinstance(value, list | None):
        raise Garbled(f"its '{name}' is no list")
    return value or []


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str | None):
        raise Garbled(f"its '{name}' is no text")
    return value or ""


def _reason(choice: dict[str, Any]) -> FinishReason | None:
    """Our own word where the upstream is one of us, or else OpenAI's."""
    told = _text(choice, "finish_reason")
    native = choice.get("native_finish_reason")
    if isinstance(native, str) and native in get_args(FinishReason):
        return native  # type: ignore[return-value]
    if not told:
        return None
    return "length" if told == "length" else "stop"


def _logprobs(told: Any) -> list[TokenLogprob]:
    """The tokens in a choice's `logprobs`, each with those in its place."""
    found = []
    for entry in _entries(told, "content") or _legacy_entries(told):
        places = _entries(entry, "top_logprobs")[:MOST_LIKELIEST]
        likeliest = tuple(one for other in places if (one := _token(other)))
        if token := _token(entry):
            found.append(replace(token, likeliest=likeliest))
    return found


def _legacy_entries(told: Any) -> list[Any]:
    """The `logprobs` of a text completion, in the form of a chat's."""
    tokens, places = _entries(told, "tokens"), _entries(told, "top_logprobs")
    entries = []
    for i, logprob in enumerate(_entries(told, "token_logprobs")[: len(tokens)]):
        place = places[i] if i < len(places) and isinstance(places[i], dict) else {}
        others = [{"token": token, "logprob": log} for token, log in place.items()]
        entries.append({"token": tokens[i], "logprob": logprob, "top_logprobs": others})
    return entries


def _entries(found: Any, name: str) -> list[Any]:
    entries = found.get(name) if isinstance(found, dict) else None
    return entries if isinstance(entries, list) else []


def _token(entry: Any) -> TokenLogprob | None:
    if not isinstance(entry, dict):
        return None
    logprob, raw, text = entry.get("logprob"), entry.get("bytes"), entry.get("token")
    if not isinstance(logprob, (int, float)) or logprob != logprob:
        return None
    if isinstance(raw, list) and all(type(byte) is int and 0 <= byte < 256 for byte in raw):
        token = bytes(raw)
    elif isinstance(text, str):
        token = text.encode(errors="replace")
    else:
        return None
    return TokenLogprob(token, min(max(float(logprob), LEAST_LOGPROB), 0.0))


def _usage(told: Any) -> Usage | None:
    if not isinstance(told, dict):
        return None
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    prompt, completion = told.get("prompt_tokens"), told.get("completion_tokens")
    if not (_is_count(prompt) and _is_count(completion)):
        return None
    details = told.get("completion_tokens_details")
    details = details if isinstance(details, dict) else {}

    def counted(name: str) -> int:
        value = details.get(name)
        return value if _is_count(value) else 0

    return Usage(
        prompt,
        completion,
        cached if _is_count(cached) else 0,
        counted("reasoning_tokens"),
        accepted_tokens=counted("accepted_prediction_tokens"),
        rejected_tokens=counted("rejected_prediction_tokens"),
    )


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MOST_TOKENS
