"""An engine whose answers are written by replicas on a Ray cluster.

A replica that dies is replaced. What it had not begun to answer is asked again elsewhere. Several
models may be there; a request names one of them. Knows Ray Serve; knows nothing of models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from qwen_vl.config import Settings, models_on_cluster
from qwen_vl.engine.answer import Answer
from qwen_vl.engine.bridge import Bridge, TryAgain, until_begun
from qwen_vl.engine.ray import cluster
from qwen_vl.engine.ray.routing import conversation_of
from qwen_vl.engine.ray.served import Served
from qwen_vl.errors import EngineFailed, ModelUnavailable, NotFound, StillLoading, UserError
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Cost, EngineStats, EngineStatus, Message

log = logging.getLogger(__name__)

APP = "qwen_vl"  # of the first model; the others are APP-2, APP-3, ...


class RayEngine:
    """An `Engine` over replicas of one model or several; `status` tells how many there are."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        models = models_on_cluster(settings)
        apps = [APP, *(f"{APP}-{number}" for number in range(2, len(models) + 1))]
        self._models = [Served(one, app) for one, app in zip(models, apps, strict=True)]
        rows = len(models) * cluster.most_replicas(settings) * settings.max_batch
        self._bridge = Bridge("ray", rows + settings.max_queue, settings.max_seconds)
        self._joined = self._join()
        if self._joined:
            for model in self._models:
                self._bridge.start(model.watch())

    @property
    def model_id(self) -> str:
        return self._models[0].status.model_id

    def status(self) -> EngineStatus:
        """Of the first model, with the others in `others`."""
        first, *others = (model.status for model in self._models)
        return replace(first, others=tuple(others))

    def stats(self) -> EngineStats:
        return EngineStats(running=self._bridge.running)

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Answer:
        model = self._named(params.model)
        if model.status.state == "loading":
            raise StillLoading(f"{model.status.detail}: try again in a moment.")
        if model.status.state == "failed":
            raise ModelUnavailable(model.status.detail)
        return self._bridge.answer(
            lambda answer: self._write(answer, model, messages, params, scope)
        )

    def count(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Cost | None:
        return None  # only the replicas have the tokenizer

    def drain(self, seconds: float) -> None:
        self._bridge.drain(seconds)

    def close(self) -> None:
        """Ends the answers and the replicas. A cluster that was joined goes on."""
        self._bridge.close()
        if self._joined:
            self._joined = False
            for model in self._models:
                model.delete()
            cluster.leave()

    def _named(self, name: str) -> Served:
        """The first if none is named. Raises NotFound."""
        for model in self._models:
            if name in ("", *model.names):
                return model
        raise NotFound(f"There is no model '{name[:100]}' here.")

    async def _write(
        self,
        answer: Answer,
        model: Served,
        messages: Sequence[Message],
        params: SamplingParams,
        scope: str,
    ) -> None:
        conversation = await asyncio.to_thread(conversation_of, messages)
        await until_begun(lambda: self._ask(answer, model, messages, params, scope, conversation))

    async def _ask(
        self,
        answer: Answer,
        model: Served,
        messages: Sequence[Message],
        params: SamplingParams,
        scope: str,
        conversation: str,
    ) -> None:
        assert model.handle is not None, "no question is taken before there are replicas"
        begun = False
        chunks = model.handle.options(stream=True).answer.remote(
            messages, params, scope, conversation=conversation
        )
        try:
            async for chunk in chunks:
                if isinstance(chunk, UserError):
                    raise chunk
                begun = True
                if chunk.finish_reason is not None:
                    answer.finish(chunk.finish_reason, chunk.usage)
                    return
                answer.count_token()
                answer.emit(chunk.text, chunk.thought, chunk.logprobs, chunk.calls)
        except RayTaskError as error:  # a bug, and another replica has it too
            log.error("a replica failed on a request", exc_info=error)
            raise EngineFailed(
                "The replica failed on this request. The server's log says why."
            ) from error
        except (RayError, RayServeException) as error:
            if begun:
                raise EngineFailed(
                    "The replica that wrote this answer is gone: ask again, another one answers."
                ) from error
            raise TryAgain(EngineFailed("No replica could answer: try again later.")) from error
        finally:
            with suppress(RayError, RayServeException):  # there was nobody to ask
                chunks.cancel()

    def _join(self) -> bool:
        """On the thread that opens the engine: a cluster ends with the thread that started it."""
        try:
            cluster.join(self._settings.ray_address)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = self._settings.ray_address or "this machine"
            detail = f"No Ray cluster at {where}: check --ray-address. {error}"
            for model in self._models:
                model.fail(detail)
            return False
        return True
