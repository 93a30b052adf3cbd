"""Where the seconds of a start went, for the log."""

from __future__ import annotations

import time

import psutil


class Laps:
    """Stages that followed each other since this process began; `first` has just ended."""

    def __init__(self, first: str) -> None:
        self._began_s = psutil.Process().create_time()
        self._ends_s = [(first, time.time())]

    def end(self, stage: str) -> None:
        self._ends_s.append((stage, time.time()))

    def __str__(self) -> str:
        """As in: 5.9 s after the start: libraries loaded 4.0 s, model found 1.9 s."""
        told, before_s = [], self._began_s
        for stage, end_s in self._ends_s:
            told.append(f"{stage} {end_s - before_s:.1f} s")
            before_s = end_s
        return f"{before_s - self._began_s:.1f} s after the start: {', '.join(told)}"
