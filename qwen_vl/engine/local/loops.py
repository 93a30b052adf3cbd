"""Tells when generated tokens have fallen into a loop that will not end by itself.

Small or quantized models get there under greedy decoding. Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Sequence

LOOKED_AT_EVERY = 32  # tokens; a loop has gone on for hundreds of them before it counts as one
LONGEST_CYCLE = 64  # tokens
LEAST_CYCLES = 10
LEAST_TOKENS = 240  # a ruled line or a row of equal table cells stays below this


def is_looping(tokens: Sequence[int]) -> bool:
    """Whether the end of `tokens` is one cycle over and over, looked at now and then."""
    if len(tokens) % LOOKED_AT_EVERY:
        return False
    for cycle in range(1, LONGEST_CYCLE + 1):
        span = max(LEAST_TOKENS, LEAST_CYCLES * cycle)
        if span > len(tokens):
            return False
        tail = tokens[-span:]
        if tail[cycle:] == tail[:-cycle]:
            return True
    return False
