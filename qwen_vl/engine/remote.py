"""An `Engine` over other servers that speak the OpenAI API: vLLM, SGLang, llama.cpp, this one.

Each answer is a task of its own (`bridge`), so that ending one closes its connection in any phase.
The least busy healthy server is asked; what fails before the first token is tried again, on another
server where there is one. Knows the OpenAI chat format as a client; torch is never imported here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import httpx2  # what openai's client runs on
import openai
from openai import AsyncOpenAI

from qwen_vl.config import Settings
from qwen_vl.engine.bridge import Bridge, TryAgain, until_begun
from qwen_vl.engine.remote_request import means_off, refused_field, request_of, without
from qwen_vl.engine.request import Answer
from qwen_vl.errors import (
    BadRequest,
    Busy,
    EngineFailed,
    ModelUnavailable,
    StillLoading,
    TooLarge,
    Unsupported,
    UserError,
)
from qwen_vl.schema import (
    EngineStats,
    EngineStatus,
    FinishReason,
    Message,
    SamplingParams,
    UpstreamStats,
    Usage,
)

log = logging.getLogger(__name__)

CHECK_S = 5.0  # between two looks at every server
CONNECT_S = 5.0


@dataclass
class Upstream:
    """One server and what is known of it."""

    url: str
    client: AsyncOpenAI
    healthy: bool = False
    models: tuple[str, ...] = ()
    running: int = 0
    error: str = ""
    refused: set[str] = field(default_factory=set)  # request fields that it does not take


class RemoteEngine:
    """Asks the servers at `settings.base_url`, which all serve the same model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        timeout = openai.Timeout(settings.max_seconds, connect=CONNECT_S)
        self._upstreams = [
            Upstream(
                url,
                AsyncOpenAI(
                    base_url=url,
                    api_key=settings.remote_key or "none",
                    timeout=timeout,
                    max_retries=0,  # tried again here, where another server can be asked
                ),
            )
            for url in settings.base_url
        ]
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
        return named or next(found, "remote model")

    def status(self) -> EngineStatus:
        down = [f"{up.url}: {up.error}" for up in self._upstreams if not up.healthy]
        up_count = len(self._upstreams) - len(down)
        detail = "; ".join(down)
        facts: dict[str, Any] = {"device": "remote", "reason": f"{up_count} of "
                                 f"{len(self._upstreams)} servers answer"}  # fmt: skip
        if not self._checked:
            return EngineStatus("loading", self.model_id, detail="Looking for the servers")
        if not up_count:
            return EngineStatus("failed", self.model_id, detail=f"No server answers: {detail}")
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
        request = request_of(messages, params)
        return self._bridge.answer(lambda answer: self._try_all(answer, request))

    def drain(self, seconds: float) -> None:
        self._bridge.drain(seconds)

    def close(self) -> None:
        self._bridge.close(self._hang_up)

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
            listed = await up.client.with_options(timeout=CONNECT_S).models.list()
            up.models = tuple(model.id for model in listed.data)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            up.healthy, up.error = False, _said(error)
            return
        except (AttributeError, TypeError, ValueError):  # a web page, or JSON of something else
            up.healthy, up.error = False, "it answers, but not like an OpenAI server"
            return
        wanted = self._settings.remote_model
        if wanted and up.models and wanted not in up.models:
            up.healthy, up.error = False, f"it serves {', '.join(up.models)} and not {wanted}"
            return
        up.healthy, up.error = True, ""

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
        model = self._settings.remote_model or (up.models[0] if up.models else "default")
        begun, usage, reason, thinking = False, None, None, False
        try:
            stream = await self._open(up, {"model": model, **request})
            up.healthy, up.error = True, ""
            async with stream:
                async for chunk in stream:
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        reason = _reason(choice) or reason
                        thought, text = _thought(choice.delta), choice.delta.content or ""
                        if thought and not begun:
                            thought = f"<think>\n{thought}"
                        if thinking and text:
                            text, thinking = f"</think>\n\n{text}", False
                        thinking = thinking or bool(thought)
                        if thought or text:
                            begun = True
                            answer.count_token()
                            answer.emit(thought + text)
            if reason is None and not begun:
                await self._ask_why(up, {"model": model, **request})
        except (openai.APIError, httpx2.HTTPError) as error:
            raise self._broken(up, error, begun, request) from error
        if reason is None:  # the connection ended, the answer did not
            raise self._broken(up, None, begun, request)
        answer.finish(reason, _usage(usage))

    async def _open(self, up: Upstream, request: dict[str, Any]) -> Any:
        """The stream of an answer; fields that this server refuses are left out from then on.

        Only for this answer where the value may be what it refuses.
        """
        left_out = set(up.refused)
        while True:
            try:
                return await up.client.chat.completions.create(**without(request, left_out))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = refused_field(error.response.text, request, left_out)
                if refused is None:
                    raise
                left_out.add(refused)
                if not means_off(refused, request):
                    log.warning("%s does not take %r: left out from now on", up.url, refused)
                    up.refused.add(refused)

    async def _ask_why(self, up: Upstream, request: dict[str, Any]) -> None:
        """Some servers end a stream without a word where they would refuse the plain question."""
        plain = {**request, "stream": False, "max_tokens": 1}
        del plain["stream_options"]
        client = up.client.with_options(max_retries=1)  # they may have closed the connection too
        await client.chat.completions.create(**without(plain, up.refused))

    def _broken(
        self, up: Upstream, error: Exception | None, begun: bool, request: dict[str, Any]
    ) -> Exception:
        """What to tell the user, or TryAgain."""
        said = _said(error) if error else "its answer was empty"
        if isinstance(error, openai.APIStatusError):
            told = _told(error)
            if told is not None:
                return told
            if isinstance(error, openai.RateLimitError):
                return TryAgain(Busy("The servers behind this one are busy: try again later."))
            if error.status_code == 503 and "retry-after" in error.response.headers:
                return TryAgain(StillLoading(f"The server behind this one is not ready: {said}"))
        elif isinstance(error, (openai.APIConnectionError, httpx2.HTTPError)) and not isinstance(
            error, openai.APITimeoutError
        ):
            up.healthy, up.error = False, said  # until the next look
        elif isinstance(error, openai.APIError):  # told in the middle of its stream
            if begun:
                return EngineFailed(f"The server behind this one broke off its answer: {said}")
            return TryAgain(EngineFailed(f"The server behind this one could not answer: {said}"))
        if begun:
            return EngineFailed("The server behind this one broke off its answer: try again.")
        log.warning("%s failed: %s", up.url, said)
        shows = any(isinstance(message["content"], list) for message in request["messages"])
        advice = ", or remove the pictures if its model reads text only" if shows else ""
        return TryAgain(
            EngineFailed(f"No server behind this one could answer: try again later{advice}.")
        )


