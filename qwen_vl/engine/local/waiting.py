"""The requests that wait, and whose turn is next. Not safe between threads: the engine locks.

First comes who has the fewest answers running, then who brings no new pictures, then who came
first. Nobody starves: every second turn goes to the one that waited longest, once that is over
PATIENCE_S. Neither one scope nor new pictures may fill the whole queue.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping

from qwen_vl.engine.answer import Answer
from qwen_vl.engine.local.prefill import fit_together
from qwen_vl.engine.local.scheduler import Request, Scheduler
from qwen_vl.engine.local.turns import is_full, share_of

PATIENCE_S = 10.0


class WaitingRequests:
    """At most `most` of them, in the order in which they came."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._requests: list[Request] = []
        self._patient = False  # whether the last turn went to the one that waited longest

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def is_full(self, scope: str, *, new_pictures: bool = False) -> bool:
        """Whether no more requests of this scope are taken; some places are for texts alone."""
        if len(self) >= self._most:
            return True
        alike = [r.scope for r in self._requests if bool(r.prepared.pixel_bytes) == new_pictures]
        return is_full(alike, scope, share_of(self._most) if new_pictures else self._most)

    def append(self, request: Request) -> None:
        self._requests.append(request)

    def remove(self, request: Request) -> None:
        self._requests.remove(request)

    def forget(self, answer: Answer) -> None:
        """Its reader has gone."""
        self._requests = [request for request in self._requests if request.answer is not answer]

    def clear(self) -> None:
        self._requests = []

    def take(self, scheduler: Scheduler) -> list[Request]:
        """The request whose turn it is, and those after it that can be prefilled with it."""
        if not self._requests or not scheduler.room:
            return []
        running = scheduler.running_by_scope
        taken = [self.next(running)]
        self.remove(taken[0])
        running[taken[0].scope] += 1
        keys, found = [taken[0].keys], [scheduler.found(taken[0])]
        for request in self.in_order(running) if fit_together(keys, found) else []:
            keys.append(request.keys)
            found.append(scheduler.found(request))
            if len(taken) >= scheduler.room or not fit_together(keys, found):
                break
            taken.append(request)
            self.remove(request)
        return taken

    def take_quick(self, scheduler: Scheduler) -> list[Request]:
        """The first that can be prefilled in one pass, if there is one and a row for it."""
        if not self._requests or not scheduler.room:
            return []
        for request in self.in_order(scheduler.running_by_scope):
            if scheduler.is_quick(request):
                self.remove(request)
                return [request]
        return []

    def next(self, running: Mapping[str, int]) -> Request:
        """Whose turn it is; `running` counts the answers of each scope. Does not remove it."""
        oldest = self._requests[0]
        late = time.monotonic() - oldest.queued_s > PATIENCE_S
        self._patient = late and not self._patient
        return oldest if self._patient else self.in_order(running)[0]

    def in_order(self, running: Mapping[str, int]) -> list[Request]:
        """All of them, the one whose turn is next first."""
        counts = Counter(running)

        def rank(request: Request) -> tuple[int, bool]:
            return counts[request.scope], bool(request.prepared.pixel_bytes)

        order, left = [], list(self._requests)
        while left:
            order.append(min(left, key=rank))
            left.remove(order[-1])
            counts[order[-1].scope] += 1
        return order
