"""Reading stage: the vision encoder learns to name the characters under each visual token.

Knows pages of print and the encoder. Knows nothing of questions or of the text model.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import numpy as np
import reading
import torch
import torch.nn.functional as F
from fonts import CHARS
from network import MERGE, VisionForward, patchify, whiten_patch_embed
from parallel import Team, cpu_count, run_team
from PIL import Image
from torch import Tensor, nn

if TYPE_CHECKING:
    from trainee import Trainee

TOKENS_PER_STEP = 1024
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
SHAPE_WEIGHT = 0.3
CLASSES = len(reading.SYMBOLS) + 1


class ReadingHead(nn.Module):
    """Predicts SLOTS characters, in order, from each visual token. Dropped after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, reading.SLOTS * CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., width] -> [..., SLOTS, CLASSES]"""
        return self.out(tokens).unflatten(-1, (reading.SLOTS, CLASSES))


def reading_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Mean loss over the characters and the first empty slot after them; share of chars right."""
    is_char = labels != reading.NOTHING
    first_empty = F.pad(is_char, (1, 0), value=True)[..., :-1] & ~is_char
    use = is_char | first_empty
    loss = F.cross_entropy(logits[use].float(), labels[use])
    # Shapes are a hundred times rarer than characters: they get a mean of their own.
    is_shape = labels > len(CHARS)
    if is_shape.any():
        loss = loss + SHAPE_WEIGHT * F.cross_entropy(logits[is_shape].float(), labels[is_shape])
    right = (logits[is_char].argmax(-1) == labels[is_char]).float().mean()
    return loss, float(right)


def draw_batch(
    rng: random.Random, cells: tuple[int, int], count: int, min_px: int, max_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """`count` pages: uint8 pixels [B, H, W, 3] and labels [B, tokens, SLOTS]."""
    pixels, labels = [], []
    for _ in range(count):
        image, lines = reading.page(rng, cells, min_px, max_px)
        size = (cells[1] * reading.CELL_PX, cells[0] * reading.CELL_PX)
        labels.append(reading.slot_labels(lines, image.size, cells))
        resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        pixels.append(np.asarray(resized))
    return np.stack(pixels), np.stack(labels)


def font_range(progress: float) -> tuple[int, int]:
    """Large glyphs first: the smallest font falls from 24 to 20 px over the first 40 %."""
    return round(24 - 4 * min(1.0, progress / 0.4)), 32


def train_reading(trainee: Trainee, minutes: float, lr: float) -> None:
    """Train the encoder and the reading head for `minutes`."""
    if trainee.is_new:
        rng = random.Random(1)
        sample = [torch.from_numpy(draw_batch(rng, (6, 8), 20, 16, 40)[0]) for _ in range(3)]
        patches = torch.cat([patchify(part).flatten(0, 1) for part in sample])
        whiten_patch_embed(trainee.model, patches)
    trainee.prepare()
    run_team(cpu_count(), trainee.spent, lambda team: _read(team, trainee, minutes * 60, lr))


def _read(team: Team, trainee: Trainee, seconds: float, lr: float) -> None:
    step, head, optimiser = trainee.step, trainee.head, trainee.optimiser
    forward = VisionForward(trainee.model.model.visual)
    # One stream picks the grid, the same in all workers; the other draws, different in each.
    shared, own = random.Random(step), random.Random(10_000 + 7 * step + team.rank)
    losses, rights, pictures = [], [], 0
    began = before = time.time()
    while (spent := team.seconds.item()) < seconds:
        rows, cols = shared.choices(GRIDS, GRID_WEIGHTS)[0]
        count = max(1, TOKENS_PER_STEP // team.size // (rows * cols))
        pixels, labels = draw_batch(own, (rows, cols), count, *font_range(spent / seconds))
        patches = patchify(torch.from_numpy(pixels))
        tokens, _ = forward([(patches, rows * MERGE, cols * MERGE)], deepstack=False)
        loss, right = reading_loss(head(tokens), torch.from_numpy(labels).flatten(0, 1))
        loss.backward()
        team.wait()
        now = time.time()
        if team.rank == 0:
            team.seconds.add_(now - before)
        before = now
        optimiser.step(team, lr * min(1.0, (step + 1) / 60))
        step += 1
        pictures += count * team.size
        losses.append(loss.item())
        rights.append(right)
        if team.rank:
            continue
        if step % 50 == 0:
            print(
                f"read step {step} min {spent / 60:.1f} loss {np.mean(losses):.3f} "
                f"chars {np.mean(rights):.3f} px>={font_range(spent / seconds)[0]} "
                f"pictures/s {pictures / (now - began):.1f}",
                flush=True,
            )
            losses, rights, pictures, began = [], [], 0, now
        trainee.keep(step, team.seconds.item(), team.seconds.item() >= seconds)
