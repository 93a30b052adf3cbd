"""An OpenAI-compatible HTTP API over an engine: chat completions, models, health.

Knows HTTP. Does not know which engine answers, how a model works, or the page that shares its port:
whoever starts a server adds `build_router(...).routes` to it. The routes answer their own errors,
so that server needs no exception handlers. No text or picture of a conversation is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from qwen_vl import __version__
from qwen_vl.config import Settings
from qwen_vl.engine import AnswerStream, Engine
from qwen_vl.errors import BadRequest, TooLarge, UserError
from qwen_vl.media import BYTES_PER_MB
from qwen_vl.messages import from_openai, params_from
from qwen_vl.openai_format import Completion, error_object
from qwen_vl.presets import sampling_preset
from qwen_vl.schema import Chunk, Message, SamplingParams

logger = logging.getLogger(__name__)

BODY_IMAGES = (
    8  # pictures of the largest size that fit into one request; smaller ones, more of them
)
PARSERS = 2  # requests whose pictures are decoded at the same time; others wait
KEEP_ALIVE_S = 15.0  # a stream that was silent for so long says so, or proxies give it up

Endpoint = Callable[[Request], Awaitable[Response]]
Chunks = AsyncGenerator[Chunk | None, None]  # None: nothing came for `KEEP_ALIVE_S`


def build_router(engine: Engine, settings: Settings) -> APIRouter:
    """GET /health, GET /v1/models and POST /v1/chat/completions for one engine."""
    router = APIRouter()
    started = int(time.time())
    body_limit = _body_limit(settings)
    parsers = anyio.CapacityLimiter(PARSERS)

    @router.head("/health", include_in_schema=False)
    @router.get("/health")
    @_answering_errors
    async def health(request: Request) -> Response:
        """200 when the model can answer; 503 while it loads and when it failed. Same fields."""
        status = engine.status()
        fields = asdict(status)
        fields = {"status": fields.pop("state"), "model": fields.pop("model_id"), **fields}
        return JSONResponse(
            {**fields, "version": __version__},
            status_code=200 if status.answers else 503,
            headers={"Cache-Control": "no-store"},
        )

    @router.get("/v1/models")
    @_answering_errors
    async def models(request: Request) -> Response:
        """The one model that answers here."""
        model = {"id": engine.model_id, "object": "model", "created": started, "owned_by": "local"}
        return JSONResponse({"object": "list", "data": [model]})

    @router.post("/v1/chat/completions")
    @_answering_errors
    async def chat_completions(request: Request) -> Response:
        """One answer, whole or as server-sent events. The client ends the work by leaving."""
        body = await _read(request, body_limit)
        call = await anyio.to_thread.run_sync(
            _parse, body, engine.model_id, settings, limiter=parsers
        )
        answer = await anyio.to_thread.run_sync(engine.stream, call.messages, call.params)
        completion, stream = Completion(engine.model_id, call.include_usage), call.stream
        del body, call  # the pictures: nothing here needs them while the answer is written
        chunks = _pull(answer, request)
        if not stream:
            async with contextlib.aclosing(chunks):
                return JSONResponse(completion.whole([item async for item in chunks if item]))
        first = await anext(chunks)  # until here an error has its own HTTP status
        return StreamingResponse(
            _events(completion, first, chunks),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    return router


# --- requests ---


@dataclass(frozen=True)
class _Call:
    messages: list[Message]
    params: SamplingParams
    stream: bool
    include_usage: bool


def _body_limit(settings: Settings) -> int:
    """Bytes of the largest request: some pictures of full size in base64, and all the text."""
    pictures = settings.max_image_mb * BYTES_PER_MB * min(settings.max_images, BODY_IMAGES)
    text = settings.max_prompt_chars * 12  # a character may be two \uXXXX escapes
    return int(pictures * 4 / 3) + text + BYTES_PER_MB


async def _read(request: Request, limit: int) -> bytes:
    """The body. Raises TooLarge when more than `limit` bytes are announced, or come."""
    refusal = TooLarge(
        f"The request is larger than {limit / BYTES_PER_MB:.0f} MB: send fewer or smaller pictures."
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise refusal
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise refusal
    return bytes(body)


def _parse(body: bytes, model_id: str, settings: Settings) -> _Call:
    """Reads what this server knows; `model` and unknown fields are accepted and change nothing."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The request body is not valid JSON.") from None
    if not isinstance(raw, Mapping):
        raise BadRequest("The request body must be a JSON object.")
    if raw.get("n") not in (None, 1):
        raise BadRequest("'n' must be 1: one answer per request. Send several requests instead.")
    stream = raw.get("stream")
    if not isinstance(stream, bool | None):
        raise BadRequest("'stream' must be true or false.")
    options = raw.get("stream_options")
    if not isinstance(options, Mapping | None):
        raise BadRequest("'stream_options' must be an object.")
    messages = from_openai(raw.get("messages"), settings)
    preset = sampling_preset(model_id, has_images=any(message.images for message in messages))
    defaults = replace(preset, max_image_tokens=settings.image_tokens)
    params = params_from(raw, defaults, settings)
    return _Call(messages, params, bool(stream), bool((options or {}).get("include_usage")))


