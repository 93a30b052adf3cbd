"""What the vision encoder made of the pictures seen last, by scope and content, bounded in bytes.

Features serve the scope whose picture it was; those of the server's own examples serve everybody.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path

import numpy as np

from qwen_vl import EXAMPLES
from qwen_vl.config import Settings
from qwen_vl.engine.local.store import SHARED, FairStore
from qwen_vl.engine.local.vision import Features, encode
from qwen_vl.engine.model.load import LoadedModel
from qwen_vl.engine.model.pictures import Picture
from qwen_vl.errors import UserError
from qwen_vl.media.pictures import open_image


def keys_of_examples(settings: Settings, folder: Path = EXAMPLES / "images") -> frozenset[str]:
    """The keys of the pictures that come with the app; none if they are not there."""
    keys = set()
    for path in folder.glob("*.png"):
        try:
            keys.add(open_image(path, settings).key)
        except UserError:  # over a limit: then nobody can ask about it
            continue
    return frozenset(keys)


class VisionCache:
    """`examples` are the keys of pictures that are the server's own. Any thread may look."""

    def __init__(self, limit_bytes: int) -> None:
        self.examples: Collection[str] = ()
        self._kept: FairStore[Features] = FairStore(limit_bytes)
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    @property
    def size_bytes(self) -> int:
        return self._kept.size_bytes

    def find(self, picture: Picture, scope: str) -> Features | None:
        """What is kept of this picture for this scope. Does not count."""
        with self._lock:
            return self._kept.get(self._scope(picture, scope), picture.content_key)

    def features(
        self, loaded: LoadedModel, picture: Picture, prepared: Features | np.ndarray, scope: str
    ) -> Features:
        """Runs the encoder on `prepared` pixels, unless they are features already, or kept."""
        found = prepared if isinstance(prepared, list) else self.find(picture, scope)
        if found is not None:
            self.hits += 1
            return found
        assert isinstance(prepared, np.ndarray)
        self.misses += 1
        made = encode(loaded, picture, prepared)
        size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in made)
        with self._lock:
            self._kept.put(self._scope(picture, scope), picture.content_key, made, size_bytes)
        return made

    def _scope(self, picture: Picture, scope: str) -> str:
        return SHARED if picture.key in self.examples else scope
