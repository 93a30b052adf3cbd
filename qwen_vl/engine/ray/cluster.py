"""Starts or joins a Ray cluster, and describes the replicas that run on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, ProxyLocation, RequestRouterConfig

from qwen_vl.config import Settings, for_one_replica
from qwen_vl.engine.ray.replica import Replica
from qwen_vl.engine.ray.routing import ConversationRouter

REPLICA = "Replica"
CODE = Path(__file__).resolve().parents[3]  # the checkout, or the folder of installed packages
NOT_SENT = (".git", ".venv*", "tests", "**/__pycache__", ".mypy_cache", ".ruff_cache")
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 2.0, 10.0
BUSY_SHARE = 0.75  # of a replica's rows: over that for a while, one more is started


def join(address: str) -> None:
    """Joins the cluster at `address`, or starts one on this machine if it is empty.

    A checkout is sent to the cluster's machines. An installed package must be installed there too.
    """
    checkout = {"working_dir": str(CODE), "excludes": list(NOT_SENT)}
    ray.init(
        address=address or "local",
        runtime_env=checkout if (CODE / "requirements.txt").exists() else None,
        log_to_driver=False,
        include_dashboard=None if address else False,
    )
    serve.start(proxy_location=ProxyLocation.Disabled)  # the page's own server is in front


def leave() -> None:
    """Ends a cluster that `join` started, or the connection to one that it joined."""
    ray.shutdown()


def most_replicas(settings: Settings) -> int:
    return max(settings.replicas, settings.most_replicas)


def deployment(settings: Settings, owner: str) -> Any:
    """The Ray Serve application: replicas of the engine, how many, and who is asked."""
    router = RequestRouterConfig(request_router_class=ConversationRouter)
    return serve.deployment(
        Replica,
        name=REPLICA,
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.replicas,
            max_replicas=most_replicas(settings),
            target_ongoing_requests=max(1.0, BUSY_SHARE * settings.max_batch),
        ),
        # More would wait inside a replica while another has room.
        max_ongoing_requests=settings.max_batch,
        request_router_config=router if settings.affinity else RequestRouterConfig(),
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
        ray_actor_options={"num_cpus": settings.replica_cpus, "num_gpus": settings.replica_gpus},
    ).bind(for_one_replica(settings), owner)
