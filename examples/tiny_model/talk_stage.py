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
from batches import VISUAL_COST, draw_conversations, draw_pages, stack_pictures
from documents import SMALLEST_PX
from encode import Encoded
from network import TextForward, VisionForward
from parallel import Team, cpu_count, run_team
from torch import Tensor, nn
from trainee import Trainee

STEP_COST = 8_000  # in text tokens
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


RECIPE = Recipe(
    weights={
        "scene": 4.0,
        "locate": 1.0,
        "text": 7.0,
        "page": 0.1,
        "invoice": 2.0,
        "chart": 1.5,
        "screen": 0.7,
        "pair": 0.8,
        "clip": 2.5,
        "other": 0.1,
        "chat": 0.2,
    },
    pages=0.2,
    reading=1.0,
    looking=0.5,
    gist=1.0,
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
        budget = STEP_COST / team.size
        ease = trainee.eased * min(1.0, max(0.0, (EASY_UNTIL - 1 + left) / EASE_FALLS))
        batch = draw_conversations(encoder, recipe.weights, seed, budget * (1 - recipe.pages), ease)
        pages = None
        if recipe.pages:
            visual = budget * recipe.pages / VISUAL_COST
            pages = draw_pages(random.Random(seed), visual, SMALLEST_PX)
        groups, labels, places = stack_pictures(batch, pages)
        tokens, features = see(groups)
        spans = np.cumsum([0, *(len(one.ids) for one in batch)]).tolist()
        hidden, gathered, looking = talk(
            torch.from_numpy(np.concatenate([one.ids for one in batch])),
            torch.from_numpy(np.concatenate([one.positions for one in batch], axis=1)),
            list(itertools.pairwise(spans)),
            places,
            tokens[: len(places)],
            [feature[: len(places)] for feature in features],
            torch.from_numpy(np.concatenate([one.sources for one in batch])),
        )
        loss, exact = answer_loss(model, hidden, batch)
        reading, chars = head.loss(tokens, labels)
        gists = torch.from_numpy(np.concatenate([one.gists for one in batch]))
        gist, gist_right = head.gist_loss(gathered, gists)
        side = recipe.reading * reading + recipe.looking * looking + recipe.gist * gist
        (loss + side).backward()
        team.wait()
        now = time.time()
        if team.rank == 0:
            team.seconds.add_(now - before)
        before = now
        optimiser.step(team, lr * min(1.0, (step + 1) / WARM_UP_STEPS, left / DECAY_SHARE))
        step += 1
        if team.rank:
            continue
        log.add(loss.item(), looking.item(), chars, exact, gist_right, len(batch) * team.size)
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
