"""Several answers to one request, read as one.

Knows the engine's Answer. Knows nothing of requests or HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from qwen_vl.engine import Answer
from qwen_vl.schema import Chunk, Usage

AskMore = Callable[[], Awaitable[Answer]]


class Several:
    """Chunks as they come, each with the number of its answer. Closing it closes them all.

    The others are asked when the first one has begun: then its prompt lies in the caches, pictures
    and all. Only the very last chunk has a usage, that of all together.
    """

    def __init__(self, first: Answer, others: list[AskMore], per_prompt: int) -> None:
        """`per_prompt`: so many answers in a row have the same prompt, which counts once."""
        self._answers = [first]
        self._per_prompt = per_prompt
        self._closed = False
        self._usages: dict[int, Usage | None] = {}
        self._coming: dict[int, asyncio.Future[Chunk]] = {}
        self._left = 1 + len(others)
        self._asking = asyncio.ensure_future(self._ask(first, others))
        self._asking.add_done_callback(_look_at)

    async def _ask(self, first: Answer, others: list[AskMore]) -> None:
        await first.begun()
        while others and not self._closed:
            answer = await others.pop(0)()
            self._answers.append(answer)
            if self._closed:
                answer.close()

    def __aiter__(self) -> Several:
        return self

    async def __anext__(self) -> Chunk:
        """Cancelling it loses no chunk. Raises what one of the answers raises."""
        if not self._left:
            raise StopAsyncIteration
        await asyncio.wait({self._asking})
        self._asking.result()  # it may have been refused
        for i, answer in enumerate(self._answers):
            if i not in self._usages and i not in self._coming:
                self._coming[i] = asyncio.ensure_future(anext(answer))
                self._coming[i].add_done_callback(_look_at)
        await asyncio.wait(self._coming.values(), return_when=asyncio.FIRST_COMPLETED)
        i = next(i for i, coming in self._coming.items() if coming.done())
        chunk = replace(self._coming.pop(i).result(), choice=i)
        if chunk.finish_reason is None:
            return chunk
        self._usages[i] = chunk.usage
        self._left -= 1
        return replace(chunk, usage=None if self._left else self._usage())

    def close(self) -> None:
        self._closed = True
        for answer in self._answers:
            answer.close()  # their last chunks come at once

    def _usage(self) -> Usage | None:
        """Each prompt once, and all answers, which were written side by side."""
        told = {i: usage for i, usage in self._usages.items() if usage is not None}
        if not told:
            return None
        prompts = [usage for i, usage in told.items() if i % self._per_prompt == 0]
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in prompts),
            completion_tokens=sum(usage.completion_tokens for usage in told.values()),
            cached_tokens=sum(usage.cached_tokens for usage in prompts),
            thought_tokens=sum(usage.thought_tokens for usage in told.values()),
            ttft_s=min(usage.ttft_s for usage in told.values()),
            tokens_per_s=sum(usage.tokens_per_s for usage in told.values()),
            accepted_tokens=sum(usage.accepted_tokens for usage in told.values()),
            rejected_tokens=sum(usage.rejected_tokens for usage in told.values()),
        )


def _look_at(done: asyncio.Future[Any]) -> None:
    """Its error is told where its result is read; where nobody reads any more, it is no news."""
    if not done.cancelled():
        done.exception()
