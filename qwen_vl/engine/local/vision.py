"""Pictures through the vision encoder: pixels in, features for the text model out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from qwen_vl.engine.model.load import LoadedModel
from qwen_vl.engine.model.pictures import Picture

# [tokens, hidden] of the merger, then of each deepstack level (none for Qwen2.5-VL)
Features = list[torch.Tensor]


@contextmanager
def between_blocks(loaded: LoadedModel, act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` before every block of the vision encoder; what it raises ends the encoding.

    A picture of 16,384 visual tokens takes minutes on a CPU, and the others would wait for it.
    """
    hooks = [
        block.register_forward_pre_hook(lambda *_: act())
        for block in loaded.model.model.visual.blocks
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def encode(loaded: LoadedModel, picture: Picture, pixels: np.ndarray) -> Features:
    """Runs the encoder on the processed `pixels` of one picture."""
    assert loaded.prompts.reader is not None
    patches = loaded.prompts.reader.patches(pixels, loaded.model.model.visual.dtype)
    with loaded.multiplying(len(patches)):
        output = loaded.model.model.get_image_features(
            patches.to(loaded.device), picture.grid_thw.to(loaded.device), return_dict=True
        )
    deepstack: Sequence[Sequence[torch.Tensor]] = getattr(output, "deepstack_features", None) or []
    return [output.pooler_output[0], *(level[0] for level in deepstack)]
