"""One model on the cluster: its replicas, and how they are.

Each model is a Ray Serve application of its own, so that each has as many replicas, CPUs and GPUs
as it needs. Who deploys an application that is there already updates it: its replicas take nothing
new, finish what they have begun, and make room for new ones. Knows Ray Serve; knows nothing of
questions.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import replace

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatusOverview

from qwen_vl.config import DEFAULT_MODEL, Settings
from qwen_vl.engine.ray import cluster
from qwen_vl.families import family_by_name
from qwen_vl.schema import EngineStatus

log = logging.getLogger(__name__)

CHECK_S = 1.0  # between two looks at the replicas
ASK_S = 5.0  # for an answer to whose they are


class Served:
    """The application `app`. `handle` is there once there are replicas."""

    def __init__(self, settings: Settings, app: str) -> None:
        self._settings, self._app = settings, app
        named = settings.model or DEFAULT_MODEL
        self.status = EngineStatus(
            "loading", named, "Starting the replicas", family=family_by_name(named)
        )
        self.handle: DeploymentHandle | None = None
        self._owner = secrets.token_hex(8)  # told to our replicas

    @property
    def names(self) -> tuple[str, str]:
        """As it was asked for, and as the model itself is called once it is loaded."""
        return self._settings.model or DEFAULT_MODEL, self.status.model_id

    def fail(self, detail: str) -> None:
        self.status = replace(self.status, state="failed", detail=detail)

    async def watch(self) -> None:
        """Starts the replicas, or updates those that are there; then looks at them now and then."""
        try:
            replicas = cluster.deployment(self._settings, self._owner)
            handle = await asyncio.to_thread(serve.run, replicas, name=self._app, route_prefix=None)
        except (RuntimeError, RayError, RayServeException) as error:
            self.fail(str(error))
            return
        self.handle = handle
        of_replica: EngineStatus | None = None
        while True:
            try:
                of_replica = of_replica or await handle.status.remote()
                app = await asyncio.to_thread(self._overview)
                states = app.deployments[cluster.REPLICA].replica_states if app else {}
                self.status = self._summary(of_replica, states.get("RUNNING", 0))
            except (RayError, RayServeException) as error:
                log.warning("the replicas cannot be looked at: %s", error)
                detail = "The cluster does not answer"
                self.status = replace(self.status, state="loading", detail=detail)
            await asyncio.sleep(CHECK_S)

    def delete(self) -> None:
        """Ends the replicas, unless another server has deployed them anew and needs them."""
        if not self._is_replaced():
            serve.delete(self._app)

    def _is_replaced(self) -> bool:
        if self.handle is None:
            return False
        try:
            owner: str = self.handle.owner.remote().result(timeout_s=ASK_S)
        except (RayError, RayServeException, TimeoutError):
            return False
        return owner != self._owner

    def _overview(self) -> ApplicationStatusOverview | None:
        return serve.status().applications.get(self._app)

    def _summary(self, of_replica: EngineStatus, running: int) -> EngineStatus:
        wanted = self._settings.replicas
        missing = f"{running} of {wanted} replicas run; others are being started"
        return replace(
            of_replica,
            state="ready" if running >= wanted else "degraded" if running else "loading",
            detail="" if running >= wanted else missing,
            reason=f"{running} replicas, each: {of_replica.reason}",
        )
