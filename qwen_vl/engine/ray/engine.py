"""An engine whose answers are written by replicas on a Ray cluster.

A replica that dies is replaced. What it had not begun to answer is asked again elsewhere. Knows
Ray Serve; knows nothing of models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from qwen_vl.config import DEFAULT_MODEL, Settings
from qwen_vl.engine.answer import Answer
from qwen_vl.engine.bridge import Bridge, TryAgain, until_begun
from qwen_vl.engine.ray import cluster
from qwen_vl.engine.ray.routing import conversation_of
from qwen_vl.errors import EngineFailed, ModelUnavailable, StillLoading, UserError
from qwen_vl.families import family_by_name
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import EngineStats, EngineStatus, Message

log = logging.getLogger(__name__)

CHECK_S = 1.0  # between two looks at the replicas


class RayEngine:
    """An `Engine` over `settings.replicas` replicas; `status` tells how many there are."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        named = settings.model or DEFAULT_MODEL
        self._status = EngineStatus(
            "loading", named, "Starting the replicas", family=family_by_name(named)
        )
        waiting_and_running = (
            cluster.most_replicas(settings) * settings.max_batch + settings.max_queue
        )
        self._bridge = Bridge("ray", waiting_and_running, settings.max_seconds)
        self._handle: DeploymentHandle | None = None
        self._joined = self._join()
        if self._joined:
            self._bridge.start(self._watch())

    @property
    def model_id(self) -> str:
        return self._status.model_id

    def status(self) -> EngineStatus:
        return self._status

    def stats(self) -> EngineStats:
        return EngineStats(running=self._bridge.running)

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Answer:
        status = self._status
        if status.state == "loading":
            raise StillLoading(f"{status.detail}: try again in a moment.")
        if status.state == "failed":
            raise ModelUnavailable(status.detail)
        return self._bridge.answer(lambda answer: self._write(answer, messages, params, scope))

    def drain(self, seconds: float) -> None:
        self._bridge.drain(seconds)

    def close(self) -> None:
        """Ends the answers and the replicas. A cluster that was joined goes on."""
        self._bridge.close()
        if self._joined:
            self._joined = False
            serve.delete(cluster.APP)
            cluster.leave()

    async def _write(
        self, answer: Answer, messages: Sequence[Message], params: SamplingParams, scope: str
    ) -> None:
        conversation = await asyncio.to_thread(conversation_of, messages)
        await until_begun(lambda: self._ask(answer, messages, params, scope, conversation))

    async def _ask(
        self,
        answer: Answer,
        messages: Sequence[Message],
        params: SamplingParams,
        scope: str,
        conversation: str,
    ) -> None:
        assert self._handle is not None, "no question is taken before there are replicas"
        begun = False
        chunks = self._handle.options(stream=True).answer.remote(
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
            chunks.cancel()

    def _join(self) -> bool:
        """On the thread that opens the engine: a cluster ends with the thread that started it."""
        try:
            cluster.join(self._settings.ray_address)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = self._settings.ray_address or "this machine"
            detail = f"No Ray cluster at {where}: check --ray-address. {error}"
            self._status = replace(self._status, state="failed", detail=detail)
            return False
        return True

    async def _watch(self) -> None:
        """Starts the replicas, then looks at them now and then."""
        try:
            replicas = cluster.deployment(self._settings)
            handle = await asyncio.to_thread(
                serve.run, replicas, name=cluster.APP, route_prefix=None
            )
        except (RuntimeError, RayError, RayServeException) as error:
            self._status = replace(self._status, state="failed", detail=str(error))
            return
        self._handle = handle
        of_replica: EngineStatus | None = None
        while True:
            try:
                of_replica = of_replica or await handle.status.remote()
                app = (await asyncio.to_thread(serve.status)).applications.get(cluster.APP)
                states = app.deployments[cluster.REPLICA].replica_states if app else {}
                self._status = self._summary(of_replica, states.get("RUNNING", 0))
            except (RayError, RayServeException) as error:
                log.warning("the replicas cannot be looked at: %s", error)
                detail = "The cluster does not answer"
                self._status = replace(self._status, state="loading", detail=detail)
            await asyncio.sleep(CHECK_S)

    def _summary(self, of_replica: EngineStatus, running: int) -> EngineStatus:
        wanted = self._settings.replicas
        missing = f"{running} of {wanted} replicas run; others are being started"
        return replace(
            of_replica,
            state="ready" if running >= wanted else "degraded" if running else "loading",
            detail="" if running >= wanted else missing,
            reason=f"{running} replicas, each: {of_replica.reason}",
        )
