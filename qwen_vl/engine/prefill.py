"""A prompt -> its KV cache and the logits of the first new token.

Runs only what no earlier prompt has left in the prefix store, and the vision encoder only for new
pictures, one at a time. Checks between the parts whether anyone still waits for the answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from qwen_vl.engine.batching import Row, new_cache
from qwen_vl.engine.model import LoadedModel
from qwen_vl.engine.prefix import LayerStates
from qwen_vl.engine.prompt import Picture, Prompt


class VisionCache:
    """What the vision encoder made of the pictures seen last, by content, bounded in bytes."""

    def __init__(self, loaded: LoadedModel, limit_bytes: int) -> None:
        self._loaded = loaded
        self._limit_bytes = limit_bytes
        self._features: OrderedDict[str, list[torch.Tensor]] = OrderedDict()
        self._bytes = 0

    def features(self, picture: Picture) -> list[torch.Tensor]:
        """[tokens, hidden] of the merger, then of each deepstack level (none for Qwen2.5-VL)."""
        if picture.content in self._features:
            self._features.move_to_end(picture.content)
            return self._features[picture.content]
        device = self._loaded.device
        output = self._loaded.model.model.get_image_features(
            picture.pixels.to(device), picture.grid.to(device), return_dict=True
        )
        deepstack = getattr(output, "deepstack_features", None) or []
        features = [output.pooler_output[0], *(level[0] for level in deepstack)]
        self._remember(picture.content, features)
        return features

    def _remember(self, content: str, features: list[torch.Tensor]) -> None:
        self._features[content] = features
        self._bytes += _size_bytes(features)
        while self._bytes > self._limit_bytes:
            _, dropped = self._features.popitem(last=False)
            self._bytes -= _size_bytes(dropped)


def _size_bytes(features: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in features)


@dataclass(frozen=True)
class Prefilled:
    """A prompt that is in its cache but for its last token's successor."""

    logits: torch.Tensor  # [vocabulary], of the first new token
    row: Row
    cache: Any
    cached_tokens: int  # taken from the prefix store

    @property
    def states(self) -> list[LayerStates]:
        return [(layer.keys, layer.values) for layer in self.cache.layers]


def prefill(
    loaded: LoadedModel,
    vision: VisionCache,
    prompt: Prompt,
    start: Sequence[LayerStates],
    wanted: Callable[[], bool],
) -> Prefilled | None:
    """Runs what `start`, the states of the prompt's first tokens, does not hold yet.

    None as soon as `wanted` says no.
    """
    done = start[0][0].shape[2] if start else 0
    tail = prompt.token_ids[done:]
    features = []
    for picture in _pictures_in(tail, prompt.pictures, loaded.image_token_id):
        if not wanted():
            return None
        features.append(vision.features(picture))
    if not wanted():
        return None
    positions = loaded.positions(prompt)
    cache = new_cache(start)
    output = loaded.model(
        input_ids=torch.tensor([tail]).to(loaded.device),
        position_ids=positions[..., done:].to(loaded.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **({"mm_encoder_outputs": {"image": _joined(features)}} if features else {}),
    )
    # Rows 1 to 3 only: MRoPE lags behind the plain index, a picture advances it by its longer side.
    mrope = positions[1:] if loaded.accepts_images else positions
    row = Row(length=len(prompt.token_ids), next_position=int(mrope.max()) + 1)
    return Prefilled(output.logits[0, -1], row, cache, cached_tokens=done)


def _pictures_in(
    tail: Sequence[int], pictures: Sequence[Picture], image_token_id: int | None
) -> Sequence[Picture]:
    """The last pictures of a prompt: those whose tokens are in its tail."""
    visual = sum(token == image_token_id for token in tail)
    first = len(pictures)
    while visual > 0:
        first -= 1
        visual -= pictures[first].tokens
    return pictures[first:]


def _joined(features: list[list[torch.Tensor]]) -> SimpleNamespace:
    """The features of several pictures in the form that the model's forward reads."""
    levels = [list(level) for level in zip(*features, strict=True)]
    return SimpleNamespace(pooler_output=levels[0], deepstack_features=levels[1:])
