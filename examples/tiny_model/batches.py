"""Batches to learn from: conversations and pages of print laid end to end.

Knows what a batch costs and how its pictures are laid out. Knows nothing of the model.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import numpy as np
import reading
from dialogues import make_sample
from encode import Encoded, Encoder
from network import MIN_PIXELS, PATCH_PX, patchify
from PIL import Image
from reading import TokenLabels
from shards import Shelf
from wide_documents import wide_page

VISUAL_COST = 5  # a visual token costs about as much as this many text tokens
# Rows x columns of visual tokens of a page, as many as pictures have.
GRIDS = (
    (6, 8), (8, 8), (8, 12), (12, 8), (12, 12), (9, 20), (12, 16), (14, 14), (16, 12), (8, 24),
    (16, 16), (16, 24),
)  # fmt: skip
LARGEST_PX = 64  # of a page's fonts: those of small pictures are enlarged
GRID_WEIGHTS = (1, 1, 1, 1, 2, 2, 5, 5, 2, 3, 2, 1)
# How small a picture may be, in parts of what the processor enlarges it to: whoever asks may want
# less detail, and wants it of a clip's frames.
STILL_DETAIL, FRAME_DETAIL = (1.0, 1.0, 1.0, 0.5), (1.0, 0.5, 0.5, 0.25)


def draw_conversations(
    encoder: Encoder,
    weights: dict[str, float],
    seed: int,
    budget: float,
    ease: float,
    wide: float,
    shelf: Shelf | None = None,
) -> list[Encoded]:
    """Conversations that together cost about `budget` text tokens; `weights` of the tasks.

    `wide` is the share of pictures drawn in other hands than the first; some lie on the `shelf`.
    """
    rng = random.Random(seed)
    batch: list[Encoded] = []
    while budget > 0:
        task = rng.choices(list(weights), list(weights.values()))[0]
        hand = rng.random() < wide
        own = seed * 1000 + len(batch)
        sample = make_sample(task, own, ease=ease, longer=True, wide=hand, shelf=shelf)
        detail = rng.choice(FRAME_DETAIL if len(sample.images) > 1 else STILL_DETAIL)
        one = encoder(sample, round(MIN_PIXELS * detail))
        visual = sum(len(labels.slots) for labels in one.labels)
        budget -= len(one.ids) + visual * (VISUAL_COST - 1)
        batch.append(one)
    return batch


def draw_pages(
    rng: random.Random, visual_tokens: float, min_px: int, wide: float
) -> list[tuple[np.ndarray, TokenLabels]]:
    """Pages of about so many visual tokens: uint8 pixels [H, W, 3] and labels of each.

    `wide` is the share of pages in other hands than the first.
    """
    cells = rng.choices(GRIDS, GRID_WEIGHTS)[0]
    pages = []
    for _ in range(max(1, round(visual_tokens / (cells[0] * cells[1])))):
        if rng.random() < wide:
            image, lines = wide_page(rng, cells, LARGEST_PX)
        else:
            image, lines = reading.page(rng, cells, min_px, LARGEST_PX)
        size = (cells[1] * reading.CELL_PX, cells[0] * reading.CELL_PX)
        labels = reading.token_labels(lines, image.size, cells)
        resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        pages.append((np.asarray(resized), labels))
    return pages


@dataclass(frozen=True)
class Pictures:
    """Pictures laid end to end, those of conversations first.

    `patches` is uint8 [P, 768], `grids` the (rows, cols) of each picture's patches, `labels` those
    of all visual tokens; `places` are those of the conversations' visual tokens, in the
    conversations laid end to end.
    """

    patches: np.ndarray
    grids: list[tuple[int, int]]
    labels: TokenLabels
    places: np.ndarray


def lay_out_pictures(batch: list[Encoded], pages: list[tuple[np.ndarray, TokenLabels]]) -> Pictures:
    """The conversations' pictures, then the pages."""
    pictures, places, offset = [], [np.zeros(0, dtype=np.int64)], 0
    for one in batch:
        for pixels, labels, start in zip(one.pixels, one.labels, one.starts, strict=True):
            pictures.append((pixels, labels))
            places.append(np.arange(len(labels.slots)) + offset + start)
        offset += len(one.ids)
    pixels, labels = zip(*pictures, *pages, strict=True)
    return Pictures(
        np.concatenate([patchify(picture) for picture in pixels]),
        [(picture.shape[0] // PATCH_PX, picture.shape[1] // PATCH_PX) for picture in pixels],
        TokenLabels(*(np.concatenate(parts) for parts in zip(*labels, strict=True))),
        np.concatenate(places),
    )


@dataclass(frozen=True)
class TalkBatch:
    """What one step of the talking stage learns from: conversations laid end to end, and pages.

    `spans` are the conversations' (start, stop) and `tasks` their tasks; `ids`, `trained`,
    `positions`, `sources` and `gists` as of `Encoded`.
    """

    tasks: list[str]
    spans: list[tuple[int, int]]
    ids: np.ndarray
    trained: np.ndarray
    positions: np.ndarray
    sources: np.ndarray
    gists: np.ndarray
    pictures: Pictures


def lay_out(batch: list[Encoded], pages: list[tuple[np.ndarray, TokenLabels]]) -> TalkBatch:
    """The conversations and pages as one batch."""
    ends = np.cumsum([0, *(len(one.ids) for one in batch)]).tolist()
    return TalkBatch(
        [one.task for one in batch],
        list(itertools.pairwise(ends)),
        np.concatenate([one.ids for one in batch]),
        np.concatenate([one.trained for one in batch]),
        np.concatenate([one.positions for one in batch], axis=1),
        np.concatenate([one.sources for one in batch]),
        np.concatenate([one.gists for one in batch]),
        lay_out_pictures(batch, pages),
    )
