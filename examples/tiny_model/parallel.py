"""Two single-threaded workers that share one set of weights.

Each worker draws and differentiates its own half of a batch; then each updates half of the
parameters. On a busy machine this is twice as fast as one process with two threads, because
nobody waits inside every matrix product for a thread that the system put aside.
Knows processes and barriers. Knows nothing of pictures or models.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.multiprocessing as mp

LONGEST_STEP_S = 60  # a step that took longer was paused meanwhile, and learnt nothing more


@dataclass(frozen=True)
class Team:
    """One worker's view of the team."""

    rank: int
    size: int
    barrier: Any
    seconds: torch.Tensor  # [1], shared: training time so far, written by worker 0 only

    def wait(self) -> None:
        """Until all workers are here; raises if one of them died."""
        self.barrier.wait(timeout=600)

    def spend(self, step_s: float) -> None:
        """Counts a step as training time; pauses are left out. For worker 0."""
        self.seconds.add_(min(step_s, LONGEST_STEP_S))


def _run(
    rank: int, size: int, barrier: Any, seconds: torch.Tensor, work: Callable[[Team], None]
) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        work(Team(rank, size, barrier, seconds))
    except BaseException:
        barrier.abort()
        raise


def run_team(size: int, seconds: float, work: Callable[[Team], None]) -> None:
    """Run `work` in `size` forked processes; shared tensors must be made before."""
    context = mp.get_context("fork")
    barrier = context.Barrier(size)
    shared = torch.tensor([seconds], dtype=torch.float64).share_memory_()
    workers = [
        context.Process(target=_run, args=(rank, size, barrier, shared, work), daemon=True)
        for rank in range(1, size)
    ]
    for worker in workers:
        worker.start()
    _run(0, size, barrier, shared, work)
    for worker in workers:
        worker.join()


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))
