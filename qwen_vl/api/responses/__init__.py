"""`/v1/responses`: the chat of `/v1/chat/completions` in OpenAI's newer form.

A request is read as the chat request that asks the same, and answered by the same engine, within
the same limits. Stored responses are kept with the sessions, each for its owner alone. Knows HTTP
requests; nothing of engines or models.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from qwen_vl.api.answers import pull, streamed, whole
from qwen_vl.api.calls import Call, Reader
from qwen_vl.api.openai_format import ClipFacts
from qwen_vl.api.responses.record import Record
from qwen_vl.api.responses.request import Asked, asked_by
from qwen_vl.api.responses.words import retelling, retold
from qwen_vl.api.sessions import Session, Sessions
from qwen_vl.engine import Answer
from qwen_vl.errors import BadRequest, NotFound, PreviousResponseNotFound, Unsupported, UserError
from qwen_vl.schema import Chunk, Message, TextPart

__all__ = ["Responses"]

Ask = Callable[[Call, Request], Awaitable[Answer]]


class Responses:
    """The endpoints."""

    def __init__(
        self,
        reader: Reader,
        sessions: Sessions,
        owner: Callable[[Request], str],
        ask: Ask,
        clip_facts: Callable[[Call], ClipFacts],
    ) -> None:
        self._reader, self._sessions, self._owner = reader, sessions, owner
        self._ask, self._clip_facts = ask, clip_facts
        # Streams under way, which alone are known by their id before they end.
        self._running: dict[tuple[str, str], tuple[Record, Answer]] = {}

    async def create(self, request: Request) -> Response:
        """One response, whole or as named events. The client ends the work by leaving."""
        raw = await self._reader.json(request)
        owner = self._owner(request)
        asked = asked_by(raw, lambda item_id: self._item(owner, item_id))
        earlier = self._earlier(owner, asked)
        said = [Message("system", (TextPart(asked.instructions),))] if asked.instructions else []
        with retelling(asked.places):
            call = await self._reader.chat_from(request, asked.chat, [*said, *earlier])
            answer = await self._ask(call, request)
        conversation = [*earlier, *call.added] if asked.is_stored else []

        def keep(record: Record) -> None:
            if asked.is_stored:
                told = json.dumps(record.told).encode()
                messages = [*conversation, record.message]
                self._sessions.keep(owner, record.id, Session(messages, told, record.item_ids))

        fields = {
            "model": call.params.model or self._reader.engine.model_id,
            "temperature": call.params.temperature,
            "top_p": call.params.top_p,
            **asked.told,
        }
        clips, summary = self._clip_facts(call), asked.wants_summary
        record = Record(fields, clips, keep, tells_summary=summary)
        stream = call.stream
        del call
        chunks = pull(answer, request)
        if not stream:
            with retelling(asked.places):
                return JSONResponse(record.whole(await whole(chunks)))

        def failed(error: UserError) -> Any:
            return record.failed(retold(error, asked.places))

        chunks = self._running_until_end(chunks, (owner, record.id), record, answer)
        with retelling(asked.places):
            return await streamed(chunks, record.events, record.opening(), failed, end="")

    async def retrieve(self, request: Request) -> Response:
        """A stored response."""
        if request.query_params.get("stream", "false").lower() == "true":
            raise Unsupported("'stream' is for new responses: leave it out here.")
        return Response(self._stored(request).told, media_type="application/json")

    async def delete(self, request: Request) -> Response:
        """Forgets a stored response. Those that went on from it stay."""
        name = request.path_params["response_id"]
        if not self._sessions.drop(self._owner(request), name):
            raise _not_found()
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """Ends a stream, from another connection."""
        owner, name = self._owner(request), request.path_params["response_id"]
        running = self._running.get((owner, name))
        if running is None:
            self._stored(request)
            raise BadRequest("This response has ended: there is nothing to cancel.")
        record, answer = running
        answer.close()
        return JSONResponse({**record.told, "status": "cancelled"})

    def _stored(self, request: Request) -> Session:
        found = self._sessions.find(self._owner(request), request.path_params["response_id"])
        if found is None:
            raise _not_found()
        return found

    def _earlier(self, owner: str, asked: Asked) -> list[Message]:
        """The conversation that a request goes on with."""
        if not asked.previous_id:
            return []
        found = self._sessions.find(owner, asked.previous_id)
        if found is None:
            raise PreviousResponseNotFound(
                "'previous_response_id' names no response that is stored here, or it has been "
                "forgotten: send the conversation as input."
            )
        return list(found.messages)

    def _item(self, owner: str, item_id: str) -> Mapping[str, Any] | None:
        found = self._sessions.find_item(owner, item_id)
        output = json.loads(found.told)["output"] if found else []
        return next((item for item in output if item["id"] == item_id), None)

    async def _running_until_end(
        self,
        chunks: AsyncGenerator[Chunk | None, None],
        key: tuple[str, str],
        record: Record,
        answer: Answer,
    ) -> AsyncGenerator[Chunk | None, None]:
        """Passes the chunks on. Meanwhile the stream can be cancelled."""
        self._running[key] = (record, answer)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            del self._running[key]
            await chunks.aclose()


def _not_found() -> NotFound:
    return NotFound(
        "There is no such response: it was not stored, or it has been deleted or forgotten."
    )
