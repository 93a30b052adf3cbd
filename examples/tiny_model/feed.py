"""Batches drawn ahead by worker processes, so that a GPU need not wait for pictures.

Knows processes and pipes. Knows nothing of what a batch holds.
"""

from __future__ import annotations

import fcntl
import queue
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import TypeVar

import torch
import torch.multiprocessing as mp

Batch = TypeVar("Batch")
AHEAD = 4  # batches that wait in this process
PIPE_BYTES = 1 << 20  # batches are large: with 64 KiB, reading takes turns with the GPU's thread


def draw_ahead(draw: Callable[[int], Batch], first: int, workers: int) -> Iterator[Batch]:
    """`draw(first)`, `draw(first + 1)`, ... without end, in order, from forked `workers`.

    The workers are forked at once: call it before CUDA is first used, and where no other threads
    run. They end when the iterator is closed, and with this process.
    """
    context = mp.get_context("fork")
    ends, processes = [], []
    for index in range(workers):
        here, there = context.Pipe(duplex=False)
        fcntl.fcntl(there.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        worker = context.Process(
            target=_work, args=(draw, first + index, workers, there), daemon=True
        )
        worker.start()
        there.close()
        ends.append(here)
        processes.append(worker)
    return _received(ends, processes)


def _received(ends: list[Connection], processes: list[mp.Process]) -> Iterator:
    # One thread unpacks while the GPU works.
    waiting: queue.Queue = queue.Queue(AHEAD)
    is_closed = threading.Event()

    def receive() -> None:
        while not is_closed.is_set():
            for end in ends:
                try:
                    waiting.put(end.recv())
                except (EOFError, OSError):  # the workers have ended
                    return

    threading.Thread(target=receive, daemon=True).start()
    try:
        while True:
            yield waiting.get()
    finally:
        is_closed.set()
        for process in processes:
            process.terminate()
            process.join()
        while not waiting.empty():  # the thread may wait for a place
            waiting.get()


def _work(draw: Callable[[int], Batch], step: int, stride: int, end: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        end.send(draw(step))
        step += stride
