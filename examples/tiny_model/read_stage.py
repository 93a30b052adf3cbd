"""Reading stage: the vision encoder learns to name the characters under each visual token.

Knows pages of print and the encoder. Knows nothing of questions or of the text model.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import reading
import torch
import torch.nn.functional as F
from batches import VISUAL_COST, draw_conversations, draw_pages, lay_out_pictures
from documents import smallest_px
from fonts import CHARS
from gist import GIST
from network import VisionForward, levels, whiten_patch_embed
from parallel import Team, cpu_count, run_team
from torch import Tensor, nn

if TYPE_CHECKING:
    from trainee import Trainee

TOKENS_PER_STEP = 1280
WIDE = 0.5  # share of pictures drawn in other hands than the first
PAGES = 0.5  # share of pages full of print; the rest are the pictures of conversations
PICTURES = {
    "scene": 2.0,
    "locate": 0.5,
    "text": 2.0,
    "invoice": 1.0,
    "chart": 1.5,
    "screen": 1.0,
    "clip": 1.0,
}
SHAPE_WEIGHT, HINT_WEIGHT = 0.3, 3.0
DECAY_SHARE, END_RATE = 0.3, 0.2  # the learning rate falls to a fifth in the last third
CLASSES = len(reading.SYMBOLS) + 1


class ReadingHead(nn.Module):
    """Predicts what lies under each visual token: SLOTS characters in order, and the hints.

    And from the text model's hidden states the gist of each picture, where it ends. Linear, so that
    all of it stands in the tokens for the text model to use. Dropped afterwards.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, reading.SLOTS * CLASSES)
        self.hints = nn.Linear(width, sum(count + 1 for count in reading.HINTS.values()))
        self.gist = nn.Linear(width, sum(count + 1 for count in GIST.values()))

    def loss(self, tokens: Tensor, labels: reading.TokenLabels) -> tuple[Tensor, float]:
        """The loss over tokens [T, width]; the share of characters right."""
        slots, hints = (torch.from_numpy(part).to(tokens.device) for part in labels)
        logits = self.out(tokens).unflatten(-1, (reading.SLOTS, CLASSES))
        loss, right = slots_loss(logits, slots)
        return loss + HINT_WEIGHT * asked_loss(self.hints(tokens), hints, reading.HINTS), right

    def gist_loss(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss over hidden states [T, width]; per question the share right."""
        at = labels.any(-1).nonzero()[:, 0]
        logits = self.gist(F.rms_norm(hidden[at], (hidden.shape[-1],)))
        return asked_loss(logits, labels[at], GIST), asked_right(logits, labels[at], GIST)


def asked_loss(logits: Tensor, labels: Tensor, counts: dict[str, int]) -> Tensor:
    """Mean over the questions of their mean losses where they are asked."""
    losses = [
        F.cross_entropy(part, truth)
        for _, part, truth in each_asked(logits.float(), labels, counts)
    ]
    return torch.stack(losses).mean() if losses else logits.new_zeros((), dtype=torch.float32)


def asked_right(logits: Tensor, labels: Tensor, counts: dict[str, int]) -> dict[str, float]:
    """Per question the share right where it is asked."""
    return {
        name: float((part.argmax(-1) == truth).float().mean())
        for name, part, truth in each_asked(logits, labels, counts)
    }


def each_asked(
    logits: Tensor, labels: Tensor, counts: dict[str, int]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, logits and labels of each question where it is asked."""
    sizes = [count + 1 for count in counts.values()]
    for name, part, truth in zip(counts, logits.split(sizes, -1), labels.unbind(-1), strict=True):
        asked = truth > 0
        if asked.any():
            yield name, part[asked], truth[asked]


def slots_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Mean loss over the characters and the first empty slot after them; share of chars right."""
    is_char = labels != reading.NOTHING
    first_empty = F.pad(is_char, (1, 0), value=True)[..., :-1] & ~is_char
    use = is_char | first_empty
    loss = F.cross_entropy(logits[use].float(), labels[use])
    # Shapes are a hundred times rarer than characters: they get a mean of their own.
    is_shape = (labels > len(CHARS)) & (labels < reading.SYMBOL_IDS[" "])
    if is_shape.any():
        loss = loss + SHAPE_WEIGHT * F.cross_entropy(logits[is_shape].float(), labels[is_shape])
    right = (logits[is_char].argmax(-1) == labels[is_char]).float().mean()
    return loss, float(right)


def train_reading(trainee: Trainee, minutes: float, lr: float) -> None:
    """Train the encoder and the reading head for `minutes`."""
    if trainee.is_new:
        rng = random.Random(1)
        pages = [page for _ in range(3) for page in draw_pages(rng, 1000, 20, 0)]
        patches = levels(torch.from_numpy(lay_out_pictures([], pages).patches))
        whiten_patch_embed(trainee.model, patches)
    trainee.prepare()
    run_team(cpu_count(), trainee.spent, lambda team: _read(team, trainee, minutes * 60, lr))


def _read(team: Team, trainee: Trainee, seconds: float, lr: float) -> None:
    step, head, optimiser = trainee.step, trainee.head, trainee.optimiser
    forward = VisionForward(trainee.model.model.visual)
    losses, rights, count = [], [], 0
    began = before = time.time()
    while (spent := team.seconds.item()) < seconds:
        seed = step * team.size + team.rank
        budget = TOKENS_PER_STEP / team.size
        ease = trainee.eased * max(0.0, 1 - 2 * spent / seconds)
        batch = draw_conversations(
            trainee.encoder,
            PICTURES,
            seed,
            budget * (1 - PAGES) * VISUAL_COST,
            ease,
            WIDE,
            trainee.shelf,
        )
        pages = draw_pages(random.Random(seed), budget * PAGES, smallest_px(ease), WIDE)
        pictures = lay_out_pictures(batch, pages)
        tokens, _ = forward(pictures.patches, pictures.grids, deepstack=False)
        loss, right = head.loss(tokens, pictures.labels)
        loss.backward()
        team.wait()
        now = time.time()
        if team.rank == 0:
            team.spend(now - before)
        before = now
        rate = max(END_RATE, min(1.0, (step + 1) / 60, (1 - spent / seconds) / DECAY_SHARE))
        optimiser.step(team, lr * rate)
        step += 1
        count += len(pictures.grids) * team.size
        losses.append(loss.item())
        rights.append(right)
        if team.rank:
            continue
        if step % 50 == 0:
            print(
                f"read step {step} min {spent / 60:.1f} loss {np.mean(losses):.3f} "
                f"chars {np.mean(rights):.3f} ease {ease:.2f} "
                f"pictures/s {count / (now - began):.1f}",
                flush=True,
            )
            losses, rights, count, began = [], [], 0, now
        trainee.keep(step, team.seconds.item(), team.seconds.item() >= seconds)
