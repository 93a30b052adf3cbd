"""Before a request's turn: finds what the caches cover, and decodes only the rest.

Runs in the callers' threads. Knows nothing of the model or of the queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qwen_vl.engine.local.prefix import PrefixStore
from qwen_vl.engine.local.states import States
from qwen_vl.engine.local.vision import Features
from qwen_vl.engine.local.vision_cache import VisionCache
from qwen_vl.engine.model.pictures import PictureReader
from qwen_vl.engine.model.prompt import Prompt


@dataclass
class Prepared:
    """References to what was found, so that nothing can be evicted before the request's turn.

    `start` covers the first `covered` pictures of the prompt. `pictures` has an entry for each of
    the prompt's: its features, or its pixels [height, width, 3] uint8; None where it is covered,
    and before it is decoded.
    """

    start: States = field(default_factory=States)
    covered: int = 0
    pictures: list[Features | np.ndarray | None] = field(default_factory=list)

    @property
    def missing(self) -> list[int]:
        """Which of the prompt's pictures have to be decoded."""
        return [i for i in range(self.covered, len(self.pictures)) if self.pictures[i] is None]

    @property
    def pixel_bytes(self) -> int:
        """Memory that waits with the request."""
        return sum(one.nbytes for one in self.pictures if isinstance(one, np.ndarray))

    def clear(self) -> None:
        """Lets go of everything."""
        self.start, self.covered, self.pictures = States(), 0, []


def find(
    prompt: Prompt, keys: np.ndarray, scope: str, prefixes: PrefixStore, vision: VisionCache
) -> Prepared:
    """What the scope's caches hold of a prompt; a text is looked up when its turn has come."""
    if not prompt.pictures:
        return Prepared()
    found = Prepared(prefixes.peek(keys, scope))
    visual = int((keys[: found.start.tokens] < 0).sum())
    for picture in prompt.pictures:
        if visual > 0:
            found.covered += 1
        visual -= picture.tokens
    later = prompt.pictures[found.covered :]
    found.pictures = [*[None] * found.covered, *(vision.find(one, scope) for one in later)]
    return found


def decode(prompt: Prompt, prepared: Prepared, reader: PictureReader) -> None:
    """Adds the pixels of what is missing. Raises what `Undecoded.decode` raises."""
    made: dict[str, np.ndarray] = {}
    for i in prepared.missing:
        picture = prompt.pictures[i]
        if picture.content_key not in made:
            made[picture.content_key] = reader.pixels(picture)
        prepared.pictures[i] = made[picture.content_key]
