"""Talking stage: the whole model learns to answer, while reading goes on as a side task.

Knows encoded conversations, the forward and the optimiser. Knows nothing of what is asked.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from batches import VISUAL_COST, TalkBatch, draw_conversations, draw_pages, lay_out
from documents import SMALLEST_PX
from encode import Encoder
from feed import draw_ahead
from network import TextForward, VisionForward
from parallel import Team, cpu_count, run_team
from shards import Shelf
from torch import Tensor, nn
from trainee import Trainee

STEP_COST, GPU_STEP_COST = 8_000, 144_000  # in text tokens
DECAY_SHARE = 0.7  # the learning rate falls to zero over this last share of the time
WARM_UP_STEPS = 50
EASY_UNTIL = 0.35  # share of the time after which nothing is made easier any more
EASE_FALLS = 0.25  # share of the time over which that goes
LOG_STEPS = 50


@dataclass(frozen=True)
class Recipe:
    """What the stage learns from; may be changed from one resume to the next."""

    weights: dict[str, float]  # task -> how often it is drawn
    pages: float  # share of the cost that goes to densely printed pages
    reading: float  # weight of what lies under each visual token
    looking: float  # weight of where the guided heads look
    gist: float  # weight of what each picture says as a whole
    wide: float  # share of pictures drawn in other hands than the first


RECIPE = Recipe(
    weights={
        "scene": 3.5,
        "locate": 1.5,
        "text": 7.0,
        "page": 0.1,
        "invoice": 3.0,
        "chart": 3.5,
        "screen": 1.0,
        "pair": 0.8,
        "clip": 2.0,
        "other": 0.3,
        "chat": 0.2,
        "illegible": 0.5,
    },
    pages=0.2,
    reading=1.0,
    looking=0.5,
    gist=1.0,
    wide=0.7,
)


def answer_loss(
    model: nn.Module, hidden: Tensor, batch: TalkBatch
) -> tuple[Tensor, dict[str, list[float]]]:
    """Mean loss over all trained tokens; per task, for each answer whether all of it was right."""
    at = batch.trained.nonzero()[0]
    rows = torch.from_numpy(at).to(hidden.device)
    truth = torch.from_numpy(batch.ids[at]).to(hidden.device)
    logits = F.linear(hidden[rows - 1], model.model.language_model.embed_tokens.weight).float()
    loss = F.cross_entropy(logits, truth)
    right = (logits.argmax(-1) == truth).cpu().numpy()
    exact: dict[str, list[float]] = defaultdict(list)
    for task, (start, stop) in zip(batch.tasks, batch.spans, strict=True):
        inside = slice(*np.searchsorted(at, (start, stop)))
        first = np.flatnonzero(np.diff(at[inside], prepend=-9) > 1)
        for part in np.split(right[inside], first[1:]):
            exact[task].append(float(part.all()))
    return loss, exact


def train_talking(trainee: Trainee, minutes: float, lr: float, recipe: Recipe = RECIPE) -> None:
    """Train everything for `minutes`: two workers on a CPU, or one process on a GPU."""
    batches = None
    if trainee.device.type == "cuda":
        draw = partial(draw_batch, trainee.encoder, trainee.shelf, recipe, GPU_STEP_COST, 0.0)
        batches = draw_ahead(draw, trainee.step, max(1, cpu_count() - 2))
    trainee.prepare()
    run_team(
        trainee.workers,
        trainee.spent,
        lambda team: _talk(team, trainee, minutes * 60, lr, recipe, batches),
    )


def draw_batch(
    encoder: Encoder, shelf: Shelf | None, recipe: Recipe, cost: float, ease: float, seed: int
) -> TalkBatch:
    """Conversations and pages that together cost about `cost` text tokens."""
    said = cost * (1 - recipe.pages)
    batch = draw_conversations(encoder, recipe.weights, seed, said, ease, recipe.wide, shelf)
    pages = []
    if recipe.pages:
        visual = cost * recipe.pages / VISUAL_COST
        pages = draw_pages(random.Random(seed), visual, SMALLEST_PX, recipe.wide)
    return lay_out(batch, pages)


def _talk(
    team: Team,
    trainee: Trainee,
    seconds: float,
    lr: float,
    recipe: Recipe,
    batches: Iterator[TalkBatch] | None,
) -> None:
    model, head, device = trainee.model, trainee.head, trainee.device
    optimiser, step = trainee.optimiser, trainee.step
    see, talk = VisionForward(model.model.visual), TextForward(model.model.language_model)
    log = Log()
    before = time.time()
    while (spent := team.seconds.item()) < seconds:
        left = 1 - spent / seconds
        if batches:
            batch = next(batches)
        else:
            ease = trainee.eased * min(1.0, max(0.0, (EASY_UNTIL - 1 + left) / EASE_FALLS))
            seed = step * team.size + team.rank
            cost = STEP_COST / team.size
            batch = draw_batch(trainee.encoder, trainee.shelf, recipe, cost, ease, seed)
        ids, positions, sources, gists, places = (
            torch.from_numpy(part).to(device)
            for part in (
                batch.ids,
                batch.positions,
                batch.sources,
                batch.gists,
                batch.pictures.places,
            )
        )
        tokens, features = see(batch.pictures.patches, batch.pictures.grids)
        hidden, gathered, looking = talk(
            ids,
            positions,
            batch.spans,
            places,
            tokens[: len(places)],
            [feature[: len(places)] for feature in features],
            sources,
        )
        loss, exact = answer_loss(model, hidden, batch)
        reading, chars = head.loss(tokens, batch.pictures.labels)
        gist, gist_right = head.gist_loss(gathered, gists)
        side = recipe.reading * reading + recipe.looking * looking + recipe.gist * gist
        (loss + side).backward()
        team.wait()
        now = time.time()
        if team.rank == 0:
            team.spend(now - before)
        before = now
        warmth = (step - trainee.step + 1) / WARM_UP_STEPS
        optimiser.step(team, lr * min(1.0, warmth, left / DECAY_SHARE))
        step += 1
        if team.rank:
            continue
        log.add(loss.item(), looking.item(), chars, exact, gist_right, len(batch.tasks) * team.size)
        if step % LOG_STEPS == 0:
            log.show(step, spent)
        trainee.keep(step, team.seconds.item(), team.seconds.item() >= seconds)


class Log:
    """Averages between two printed lines."""

    def __init__(self) -> None:
        self.began, self.count = time.time(), 0
        self.losses: list[float] = []
        self.looking: list[float] = []
        self.chars: list[float] = []
        self.exact: dict[str, list[float]] = defaultdict(list)
        self.gist: dict[str, list[float]] = defaultdict(list)

    def add(
        self,
        loss: float,
        looking: float,
        chars: float,
        exact: dict[str, list[float]],
        gist: dict[str, float],
        count: int,
    ) -> None:
        self.losses.append(loss)
        self.looking.append(looking)
        self.chars.append(chars)
        self.count += count
        for task, values in exact.items():
            self.exact[task] += values
        for name, share in gist.items():
            self.gist[name].append(share)

    def show(self, step: int, spent: float) -> None:
        tasks, gist = (
            " ".join(f"{name} {np.mean(got):.2f}" for name, got in sorted(shares.items()))
            for shares in (self.exact, self.gist)
        )
        rate = self.count / (time.time() - self.began)
        print(
            f"talk step {step} min {spent / 60:.1f} loss {np.mean(self.losses):.3f} "
            f"looking {np.mean(self.looking):.3f} "
            f"chars {np.mean(self.chars):.3f} conversations/s {rate:.1f} | {tasks} | {gist}",
            flush=True,
        )
        self.__init__()
