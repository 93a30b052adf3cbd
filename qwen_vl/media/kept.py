"""Pictures that the server made itself, such as keyframes, kept small while they wait.

Knows Pillow. Knows nothing of files from outside: those are `media`'s.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from io import BytesIO

from PIL import Image

QUALITY = 95  # of a JPEG with all its colour: no model tells it from the frame itself


class KeptImage:
    """A `schema.Undecoded`: a tenth of the memory that its pixels take, decoded in milliseconds."""

    def __init__(self, image: Image.Image) -> None:
        file = BytesIO()
        image.save(file, "JPEG", quality=QUALITY, subsampling=0)
        self._jpeg = file.getvalue()
        self.size = image.size

    @cached_property
    def key(self) -> str:
        return hashlib.blake2b(self._jpeg, digest_size=16).hexdigest()

    @property
    def jpeg(self) -> bytes:
        """The picture as a file."""
        return self._jpeg

    @property
    def held_bytes(self) -> int:
        return len(self._jpeg)

    def decode(self) -> Image.Image:
        """A new copy every time; nothing keeps it."""
        return Image.open(BytesIO(self._jpeg)).convert("RGB")

    def abandon(self) -> None:
        """There is nothing to end."""
