"""Untrusted PDF in, pictures of its pages out.

Knows the limits on bytes, pages and time. The document is read in a process of its own
(`decoders`); what happens there is in `decoders.documents`. Does not know the model, HTTP or pages
of the web.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from qwen_vl.config import Settings
from qwen_vl.errors import NotFound, UnsupportedMedia
from qwen_vl.media.decoders import POOL
from qwen_vl.media.decoders.wire import MAX_PAYLOAD_BYTES
from qwen_vl.media.kept import KeptImage
from qwen_vl.media.limits import BYTES_PER_MB, check_bytes

MEMORY_BYTES = 320 << 20  # a page's pixels, and the scans in it: A4 in 600 dpi takes some 100 MB
HEAD_BYTES = 1024  # in which a PDF says what it is; some begin with a few other bytes
_LIMITS = ("max_image_megapixels", "max_document_pages")


@dataclass(frozen=True)
class Page:
    """`number` counts from 1. The picture is RGB, on white, of 150 dpi or a little less."""

    number: int
    picture: KeptImage


@dataclass(frozen=True)
class Document:
    """`pages` are those that were asked for, in that order, of `page_count`."""

    page_count: int
    pages: tuple[Page, ...]


def is_document(head: bytes) -> bool:
    """Whether a file that begins so is a PDF, whatever its name says."""
    return b"%PDF-" in head[:HEAD_BYTES]


def read_pages(
    source: bytes | Path,
    settings: Settings,
    chosen: str = "",
    should_stop: Callable[[], bool] = lambda: False,
) -> Document:
    """The pages of a PDF; `chosen` is written as in "1-3, 7", and "" are the first ones.

    Never more than `max_document_pages`. Raises TooLarge (bytes, pages, or the time or memory to
    read it), UnsupportedMedia (no PDF), BadRequest (empty, damaged, protected, no such page), Busy
    (too many wait), Abandoned (`should_stop` said yes) and NotFound (the file is gone).
    """
    data = _bytes_of(source, settings)
    if not is_document(data[:HEAD_BYTES]):
        raise UnsupportedMedia("This is no document that can be read here. Send a PDF.")
    count = 0
    pages: list[Page] = []

    def take(told: dict[str, Any], pixels: bytearray) -> None:
        nonlocal count
        if "page_count" in told:
            count = told["page_count"]
            return
        width, height = told["size"]
        picture = Image.frombytes("RGB", (width, height), pixels)
        pages.append(Page(told["page"], KeptImage(picture)))

    POOL.run(
        {"do": "pages", "chosen": chosen}
        | {"settings": {name: getattr(settings, name) for name in _LIMITS}},
        data,
        what="document",
        limit_s=settings.max_extract_seconds,
        memory_bytes=MEMORY_BYTES,
        on_message=take,
        should_stop=should_stop,
    )
    return Document(count, tuple(pages))


def as_ranges(numbers: Sequence[int]) -> str:
    """[1, 2, 3, 7] -> "1-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _bytes_of(source: bytes | Path, settings: Settings) -> bytes:
    try:
        size_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
        most_mb = min(settings.max_document_mb, MAX_PAYLOAD_BYTES / BYTES_PER_MB)
        check_bytes(size_bytes, most_mb, "document")
        return source if isinstance(source, bytes) else source.read_bytes()
    except FileNotFoundError:
        raise NotFound("The document is no longer on the server. Add it again.") from None
