"""Talking stage: the whole model learns to answer, while reading goes on as a side task.

Knows encoded conversations, the forward and the optimiser. Knows nothing of what is asked.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from dialogues import make_sample
from encode import CELL_PX, Encoded, Encoder
from network import MERGE, TextForward, VisionForward, patchify
from parallel import Team, cpu_count, run_team
from read_stage import GRID_WEIGHTS, GRIDS, draw_batch, reading_loss
from torch import Tensor, nn
from trainee import Trainee

# What a step may cost, in text tokens: a visual token costs about five of them.
STEP_COST = 10_000
VISUAL_COST = 5
DECAY_SHARE = 0.78  # the learning rate falls to zero over this last share of the time
WARM_UP_STEPS = 100
EASY_UNTIL = 0.7  # share of the time after which nothing is made easier any more
LOG_STEPS = 50


@dataclass(frozen=True)
class Recipe:
    """What the stage learns from; may be changed from one resume to the next."""

    weights: dict[str, float]  # task -> how often it is drawn
    pages: float  # share of the cost that goes to densely printed pages
    reading: float  # weight of the reading loss


RECIPE = Recipe(
    weights={
        "scene": 3.0,
        "locate": 2.5,
        "text": 2.5,
        "page": 1.5,
        "invoice": 0.8,
        "chart": 1.5,
        "screen": 0.8,
        "pair": 1.2,
        "clip": 1.2,
        "other": 0.15,
        "chat": 0.15,
    },
    pages=0.15,
    reading=1.0,
)


def draw_conversations(
    encoder: Encoder, recipe: Recipe, seed: int, budget: float, ease: float
) -> list[Encoded]:
    """Conversations that together cost about `budget` text tokens."""
    rng = random.Random(seed)
    tasks, weights = list(recipe.weights), list(recipe.weights.values())
    batch: list[Encoded] = []
    while budget > 0:
        task = rng.choices(tasks, weights)[0]
        one = encoder(make_sample(task, seed * 100 + len(batch), ease=ease))
        visual = sum(len(labels) for labels in one.labels)
        budget -= len(one.ids) + visual * (VISUAL_COST - 1)
        batch.append(one)
    return batch


def stack_pictures(
    batch: list[Encoded], pages: tuple[np.ndarray, np.ndarray] | None
) -> tuple[list[tuple[Tensor, int, int]], Tensor, Tensor]:
    """Pictures of equal size as groups, the pages last.

    Also the characters under all visual tokens in the groups' order [V, SLOTS], and for those that
    belong to a conversation their places in the conversations laid end to end.
    """
    groups: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray, int]]] = defaultdict(list)
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
        places += [np.arange(member[2], member[2] + len(member[1])) for member in members]
    if pages:
        pixels = torch.from_numpy(pages[0])
        scale = MERGE / CELL_PX
        rows, cols = (round(side * scale) for side in pixels.shape[1:3])
        stacked.append((patchify(pixels), rows, cols))
        labels.append(pages[1].reshape(-1, pages[1].shape[-1]))
    return (
        stacked,
        torch.from_numpy(np.concatenate(labels)),
        torch.from_numpy(np.concatenate(places)) if places else torch.zeros(0, dtype=torch.long),
    )


def answer_loss(
    model: nn.Module, hidden: Tensor, batch: list[Encoded]
) -> tuple[Tensor, dict[str, list[float]]]:
    """Mean loss over all trained tokens; per task, for each answer whether all of it was right."""
    ids = torch.from_numpy(np.concatenate([one.ids for one in batch]))
    trained = torch.from_numpy(np.concatenate([one.trained for one in batch]))
    at = trained.nonzero()[:, 0]
    logits = F.linear(hidden[at - 1], model.model.language_model.embed_tokens.weight).float()
    loss = F.cross_entropy(logits, ids[at])
    right = (logits.argmax(-1) == ids[at]).numpy()
    exact: dict[str, list[float]] = defaultdict(list)
    done = 0
    for one in batch:
        places = one.trained.nonzero()[0]
        first = np.flatnonzero(np.diff(places, prepend=-9) > 1)
        for part in np.split(right[done : done + len(places)], first[1:]):
            exact[one.task].append(float(part.all()))
        done += len(places)
    return loss, exact


def train_talking(trainee: Trainee, minutes: float, lr: float, recipe: Recipe = RECIPE) -> None:
    """Train everything for `minutes`."""
    trainee.prepare()
    run_team(
        cpu_count(), trainee.spent, lambda team: _talk(team, trainee, minutes * 60, lr, recipe)
    )


def _talk(team: Team, trainee: Trainee, seconds: float, lr: float, recipe: Recipe) -> None:
    model, head, encoder = trainee.model, trainee.head, trainee.encoder
    optimiser, step = trainee.optimiser, trainee.step
    see, talk = VisionForward(model.model.visual), TextForward(model.model.language_model)
    log = Log()
    before = time.time()
    while (spent := team.seconds.item()) < seconds:
        left = 1 - spent / seconds
        seed = step * team.size + team.rank
        rng = random.Random(seed)
        budget = STEP_COST / team.size
        ease = min(1.0, max(0.0, (EASY_UNTIL - 1 + left) / 0.2))
        batch = draw_conversations(encoder, recipe, seed, budget * (1 - recipe.pages), ease)
        cells = rng.choices(GRIDS, GRID_WEIGHTS)[0]
        count = round(budget * recipe.pages / (VISUAL_COST - 1) / (cells[0] * cells[1]))
        pages = draw_batch(rng, cells, count, 20, 32) if count else None
        groups, labels, places = stack_pictures(batch, pages)
        tokens, features = see(groups)
        spans = np.cumsum([0, *(len(one.ids) for one in batch)]).tolist()
        hidden = talk(
            torch.from_numpy(np.concatenate([one.ids for one in batch])),
            torch.from_numpy(np.concatenate([one.positions for one in batch], axis=1)),
            list(itertools.pairwise(spans)),
            places,
            tokens[: len(places)],
            [feature[: len(places)] for feature in features],
        )
        loss, exact = answer_loss(model, hidden, batch)
        reading, chars = reading_loss(head(tokens), labels)
        (loss + recipe.reading * reading).backward()
        team.wait()
        now = time.time()
        if team.rank == 0:
            team.seconds.add_(now - before)
        before = now
        optimiser.step(team, lr * min(1.0, (step + 1) / WARM_UP_STEPS, left / DECAY_SHARE))
        step += 1
        if team.rank:
            continue
        log.add(loss.item(), chars, exact, len(batch) * team.size)
        if step % LOG_STEPS == 0:
            log.show(step, spent)
        trainee.keep(step, team.seconds.item(), team.seconds.item() >= seconds)


class Log:
    """Averages between two printed lines."""

    def __init__(self) -> None:
        self.began, self.count = time.time(), 0
        self.losses: list[float] = []
        self.chars: list[float] = []
        self.exact: dict[str, list[float]] = defaultdict(list)

    def add(self, loss: float, chars: float, exact: dict[str, list[float]], count: int) -> None:
        self.losses.append(loss)
        self.chars.append(chars)
        self.count += count
        for task, values in exact.items():
            self.exact[task] += values

    def show(self, step: int, spent: float) -> None:
        tasks = " ".join(f"{task} {np.mean(got):.2f}" for task, got in sorted(self.exact.items()))
        rate = self.count / (time.time() - self.began)
        print(
            f"talk step {step} min {spent / 60:.1f} loss {np.mean(self.losses):.3f} "
            f"chars {np.mean(self.chars):.3f} conversations/s {rate:.1f} | {tasks}",
            flush=True,
        )
        self.__init__()
