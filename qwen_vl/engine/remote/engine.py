"""An `Engine` over other servers that speak the OpenAI API: vLLM, SGLang, llama.cpp, this one.

Each answer is a task of its own (`bridge`), so that ending one closes its connection in any phase.
Asks the least busy healthy server. What fails before the first token is tried again, on another
server if there is one. Knows how servers are chosen and watched; `wire` reads their answers. Never
imports torch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx2  # what openai's client runs on
import openai

from qwen_vl.config import Settings
from qwen_vl.engine.answer import Answer
from qwen_vl.engine.bridge import Bridge, TryAgain, until_begun
from qwen_vl.engine.remote.refusal import Refused, refused_fields, told_of
from qwen_vl.engine.remote.request import Requests, without
from qwen_vl.engine.remote.text import TextLogprobs, Transcript
from qwen_vl.engine.remote.tool_calls import CallPieces
from qwen_vl.engine.remote.upstream import Upstream, shown_model
from qwen_vl.engine.remote.wire import EVENT_BYTES, TOKEN_BYTES, Garbled, events, piece_of
from qwen_vl.errors import Busy, EngineFailed, ModelUnavailable, StillLoading, Unsupported
from qwen_vl.families import family_by_name
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Cost, EngineStats, EngineStatus, Message, UpstreamStats

log = logging.getLogger(__name__)

CHECK_S = 5.0  # between two looks at every server
_WIRE_ERRORS = (openai.APIError, httpx2.HTTPError, Garbled)


class RemoteEngine:
    """Asks the servers at `settings.base_url`, which all serve the same model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._upstreams = [Upstream(url, settings) for url in settings.base_url]
        self._requests = Requests()
        self._checked = False
        self._bridge = Bridge(
            "remote", settings.max_batch + settings.max_queue, settings.max_seconds
        )
        self._bridge.start(self._watch())

    # --- the Engine protocol ---

    @property
    def model_id(self) -> str:
        named = self._settings.remote_model
        found = (up.models[0] for up in self._upstreams if up.models)
        return shown_model(named or next(found, "remote model"))

    def status(self) -> EngineStatus:
        down = [f"{up.url}: {up.error}" for up in self._upstreams if not up.healthy]
        up_count = len(self._upstreams) - len(down)
        detail = "; ".join(down)
        facts: dict[str, Any] = {"device": "remote", "reason": f"{up_count} of "
                                 f"{len(self._upstreams)} servers answer"}  # fmt: skip
        facts["family"] = family_by_name(self.model_id)
        told = (up.context_tokens(self._settings.remote_model) for up in self._upstreams)
        facts["context_tokens"] = min((tokens for tokens in told if tokens), default=None)
        if not self._checked:
            return EngineStatus("loading", self.model_id, "Looking for the servers", **facts)
        if not up_count:
            return EngineStatus("failed", self.model_id, f"No server answers: {detail}", **facts)
        state = "degraded" if down else "ready"
        return EngineStatus(state, self.model_id, detail=detail, **facts)  # type: ignore[arg-type]

    def stats(self) -> EngineStats:
        return EngineStats(
            running=self._bridge.running,
            upstreams=tuple(
                UpstreamStats(up.url, up.healthy, up.running) for up in self._upstreams
            ),
        )

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Answer:
        if not self._checked:
            raise StillLoading("The servers behind this one are being looked for: try again soon.")
        if not any(up.healthy for up in self._upstreams):
            down = ModelUnavailable(self.status().detail)
            down.retry_after_s = max(1, round(CHECK_S))  # they are looked at again by then
            raise down
        question = [messages]  # taken out as soon as it is encoded: the pictures may be large

        async def write(answer: Answer) -> None:
            request = await self._requests.make(question.pop(), params, scope)
            await self._try_all(answer, request)

        return self._bridge.answer(write)

    def count(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Cost | None:
        return None  # only the server behind this one has the model's tokenizer

    def drain(self, seconds: float) -> None:
        self._bridge.drain(seconds)

    def close(self) -> None:
        self._bridge.close(self._hang_up)
        self._requests.close()

    async def _hang_up(self) -> None:
        for up in self._upstreams:
            await up.client.close()

    # --- health ---

    async def _watch(self) -> None:
        while True:
            # One that is writing is left in peace: it is seen to work, and llama-cpp-python breaks
            # its answer off when it is asked anything else.
            resting = [up for up in self._upstreams if not (up.running and up.healthy)]
            await asyncio.gather(*(self._check(up) for up in resting))
            self._checked = True
            await asyncio.sleep(CHECK_S)

    async def _check(self, up: Upstream) -> None:
        try:
            await up.look(self._settings.remote_model)
        except Exception:  # a bug: logged whole here; the others, and the next look, go on
            log.exception("looking at %s broke", up.url)
            up.healthy, up.error = False, "looking at it broke: the log has the details"

    def _pick(self, tried: Sequence[Upstream]) -> Upstream:
        """The least busy healthy server, one that has not failed this question if there is one."""
        healthy = [up for up in self._upstreams if up.healthy] or self._upstreams
        fresh = [up for up in healthy if up not in tried] or healthy
        return min(fresh, key=lambda up: up.running)

    # --- one answer, as a task ---

    async def _try_all(self, answer: Answer, request: dict[str, Any]) -> None:
        tried: list[Upstream] = []

        async def attempt() -> None:
            up = self._pick(tried)
            tried.append(up)
            up.running += 1
            try:
                await self._ask(up, answer, request)
            finally:
                up.running -= 1

        await until_begun(attempt)

    async def _ask(self, up: Upstream, answer: Answer, request: dict[str, Any]) -> None:
        """Passes one upstream's answer on. Raises TryAgain for what may go well elsewhere."""
        request = {"model": up.model_to_ask(self._settings.remote_model), **request}
        most_tokens = request["max_tokens"]
        inside = family_by_name(self.model_id).opens_thought
        transcript = Transcript(most_tokens, inside, may_think="prompt" not in request)
        logprobs = TextLogprobs("logprobs" in request)
        calls = CallPieces(most_tokens)
        usage, reason, begun = None, None, False
        try:
            async with AsyncExitStack() as stack:
                response = await self._open(up, request, stack)
                up.healthy, up.error = True, ""
                body = response.iter_bytes()
                async for event in events(body, EVENT_BYTES + most_tokens * TOKEN_BYTES):
                    piece = piece_of(event)
                    usage, reason = piece.usage or usage, piece.reason or reason
                    told = transcript.add(piece.thought, piece.text)
                    beside = logprobs.told(told, piece.logprobs)
                    called = calls.add(list(piece.calls)) if "tools" in request else ()
                    if any(told) or called:
                        begun = True
                        answer.count_token(bool(told.thought))
                        answer.emit(told.text, told.thought, beside, called)
                    if transcript.is_full:  # it goes on after what it was asked for
                        reason = "length"
                        break
            is_whole = reason in ("stop", "tool_calls")
            last = calls.end() if is_whole else ()
            if reason is None and not begun:
                await self._ask_why(up, request)
        except _WIRE_ERRORS as error:
            raise self._broken(up, error, begun, request) from error
        if reason is None:  # the connection ended, the answer did not
            raise self._broken(up, None, begun, request)
        rest = transcript.finish()
        answer.emit(rest.text, rest.thought, logprobs.told(rest, ()), last)
        if logprobs.are_missing:
            raise Unsupported(
                "The server behind this one tells no log probabilities: leave out 'logprobs'."
            )
        answer.finish("tool_calls" if calls and is_whole else reason, usage)

    async def _open(self, up: Upstream, request: dict[str, Any], stack: AsyncExitStack) -> Any:
        """The response with an answer, without the fields that this server refuses.

        Later requests leave a field out too, once the server has answered without it.
        """
        left_out, refused = set(up.refused), Refused()
        create = _create(up, request)
        while True:
            try:
                response = await stack.enter_async_context(create(**without(request, left_out)))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                found = refused_fields(error, without(request, left_out))
                if not found.all:
                    raise
                left_out |= found.all
                refused.always |= found.always
                continue
            for name in sorted(refused.always - up.refused):
                log.warning("%s does not take %r: left out from now on", up.url, name)
            up.refused |= refused.always
            return response

    async def _ask_why(self, up: Upstream, request: dict[str, Any]) -> None:
        """Some servers end a stream silently, but refuse the same question unstreamed."""
        plain = {**request, "stream": False, "max_tokens": 1}
        plain = without(plain, {*up.refused, "stream_options"})
        create = _create(up, request)
        try:
            async with create(**plain):
                return
        except openai.APIConnectionError:  # the server may have closed the connection it was on
            async with create(**plain):
                return

    def _broken(
        self, up: Upstream, error: Exception | None, begun: bool, request: dict[str, Any]
    ) -> Exception:
        """What to tell the user, or TryAgain."""
        said = up.said(error) if error else "its answer was empty"
        if isinstance(error, openai.NotFoundError) and "prompt" in request:
            return Unsupported(f"The server behind this one goes on with no raw text: {said}")
        if isinstance(error, openai.APIStatusError):
            told = told_of(error, said)
            if told is not None:
                return told
            if isinstance(error, openai.RateLimitError):
                return TryAgain(Busy("The servers behind this one are busy: try again later."))
            if error.status_code == 503 and "retry-after" in error.response.headers:
                return TryAgain(StillLoading(f"The server behind this one is not ready: {said}"))
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout)):
            up.healthy, up.error = False, said  # until the next look
        if isinstance(cause, Garbled):  # its own words, or what is wrong with them
            if begun:
                return EngineFailed(f"The server behind this one broke off its answer: {said}")
            return TryAgain(EngineFailed(f"The server behind this one could not answer: {said}"))
        if begun:
            return EngineFailed("The server behind this one broke off its answer: try again.")
        log.warning("%s failed: %s", up.url, type(cause or error).__name__)
        messages = request.get("messages", ())
        shows = any(isinstance(message["content"], list) for message in messages)
        advice = ", or remove the pictures if its model reads text only" if shows else ""
        return TryAgain(
            EngineFailed(f"No server behind this one could answer: try again later{advice}.")
        )


def _create(up: Upstream, request: dict[str, Any]) -> Any:
    """The call of openai's client for a conversation, or for a text to go on with."""
    route = up.client.completions if "prompt" in request else up.client.chat.completions
    return route.with_streaming_response.create
