"""An HTTP API over an engine: OpenAI-compatible chats and responses, plain streams, jobs, figures.

`build_router(...).routes` go into a server, which needs no exception handlers: the routes answer
their own errors. No text or picture of a conversation is logged. Knows HTTP. Does not know which
engine answers, how a model works, or the page on the same port.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from starlette.convertors import PathConvertor, register_url_convertor

from qwen_vl import __version__
from qwen_vl.api import mcp
from qwen_vl.api.answers import pull, streamed, whole
from qwen_vl.api.calls import Call, Reader
from qwen_vl.api.completions import TextCompletion
from qwen_vl.api.errors import Endpoint, answering_errors
from qwen_vl.api.guards import Guards
from qwen_vl.api.openai_format import ClipFacts, Completion, usage_object
from qwen_vl.api.payloads import release
from qwen_vl.api.places import Places
from qwen_vl.api.responses import Responses
from qwen_vl.api.sessions import Session, Sessions
from qwen_vl.api.several import AskMore, Several
from qwen_vl.config import Settings
from qwen_vl.conversation import check_conversation
from qwen_vl.engine import Answer, Engine
from qwen_vl.errors import NotFound, WrongMethod
from qwen_vl.jobs import Job, Jobs
from qwen_vl.metrics import CONTENT_TYPE, Metrics
from qwen_vl.sampling import nth_seed
from qwen_vl.schema import Chunk, EngineStatus, Message, TextPart

__all__ = ["build_router"]


class _Rest(PathConvertor):
    """The rest of a path, line breaks included: Starlette's own kind of it stops at them."""

    regex = r"[\s\S]*"


register_url_convertor("rest", _Rest())


def build_router(
    engine: Engine,
    settings: Settings,
    jobs: Jobs,
    metrics: Metrics,
    is_ending: Callable[[], bool] = lambda: False,
) -> APIRouter:
    """All routes for one engine. `/health` and the reference are open, all others are guarded.

    `is_ending` tells whether the server has been told to stop, so that /health can say so.
    """
    router = APIRouter()
    service = _Service(engine, settings, jobs, metrics, is_ending)
    guards, responses = service.guards, service.responses
    methods_of: dict[str, list[str]] = {}
    for method, path, endpoint, check in (
        ("GET", "/health", service.health, _no_guard),
        ("GET", "/v1/models", service.models, guards),
        ("GET", "/v1/models/{name:rest}", service.model, guards),
        ("POST", "/v1/chat/completions", service.chat_completions, guards),
        ("POST", "/v1/completions", service.completions, guards),
        ("POST", "/v1/responses", responses.create, guards),
        ("GET", "/v1/responses/{response_id}", responses.retrieve, guards),
        ("DELETE", "/v1/responses/{response_id}", responses.delete, guards),
        ("POST", "/v1/responses/{response_id}/cancel", responses.cancel, guards),
        ("POST", "/stream_chat", service.stream_chat, guards),
        ("POST", "/mcp", service.mcp, guards),
        ("POST", "/inference", service.submit, guards),
        ("GET", "/result/{task_id}", service.result, guards),
        ("DELETE", "/result/{task_id}", service.cancel, guards),
        ("GET", "/metrics", service.figures, guards),
        # Nothing secret, and a browser could not send a key.
        ("GET", "/docs", service.docs, _no_guard),
        ("GET", "/openapi.json", service.openapi, _no_guard),
    ):
        answering: Endpoint = answering_errors(metrics, path, check)(endpoint)
        methods = [method, "HEAD"] if path == "/health" else [method]
        methods_of.setdefault(path, []).extend(methods)
        router.add_api_route(path, answering, methods=methods, include_in_schema=False)
    # Else these would be answered by the framework, in another shape than all other errors.
    for path, methods in methods_of.items():
        wrong = answering_errors(metrics, path, _no_guard)(_refusing_method(methods))
        others = [method for method in _METHODS if method not in methods]
        router.add_api_route(path, wrong, methods=others, include_in_schema=False)
    unknown = answering_errors(metrics, "/v1/*", guards)(_refusing_path)
    router.add_api_route("/v1/{path:rest}", unknown, methods=_METHODS, include_in_schema=False)
    return router


_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def _no_guard(_: Request) -> None:
    pass


def _refusing_method(methods: list[str]) -> Endpoint:
    async def refuse(request: Request) -> Response:
        raise WrongMethod(f"{request.url.path} takes {' and '.join(methods)}: see /docs.")

    return refuse


async def _refusing_path(request: Request) -> Response:
    raise NotFound(f"There is no {request.url.path} here: see /docs.")