# --- answers and errors ---


def _thought(delta: Any) -> str:
    """What a reasoning model thinks, which servers put beside the answer under either name."""
    named = (getattr(delta, name, None) for name in ("reasoning_content", "reasoning"))
    return next((thought for thought in named if thought), "")


def _reason(choice: Any) -> FinishReason | None:
    """Our own word where the upstream is one of us, or else OpenAI's."""
    native = getattr(choice, "native_finish_reason", None)
    if native in get_args(FinishReason):
        return native
    told = choice.finish_reason
    if told is None:
        return None
    return "length" if told == "length" else "stop"


def _usage(told: Any) -> Usage | None:
    if told is None:
        return None
    details = told.prompt_tokens_details
    cached = (details.cached_tokens if details else None) or 0
    return Usage(told.prompt_tokens, told.completion_tokens, cached)


def _told(error: openai.APIStatusError) -> UserError | None:
    """What an upstream's refusal means to the user; None for what may go well elsewhere."""
    said = _said(error)
    if error.status_code in (401, 403):
        return ModelUnavailable(f"The server behind this one refuses its key: {said}")
    if error.status_code == 404:
        return ModelUnavailable(f"The server behind this one does not have this model: {said}")
    kinds: dict[int, type[UserError]] = {400: BadRequest, 413: TooLarge, 415: BadRequest}
    kinds[422] = Unsupported
    if error.status_code in kinds:
        return kinds[error.status_code](f"The server behind this one refused it: {said}")
    return None


def _said(error: Exception) -> str:
    """An error in one short line, with an upstream's own words where there are some."""
    body = getattr(error, "body", None)
    # OpenAI's shape, or that of FastAPI's own errors
    words = body.get("message") or body.get("detail") if isinstance(body, dict) else None
    return " ".join(str(words or error or type(error).__name__).split())[:300]
