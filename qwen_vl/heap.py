"""How this process shares and gives back memory, where the C library is glibc.

Knows two of its functions; elsewhere these do nothing. Knows nothing of what the memory is for.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

_HEAPS = 2
_M_ARENA_MAX = -8  # from glibc's malloc.h


def share_heaps() -> None:
    """Lets all threads share two heaps.

    With one heap for each thread, what short-lived threads free stays scattered over all heaps. 640
    questions to the bundled model then grew the process by 70 MB; with two heaps it did not grow.
    """
    mallopt = _from_libc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)


def trim_heap() -> None:
    """Gives the free pages of the heap back to the system."""
    trim = _from_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _from_libc(name: str) -> Any:
    """A function of glibc; None where the C library is another one, with ways of its own."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
