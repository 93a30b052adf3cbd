"""The demo's own engine as replicas on a Ray cluster, its page and API in front.

    pip install -r requirements.txt -r examples/requirements-ray.txt
    python examples/ray_serve.py --replicas 2 -- --model bundled

What follows `--` are the flags of app.py. On this machine a Ray of its own is started; `--address
auto` joins the cluster that this machine belongs to. All turns of a conversation go to one replica
while that has room, so that what it has read already is still there. A replica that dies is
replaced; what it had not begun to answer is asked again elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Or a look at the replicas that is still under way at the end would start another Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

import ray
from PIL import Image
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.config import AutoscalingConfig, ProxyLocation, RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app import serve as serve_app  # noqa: E402 - the folder above has just become importable
from app import start_logging, stopped_by_signals  # noqa: E402
from qwen_vl.config import DEFAULT_MODEL, Settings, load_settings  # noqa: E402
from qwen_vl.engine import open_engine  # noqa: E402
from qwen_vl.engine.answer import Answer  # noqa: E402
from qwen_vl.engine.bridge import Bridge, TryAgain, until_begun  # noqa: E402
from qwen_vl.errors import (  # noqa: E402
    EngineFailed,
    ModelUnavailable,
    StillLoading,
    UserError,
)
from qwen_vl.media.pictures import content_hash  # noqa: E402
from qwen_vl.schema import (  # noqa: E402
    Chunk,
    EngineStats,
    EngineStatus,
    Message,
    SamplingParams,
)

log = logging.getLogger("ray_serve")

APP, REPLICA = "qwen_vl", "Replica"
CHECK_S = 1.0  # between two looks at the replicas
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 2.0, 10.0
BUSY_SHARE = 0.75  # of a replica's rows: over that for a while, one more is started
LEFT_OUT = (".git", ".venv*", "tests", "**/__pycache__", ".mypy_cache", ".ruff_cache")


@dataclass(frozen=True)
class Cluster:
    """How many replicas, and what each gets."""

    replicas: int = 2  # at least, and at first
    most_replicas: int = 0  # under load; 0 is as many as `replicas`
    cpus: float = 1  # of each replica
    gpus: float = 0
    affine: bool = True  # all turns of a conversation to one replica


class Replica:
    """One engine with its model. Ray Serve starts it, watches it, and ends it."""

    def __init__(self, settings: Settings) -> None:
        self._engine = open_engine(settings)
        while (status := self._engine.status()).state == "loading":
            time.sleep(0.05)
        if status.state == "failed":
            raise RuntimeError(status.detail)

    async def answer(
        self, messages: Sequence[Message], params: SamplingParams, scope: str, conversation: str
    ) -> AsyncIterator[Chunk | UserError]:
        """The chunks of one answer, or its refusal as the last item.

        `conversation` is for the router. The caller's leaving closes the answer.
        """
        asking = asyncio.ensure_future(
            asyncio.to_thread(self._engine.stream, messages, params, scope)
        )
        try:
            answer = await asyncio.shield(asking)
        except UserError as error:
            yield error
            return
        except asyncio.CancelledError:  # the thread goes on: its answer would keep a row
            asking.add_done_callback(_close_answer)
            raise
        try:
            while True:
                chunk = await asyncio.to_thread(next, answer)
                yield chunk
                if chunk.finish_reason is not None:
                    return
        except UserError as error:
            yield error
        finally:
            answer.close()

    def status(self) -> EngineStatus:
        return self._engine.status()

    def check_health(self) -> None:
        """Raises when this replica has to be replaced; Ray Serve asks now and then."""
        status = self._engine.status()
        if not status.answers:
            raise RuntimeError(status.detail)

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()


def _close_answer(asked: asyncio.Future[Any]) -> None:
    if asked.exception() is None:
        asked.result().close()


class ConversationRouter(RequestRouter):
    """Sends the turns of a conversation to one replica, and to its next choice while that is full.

    Rendezvous hashing (Thaler and Ravishankar 1998): when a replica comes or goes, only the
    conversations that it gets or had move.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        conversation = pending_request.kwargs.get("conversation", "") if pending_request else ""

        def weight(candidate: RunningReplica) -> bytes:
            name = f"{conversation} {candidate.replica_id.unique_id}"
            return hashlib.blake2b(name.encode()).digest()

        return [[candidate] for candidate in sorted(candidate_replicas, key=weight, reverse=True)]


def conversation_of(messages: Sequence[Message]) -> str:
    """A name that all turns of a conversation share: what it begins with, up to its first question.

    An edited later turn keeps it; two that begin alike share it, and their prefix too.
    """
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        digest.update(f"{message.role}\0{message.text}\0".encode())
        for part in message.images:  # none is decoded for that
            source = part.source
            key = content_hash(source) if isinstance(source, Image.Image) else source.key
            digest.update(f"{part.size}{part.time_s}{key}\0".encode())
        if message.role == "user":
            break
    return digest.hexdigest()


