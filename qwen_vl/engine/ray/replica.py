"""One replica: an engine with its model in a process of the cluster.

Ray Serve starts it, watches it and ends it. Knows one engine; knows nothing of other replicas.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from qwen_vl.config import Settings
from qwen_vl.engine import Answer, open_engine
from qwen_vl.errors import UserError
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, EngineStatus, Message

LOOK_S = 0.05  # between two looks at a model that is loading


class Replica:
    """Answers questions. Ends with RuntimeError when its model cannot be loaded."""

    def __init__(self, settings: Settings, owner: str) -> None:
        self._owner = owner
        self._engine = open_engine(settings)
        while (status := self._engine.status()).state == "loading":
            time.sleep(LOOK_S)
        if status.state == "failed":
            raise RuntimeError(status.detail)

    async def answer(
        self, messages: Sequence[Message], params: SamplingParams, scope: str, conversation: str
    ) -> AsyncIterator[Chunk | UserError]:
        """The chunks of one answer, or its refusal as the last item.

        `conversation` is for the router. When the caller leaves, the answer is closed.
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
            async for chunk in answer:
                yield chunk
        except UserError as error:
            yield error
        finally:
            answer.close()

    def owner(self) -> str:
        """Which server has deployed this replica."""
        return self._owner

    def status(self) -> EngineStatus:
        return self._engine.status()

    def check_health(self) -> None:
        """Raises when this replica has to be replaced. Ray Serve asks now and then."""
        status = self._engine.status()
        if not status.answers:
            raise RuntimeError(status.detail)

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()


def _close_answer(asked: asyncio.Future[Answer]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        asked.result().close()