class _Service:
    """The endpoints."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        jobs: Jobs,
        metrics: Metrics,
        is_ending: Callable[[], bool],
    ) -> None:
        self.engine, self.settings, self.jobs, self.metrics = engine, settings, jobs, metrics
        self.is_ending = is_ending
        # `engine.stream` decodes pictures before it returns.
        self.asking_texts = Places(8, waiting=1000)
        self.asking_pictures = Places(2, waiting=2 * settings.max_queue + 2)
        self.looking_up = Places(4, waiting=1000)  # the jobs may lie in a file
        self.guards = Guards(settings)
        self.reader = Reader(engine, settings)
        self.sessions = Sessions()
        self.responses = Responses(
            self.reader, self.sessions, self.guards.owner, self._ask, self._clip_facts
        )
        self.started = int(time.time())

    async def health(self, request: Request) -> Response:
        """200 when requests are taken, also while degraded; 503 while loading, failed, draining."""
        status, ending = self.engine.status(), self.is_ending()
        fields = asdict(status)
        fields = {"status": fields.pop("state"), "model": fields.pop("model_id"), **fields}
        fields |= {"family": status.family.name, "accepts_images": status.accepts_images}
        fields["image_tokens"] = self.settings.image_tokens_or(status.image_tokens)
        if others := fields.pop("others"):
            fields["others"] = {one["model_id"]: one["state"] for one in others}
        if upstreams := self.engine.stats().upstreams:
            fields["upstreams"] = [asdict(upstream) for upstream in upstreams]
        if ending:
            fields["status"] = "draining"
        ready = status.answers and not ending
        return JSONResponse(
            {**fields, "live": True, "ready": ready, "version": __version__},
            status_code=200 if ready else 503,
            headers={"Cache-Control": "no-store"},
        )

    async def models(self, request: Request) -> Response:
        """The models that answer here: one, or those of --engine ray."""
        status = self.engine.status()
        data = [self._model(one) for one in (status, *status.others)]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """The model by its name."""
        name, status = request.path_params["name"], self.engine.status()
        found = status.of(name)
        if name != found.model_id:
            here = "', '".join(one.model_id for one in (status, *status.others))
            raise NotFound(f"There is no model '{name[:100]}' here: this server runs '{here}'.")
        return JSONResponse(self._model(found))

    def _model(self, status: EngineStatus) -> dict[str, Any]:
        """OpenAI's fields; the context as vLLM and OpenRouter name it; and what the model reads."""
        context = status.most_tokens(self.settings.max_context_tokens)
        return {
            **{"id": status.model_id, "object": "model", "created": self.started},
            **{"owned_by": "local", "max_model_len": context, "context_length": context},
            "input_modalities": ["text", "image"] if status.accepts_images else ["text"],
        }

    async def chat_completions(self, request: Request) -> Response:
        """One answer, whole or as server-sent events. The client ends the work by leaving."""
        call = await self.reader.chat(request)
        answer = await self._ask_all([call], request)
        completion = Completion(
            call.params.model or self.engine.model_id,
            call.include_usage,
            self._clip_facts(call),
            call.params.logprobs is not None,
            call.n,
        )
        stream = call.stream
        del call  # the pictures: nothing here needs them while the answer is written
        chunks = pull(answer, request)
        if stream:
            return await streamed(chunks, completion.pieces, completion.opening())
        return JSONResponse(completion.whole(await whole(chunks)))

    async def completions(self, request: Request) -> Response:
        """Goes on with one text or several, whole or as server-sent events."""
        calls, echoes = await self.reader.completion(request)
        answer = await self._ask_all(calls, request)
        texts = [call.messages[0].text if echoes else "" for call in calls]
        completion = TextCompletion(
            calls[0].params.model or self.engine.model_id,
            [text for text in texts for _ in range(calls[0].n)],
            calls[0].include_usage,
            calls[0].params.logprobs is not None,
        )
        chunks = pull(answer, request)
        if calls[0].stream:
            return await streamed(chunks, completion.pieces, completion.opening())
        return JSONResponse(completion.whole(await whole(chunks)))

    async def stream_chat(self, request: Request) -> Response:
        """Tokens as plain server-sent events; with a `session_id` the server remembers."""
        call = await self.reader.simple(request)
        if call.session_id is None:
            return await streamed(pull(await self._ask(call, request), request), _tokens)
        memory = self.sessions.use(self.guards.owner(request), call.session_id)
        return await _remembering(self, call, memory, request)

    async def mcp(self, request: Request) -> Response:
        """The tools `ask` and `keyframes`, for agents."""
        if not self.settings.mcp:
            raise NotFound("This server offers no tools to agents: start it with --mcp.")

        async def ask(arguments: Mapping[str, Any]) -> mcp.Content:
            call = await self.reader.chat_from(request, mcp.question_of(arguments))
            got = await whole(pull(await self._ask(call, request), request))
            return [mcp.text("".join(chunk.text for chunk in got))]

        async def keyframes(arguments: Mapping[str, Any]) -> mcp.Content:
            frames = await self.reader.keyframes(request, mcp.clip_of(arguments))

            def drawn() -> mcp.Content:
                return [mcp.picture(frame.image) for frame in frames]

            pictures = await self.asking_pictures.run(drawn)
            times = [mcp.text(f"{frame.time_s or 0:.1f} seconds") for frame in frames]
            pairs = zip(times, pictures, strict=True)
            return [one for pair in pairs for one in pair]

        tools = {"ask": ask, "keyframes": keyframes}
        answer = await mcp.answered(await self.reader.json(request), tools)
        return Response(status_code=202) if answer is None else JSONResponse(answer)

    async def submit(self, request: Request) -> Response:
        """Takes a job in; its answer is picked up at /result/<task_id>."""
        call = await self.reader.job(request)
        owner = self.guards.key_owner(request)
        submit = partial(self.jobs.submit, call.messages, call.params, owner)
        job = await self.looking_up.run(submit)
        return JSONResponse({"task_id": job.job_id, "status": job.status}, status_code=202)

    async def result(self, request: Request) -> Response:
        """A job as it is now."""
        return await self._job(self.jobs.get, request)

    async def cancel(self, request: Request) -> Response:
        """Ends a job. A running job is cancelled a moment later."""
        return await self._job(self.jobs.cancel, request)

    async def figures(self, request: Request) -> Response:
        """All counts, for Prometheus."""
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def docs(self, request: Request) -> Response:
        """The API's reference, readable without any other server."""
        from qwen_vl.api import docs  # its shapes are made when somebody asks

        return HTMLResponse(docs.page())

    async def openapi(self, request: Request) -> Response:
        """The API's reference for programs."""
        from qwen_vl.api import docs

        return JSONResponse(docs.schema())

    async def _ask_all(self, calls: Sequence[Call], request: Request) -> Answer | Several:
        """The answers to all of `calls`, as many to each as it asks for."""
        first = await self._ask(calls[0], request)
        scope, n = self._scope(calls[0], request), calls[0].n
        asks: list[AskMore] = []
        for call in calls:
            for i in range(n):
                params = replace(call.params, seed=nth_seed(call.params.seed, i))
                ask = partial(self.engine.stream, call.messages, params, scope)
                asks.append(partial(self.asking_texts.run, ask))
        return Several(first, asks[1:], n) if len(asks) > 1 else first

    def _clip_facts(self, call: Call) -> ClipFacts:
        compact = call.has_pairs and self.engine.status().of(call.params.model).family.pairs_frames
        return ClipFacts(call.frames_s, call.damaged_s, compact)

    def _scope(self, call: Call, request: Request) -> str:
        owner = self.guards.owner(request)
        return f"{owner} {call.salt}" if call.salt else owner

    async def _ask(self, call: Call, request: Request) -> Answer:
        scope = self._scope(call, request)
        pictures = [part.source for message in call.messages for part in message.images]

        def give_up() -> None:
            for picture in pictures:
                if not isinstance(picture, Image.Image):
                    picture.abandon()

        places = self.asking_pictures if pictures else self.asking_texts
        ask = partial(self.engine.stream, call.messages, call.params, scope)
        answer = await places.run_for(request, ask, give_up, undo=lambda one: one.close())
        release(request)
        return answer

    async def _job(self, look: Callable[[str, str], Job | None], request: Request) -> Response:
        """What `look` finds, in a thread: the jobs may lie in a file."""
        job_id, owner = request.path_params["task_id"], self.guards.key_owner(request)
        job = await self.looking_up.run(partial(look, job_id, owner))
        if job is None:
            raise NotFound("There is no such job, or it has been forgotten: see --job-keep-hours.")
        return JSONResponse(_as_json(job), headers={"Cache-Control": "no-store"})