# --- answers ---


async def _pull(answer: AnswerStream, request: Request) -> Chunks:
    """The chunks of `answer`, up to its last. However this ends, `answer` gets closed.

    A thread waits for the engine, so that this can wait for the client as well: it raises
    ClientDisconnect as soon as that leaves, also before the first chunk.
    """
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Chunk | Exception] = asyncio.Queue()

    def put(item: Chunk | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped: nobody waits any more
            loop.call_soon_threadsafe(inbox.put_nowait, item)

    def pull() -> None:
        try:
            for chunk in answer:
                put(chunk)
            put(RuntimeError("the engine ended an answer without a last chunk"))
        except Exception as error:  # noqa: BLE001 - raised again below
            put(error)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        inbox.put_nowait(ClientDisconnect())

    watcher = asyncio.create_task(watch())
    threading.Thread(target=pull, name="api-answer", daemon=True).start()
    try:
        ended = False
        while not ended:
            item: Chunk | Exception | None = None
            with anyio.move_on_after(KEEP_ALIVE_S):
                item = await inbox.get()
            if isinstance(item, Exception):
                raise item
            ended = item is not None and item.finish_reason is not None
            yield item
    finally:
        answer.close()
        watcher.cancel()


async def _events(
    completion: Completion, first: Chunk | None, chunks: Chunks
) -> AsyncGenerator[str, None]:
    """`first` and the `chunks` after it as server-sent events; an error becomes the last one."""
    async with contextlib.aclosing(chunks):
        try:
            yield _event(completion.opening())
            for text in _texts(completion, first):
                yield text
            async for chunk in chunks:
                for text in _texts(completion, chunk):
                    yield text
            yield "data: [DONE]\n\n"
        except ClientDisconnect:
            return
        except UserError as error:
            yield _event(error_object(error))
        except Exception:  # a bug: logged whole here, told to the client without details
            logger.exception("an answer broke off")
            yield _event(error_object(_Bug()))


def _texts(completion: Completion, chunk: Chunk | None) -> list[str]:
    if chunk is None:
        return [": still working\n\n"]  # a comment, which clients skip
    return [_event(piece) for piece in completion.pieces(chunk)]


def _event(payload: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(payload)}\n\n"  # ASCII only: some clients split lines at U+2028


# --- errors ---


class _Bug(UserError):
    """All that a client is told about a bug; the log has its traceback."""

    status = 500
    code = "internal_error"

    def __init__(self) -> None:
        super().__init__("Something broke inside the server; its log has the details.")


def _answering_errors(endpoint: Endpoint) -> Endpoint:
    """What `endpoint` raises becomes a response in the OpenAI error format."""

    @functools.wraps(endpoint)
    async def answering(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it; nginx's number for this
        except UserError as error:
            return _error_response(error)
        except Exception:  # a bug: logged whole here, told to the client without details
            logger.exception("%s %s broke", request.method, request.url.path)
            return _error_response(_Bug())

    return answering


def _error_response(error: UserError) -> Response:
    wait = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return JSONResponse(error_object(error), status_code=error.status, headers=wait)