class RayEngine:
    """An `Engine` whose answers are written by the replicas of a Ray Serve application."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings, self._cluster = settings, cluster
        named = settings.model or DEFAULT_MODEL
        self._status = EngineStatus("loading", named, detail="Starting the replicas")
        most = max(cluster.replicas, cluster.most_replicas)
        waiting_and_running = most * settings.max_batch + settings.max_queue
        self._bridge = Bridge("ray", waiting_and_running, settings.max_seconds)
        self._handle: DeploymentHandle | None = None
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
        """Ends the answers and the replicas; the cluster goes on."""
        self._bridge.close(_nothing)
        serve.delete(APP)

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
                answer.emit(chunk.text)
        except RayTaskError as error:  # a bug, and another replica has it too
            log.error("a replica failed on a request", exc_info=error)
            told = "The replica failed on this request. The server's log says why."
            raise EngineFailed(told) from error
        except (RayError, RayServeException) as error:
            if begun:
                told = "The replica that wrote this answer is gone: ask again, another one answers."
                raise EngineFailed(told) from error
            raise TryAgain(EngineFailed("No replica could answer: try again later.")) from error
        finally:
            chunks.cancel()

    # --- how the replicas are ---

    async def _watch(self) -> None:
        app = deployment(self._settings, self._cluster)
        try:
            self._handle = await asyncio.to_thread(serve.run, app, name=APP, route_prefix=None)
        except (RuntimeError, RayError, RayServeException) as error:
            self._status = replace(self._status, state="failed", detail=str(error))
            return
        told: EngineStatus | None = None
        while True:
            try:
                told = told or await self._handle.status.remote()
                app_seen = (await asyncio.to_thread(serve.status)).applications.get(APP)
                states = app_seen.deployments[REPLICA].replica_states if app_seen else {}
                running = states.get("RUNNING", 0)
                self._status = self._as_seen(told, running)
            except (RayError, RayServeException) as error:
                log.warning("the replicas cannot be looked at: %s", error)
                detail = "The cluster does not answer"
                self._status = replace(self._status, state="loading", detail=detail)
            await asyncio.sleep(CHECK_S)

    def _as_seen(self, told: EngineStatus, running: int) -> EngineStatus:
        wanted = self._cluster.replicas
        missing = f"{running} of {wanted} replicas run; others are being started"
        return replace(
            told,
            state="ready" if running >= wanted else "degraded" if running else "loading",
            detail="" if running >= wanted else missing,
            reason=f"{running} replicas, each: {told.reason}",
        )


async def _nothing() -> None:
    pass


def deployment(settings: Settings, cluster: Cluster) -> Any:
    """The Ray Serve application: replicas of the engine, how many, and who is asked."""
    threads = settings.threads or max(1, int(cluster.cpus))
    most = max(cluster.replicas, cluster.most_replicas)
    router = RequestRouterConfig(request_router_class=ConversationRouter)
    return serve.deployment(
        Replica,
        name=REPLICA,
        autoscaling_config=AutoscalingConfig(
            min_replicas=cluster.replicas,
            max_replicas=most,
            target_ongoing_requests=max(1.0, BUSY_SHARE * settings.max_batch),
        ),
        # More would wait inside a replica while another has room.
        max_ongoing_requests=settings.max_batch,
        request_router_config=router if cluster.affine else RequestRouterConfig(),
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
        ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
    ).bind(replace(settings, threads=threads))


def start_ray(address: str | None) -> None:
    """Joins the cluster at `address`, or starts one here; its machines get this project's code."""
    ray.init(
        address=address or "local",
        runtime_env={"working_dir": str(ROOT), "excludes": list(LEFT_OUT)},
        log_to_driver=False,
        include_dashboard=False if address is None else None,
    )
    serve.start(proxy_location=ProxyLocation.Disabled)  # the page's own server is in front


def wait_until_ready(engine: RayEngine) -> None:
    """Returns once all replicas run. Raises ModelUnavailable if they cannot."""
    while (status := engine.status()).state != "ready":
        if status.state == "failed":
            raise ModelUnavailable(status.detail)
        time.sleep(0.1)


def main(argv: Sequence[str]) -> None:
    """Command line."""
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--address", help="of a Ray cluster; left out: one is started here")
    parser.add_argument("--replicas", type=int, default=2, help="at least so many, and at first")
    parser.add_argument("--most-replicas", type=int, default=0, help="under load")
    parser.add_argument("--cpus", type=float, default=1, help="of each replica")
    parser.add_argument("--gpus", type=float, default=0, help="of each replica")
    parser.add_argument("--no-affinity", action="store_true", help="any replica for any turn")
    args = parser.parse_args(argv[:at])
    settings = load_settings(argv[at + 1 :])
    start_logging()
    stop = stopped_by_signals()
    log.info("starting %d replicas", args.replicas)
    start_ray(args.address)
    cluster = Cluster(args.replicas, args.most_replicas, args.cpus, args.gpus, not args.no_affinity)
    try:
        serve_app(settings, RayEngine(settings, cluster), stop)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
