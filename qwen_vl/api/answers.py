"""Answers on their way out: whole, or as server-sent events; ended when their client leaves.

Knows the engine's Answer and HTTP. Knows nothing of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import anyio
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from qwen_vl.api.several import Several
from qwen_vl.engine import Answer
from qwen_vl.errors import Bug, OutOfTime, UserError
from qwen_vl.gate.refusals import error_object
from qwen_vl.schema import Chunk

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 15.0  # a stream that was silent for so long says so, or proxies give it up
DONE = "data: [DONE]\n\n"

Chunks = AsyncGenerator[Chunk | None, None]  # None: nothing came for `KEEP_ALIVE_S`
Told = Callable[[Chunk], Iterator[Mapping[str, Any]]]  # a chunk -> what events say of it
Failed = Callable[[UserError], Iterable[Mapping[str, Any]]]  # the last events, where it breaks off


async def pull(answer: Answer | Several, request: Request) -> Chunks:
    """The chunks of `answer`, up to its last. However this ends, `answer` gets closed.

    Raises ClientDisconnect as soon as the client leaves, also before the first chunk.
    """
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        has_left = True
        answer.close()  # its last chunk comes at once

    watcher = asyncio.create_task(watch())
    try:
        while True:
            chunk = None
            with anyio.move_on_after(KEEP_ALIVE_S):
                chunk = await anext(answer)
            if has_left:
                raise ClientDisconnect
            yield chunk
    except StopAsyncIteration:
        return
    finally:
        answer.close()
        watcher.cancel()


async def whole(chunks: Chunks) -> list[Chunk]:
    """All of an answer. Raises OutOfTime when its time is over and there is no text at all."""
    async with contextlib.aclosing(chunks):
        got = [chunk async for chunk in chunks if chunk]
    ends = [chunk.finish_reason for chunk in got if chunk.finish_reason]
    if set(ends) == {"timeout"} and not any(
        chunk.text or chunk.thought or chunk.calls for chunk in got
    ):
        raise OutOfTime(
            "This server's time for one answer ended before its first word: send fewer or smaller "
            "pictures and less text."
        )
    return got


def _refused(error: UserError) -> Iterable[Mapping[str, Any]]:
    return [error_object(error)]


async def streamed(
    chunks: Chunks,
    told: Told,
    opening: Sequence[Mapping[str, Any]] = (),
    failed: Failed = _refused,
    end: str = DONE,
) -> Response:
    """Server-sent events: `opening`, what `told` makes of each chunk, and `end`.

    Waits for the first chunk, so that until then an error has its own HTTP status.
    """
    first = await anext(chunks)
    return StreamingResponse(
        _events(first, chunks, told, opening, failed, end),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(
    first: Chunk | None,
    chunks: Chunks,
    told: Told,
    opening: Sequence[Mapping[str, Any]],
    failed: Failed,
    end: str,
) -> AsyncGenerator[str, None]:
    async with contextlib.aclosing(chunks):
        try:
            for payload in opening:
                yield _event(payload)
            for text in _texts(first, told):
                yield text
            async for chunk in chunks:
                for text in _texts(chunk, told):
                    yield text
            yield end
        except ClientDisconnect:
            return
        except UserError as error:
            for payload in failed(error):
                yield _event(payload)
        except Exception:  # a bug: logged whole here, told to the client without details
            logger.exception("an answer broke off")
            for payload in failed(Bug()):
                yield _event(payload)


def _texts(chunk: Chunk | None, told: Told) -> list[str]:
    if chunk is None:
        return [": still working\n\n"]  # a comment, which clients skip
    return [_event(payload) for payload in told(chunk)]


def _event(payload: Mapping[str, Any]) -> str:
    """Where an event has a type, as in OpenAI's newer API, that is its name, too."""
    name = f"event: {payload['type']}\n" if "type" in payload else ""
    data = json.dumps(payload)  # ASCII only: some clients split lines at U+2028
    return f"{name}data: {data}\n\n"
