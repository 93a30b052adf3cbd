"""An exception inside a request -> the error that its user reads."""

from __future__ import annotations

import torch

from qwen_vl.engine.model import machine
from qwen_vl.errors import EngineFailed


def in_words(error: Exception) -> EngineFailed:
    """Says so where memory ran out, and gives the GPU allocator's free memory back."""
    if not machine.is_out_of_memory(error):
        return EngineFailed("The model failed on this request. The server's log says why.")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return EngineFailed(
        "There was not enough memory for this answer: use fewer or smaller pictures "
        "(image detail), or start a new conversation."
    )
