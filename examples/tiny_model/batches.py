"""Batches to learn from: conversations, pages of print, and pictures of equal size side by side.

Knows what a batch costs and how its pictures are laid out. Knows nothing of the model.
"""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import reading
import torch
from dialogues import make_sample
from encode import CELL_PX, Encoded, Encoder
from network import MERGE, patchify
from PIL import Image
from reading import TokenLabels
from torch import Tensor

VISUAL_COST = 5  # a visual token costs about as much as this many text tokens
# Rows x columns of visual tokens; smaller grids are cheaper per picture and come up more often.
GRIDS = (
    (5, 5),
    (5, 8),
    (6, 6),
    (6, 8),
    (8, 6),
    (8, 8),
    (8, 10),
    (7, 12),
    (12, 8),
    (9, 16),
    (12, 12),
)
GRID_WEIGHTS = (3, 4, 4, 5, 3, 4, 4, 3, 2, 1.5, 1.5)


def draw_conversations(
    encoder: Encoder, weights: dict[str, float], seed: int, budget: float, ease: float
) -> list[Encoded]:
    """Conversations that together cost about `budget` text tokens; `weights` of the tasks."""
    rng = random.Random(seed)
    batch: list[Encoded] = []
    while budget > 0:
        task = rng.choices(list(weights), list(weights.values()))[0]
        one = encoder(make_sample(task, seed * 100 + len(batch), ease=ease, longer=True))
        visual = sum(len(labels.slots) for labels in one.labels)
        budget -= len(one.ids) + visual * (VISUAL_COST - 1)
        batch.append(one)
    return batch


def draw_pages(
    rng: random.Random, visual_tokens: float, min_px: int
) -> tuple[np.ndarray, reading.TokenLabels]:
    """Pages of about so many visual tokens: pixels [B, H, W, 3] and the labels of all tokens."""
    cells = rng.choices(GRIDS, GRID_WEIGHTS)[0]
    count = max(1, round(visual_tokens / (cells[0] * cells[1])))
    pixels, labels = [], []
    for _ in range(count):
        image, lines = reading.page(rng, cells, min_px, reading.LARGEST_PX)
        size = (cells[1] * reading.CELL_PX, cells[0] * reading.CELL_PX)
        labels.append(reading.token_labels(lines, image.size, cells))
        resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        pixels.append(np.asarray(resized))
    return np.stack(pixels), join_labels(labels)


def join_labels(labels: list[reading.TokenLabels]) -> reading.TokenLabels:
    """The labels of several pictures, one after the other."""
    return reading.TokenLabels(*(np.concatenate(parts) for parts in zip(*labels, strict=True)))


def stack_pictures(
    batch: list[Encoded], pages: tuple[np.ndarray, TokenLabels] | None
) -> tuple[list[tuple[Tensor, int, int]], TokenLabels, Tensor]:
    """Pictures of equal size as groups, the pages last.

    Also what lies under all visual tokens, in the groups' order, and for those that belong to a
    conversation their places in the conversations laid end to end.
    """
    groups: dict[tuple[int, int], list[tuple[np.ndarray, TokenLabels, int]]] = defaultdict(list)
    offset = 0
    for one in batch:
        for pixels, labels, start in zip(one.pixels, one.labels, one.starts, strict=True):
            groups[pixels.shape[:2]].append((pixels, labels, offset + start))
        offset += len(one.ids)
    stacked, labels, places = [], [], []
    for (height, width), members in groups.items():
        pixels = torch.from_numpy(np.stack([member[0] for member in members]))
        scale = MERGE / CELL_PX
        stacked.append((patchify(pixels), round(height * scale), round(width * scale)))
        labels += [member[1] for member in members]
        places += [np.arange(member[2], member[2] + len(member[1].slots)) for member in members]
    if pages:
        pixels = torch.from_numpy(pages[0])
        scale = MERGE / CELL_PX
        rows, cols = (round(side * scale) for side in pixels.shape[1:3])
        stacked.append((patchify(pixels), rows, cols))
        labels.append(pages[1])
    return (
        stacked,
        join_labels(labels),
        torch.from_numpy(np.concatenate(places)) if places else torch.zeros(0, dtype=torch.long),
    )
