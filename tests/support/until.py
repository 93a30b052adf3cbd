"""Waiting for what comes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 120  # what a test waits for takes a moment; this only ends a test that fails


def until(condition: Callable[[], object]) -> None:
    """Returns once `condition()` is true; fails when it stays false."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "this does not come true"
        time.sleep(0.005)
