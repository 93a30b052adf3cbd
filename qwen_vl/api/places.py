"""Threads for work on requests: bounded, and ended when the client leaves.

Work of one kind has its own places, so that text never waits behind pictures. Knows HTTP requests
and threads. Knows nothing of the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from qwen_vl.errors import Busy, UserError

Result = TypeVar("Result")


class Places:
    """`at_once` threads, and room for `waiting` more requests: after that Busy is raised."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._limiter = anyio.CapacityLimiter(at_once)
        self._left = at_once + waiting

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, in a thread."""
        if self._left == 0:
            raise Busy("Too many requests are being read: try again in a moment.")
        self._left -= 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._left += 1

    async def run_for(
        self,
        request: Request,
        work: Callable[[], Result],
        give_up: Callable[[], object],
        undo: Callable[[Result], object] = lambda _: None,
    ) -> Result:
        """The same for a client that may leave meanwhile, once its body has been read.

        When it leaves, the event loop calls `give_up` to end the work, passes a result that comes
        anyway to `undo`, and raises ClientDisconnect.
        """
        has_left = False
        with anyio.CancelScope() as scope:

            async def watch() -> None:
                nonlocal has_left
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                has_left = True
                give_up()
                scope.cancel()  # takes it out of the queue, if it still waits there

            watcher = asyncio.create_task(watch())
            try:
                result = await self.run(work)
            except UserError:
                if has_left:
                    raise ClientDisconnect from None
                raise
            finally:
                watcher.cancel()
            if not has_left:
                return result
            undo(result)
        raise ClientDisconnect
