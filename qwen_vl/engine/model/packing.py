"""Puts products with int8 on both sides in the place of a model's layers, at once or by and by.

Packing the weights may take seconds, and cannot be kept for the next start. Layer and product
stand for the same weights, so a model may answer while one takes the other's place: it is slower,
and a little less exact, until all are packed. Knows nothing of families, prompts or files.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch
from torch import nn

from qwen_vl.engine.model.both_sides import Int8Part, Judgement, Product, SharedProduct
from qwen_vl.engine.model.machine import is_out_of_memory, release_memory
from qwen_vl.engine.model.quantize import Int8Linear
from qwen_vl.heap import release_file_pages, trim_heap

AT_ONCE_BYTES = 50e6  # of weights: half a second at most
_TRIM_BYTES = 128e6  # of packed weights: what they took before leaves holes that nothing fits into
_NICE = 5  # a quarter of a core that others want, too: at less, a busy server would stay slow

log = logging.getLogger(__name__)


class Packing:
    """The judged layers of a model that are still to be packed."""

    def __init__(self, model: nn.Module, judgement: Judgement, product: type[Product]) -> None:
        self._model, self._product = model, product
        groups = ((paths.split(","), columns) for paths, columns in judgement.items())
        # The largest first, so that threads end together.
        self._left = deque(sorted(groups, key=lambda one: self._size_bytes(one[0]), reverse=True))
        self._stopped = False
        self._thread = threading.Thread(target=self._in_background, name="packing", daemon=True)

    def run(self, begin: Callable[[], None] = lambda: None) -> None:
        """Packs all, on as many threads as the product wants; each calls `begin` first.

        What is packed takes its place right away, so that memory rises by one layer at a time.
        """
        if not self._left:
            return
        threads = torch.get_num_threads() if self._product.packs_on_one_thread else 1
        with ThreadPoolExecutor(threads, "packing", begin) as pool:
            for done in [pool.submit(self._work) for _ in range(threads)]:
                done.result()
        release_memory()  # what the codes took

    def start(self) -> None:
        """Packs in the background, behind the model's answers; few weights at once."""
        if sum(self._size_bytes(paths) for paths, _ in self._left) > AT_ONCE_BYTES:
            self._thread.start()
        else:
            self.run()

    def wait(self) -> None:
        """Until what `start` began has ended."""
        if self._thread.is_alive():
            self._thread.join()

    def stop(self) -> None:
        """Has it end after the layers that are being packed; the others stay as they are."""
        self._stopped = True
        self.wait()

    def _in_background(self) -> None:
        start_s = time.perf_counter()
        try:
            self.run(_lower_priority)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._stopped = True
            log.warning("No memory is left to pack more layers: those stay slower than they could")
        if not self._stopped:
            log.info("Layers packed for speed in %.1f s", time.perf_counter() - start_s)

    @torch.inference_mode()
    def _work(self) -> None:
        packed_bytes = 0
        while not self._stopped:
            try:
                paths, columns = self._left.popleft()
            except IndexError:
                return
            layers = self._layers(paths)
            one = self._product(layers, columns if len(columns) else None)
            if len(layers) == 1:
                self._model.set_submodule(paths[0], one)
            else:
                shared, start = SharedProduct(one, len(layers)), 0
                for path, layer in zip(paths, layers, strict=True):
                    self._model.set_submodule(path, Int8Part(shared, start, layer))
                    start += layer.out_features
            for layer in layers:  # what they were mapped from
                release_file_pages(layer.codes.data_ptr(), layer.codes.nbytes)
                packed_bytes += layer.codes.nbytes
            del layers, layer
            if packed_bytes > _TRIM_BYTES:
                packed_bytes = 0
                trim_heap()

    def _size_bytes(self, paths: list[str]) -> int:
        return sum(layer.codes.nbytes for layer in self._layers(paths))

    def _layers(self, paths: list[str]) -> list[Int8Linear]:
        return [cast(Int8Linear, self._model.get_submodule(path)) for path in paths]


def _lower_priority() -> None:
    """Of this thread, where a system has that."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