def _as_json(job: Job) -> dict[str, Any]:
    told: dict[str, Any] = {"task_id": job.job_id, "status": job.status, "result": job.text}
    told["created"] = job.created_s
    if job.status == "processing":
        told["position"] = job.position
        return told
    told |= {"finished": job.finished_s, "finish_reason": job.finish_reason}
    told["usage"] = usage_object(job.usage)
    if job.error is not None:
        told["error"] = {"message": job.error, "code": job.error_code}
    return told


# --- /stream_chat ---


def _tokens(chunk: Chunk) -> Iterator[dict[str, Any]]:
    if chunk.thought:
        yield {"thought": chunk.thought}
    if chunk.text:
        yield {"token": chunk.text}
    if chunk.finish_reason:
        yield {"finish_reason": chunk.finish_reason, "usage": usage_object(chunk.usage)}


async def _remembering(
    service: _Service, call: Call, memory: AbstractContextManager[Session], request: Request
) -> Response:
    """Streams an answer to a session's next question, and adds both to the session."""
    with ExitStack() as stack:
        session = stack.enter_context(memory)
        messages = [*session.messages, *call.messages]
        check_conversation(messages, service.settings)
        # Sampled as the conversation asks for: its pictures may have come with earlier questions.
        params = service.reader.params(call.fields, messages)
        answer = await service._ask(replace(call, messages=messages, params=params), request)
        chunks = _until_end(pull(answer, request), session, messages, stack.pop_all())
        return await streamed(chunks, _tokens)


async def _until_end(
    chunks: AsyncGenerator[Chunk | None, None],
    session: Session,
    messages: list[Message],
    stack: ExitStack,
) -> AsyncGenerator[Chunk | None, None]:
    """Passes the chunks on. Remembers the text, also when the client leaves midway."""
    text = ""
    with stack:
        try:
            async for chunk in chunks:
                text += chunk.text if chunk else ""
                yield chunk
        finally:
            await chunks.aclose()
            if text:
                session.messages = [*messages, Message("assistant", (TextPart(text),))]
