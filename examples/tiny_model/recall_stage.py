"""Recalling stage: the text model learns to answer about pictures seen once before.

The encoder stands still: its visual tokens of many pictures are kept, and new questions are asked
about them again and again. That is several times more conversations per second than seeing anew.
Knows encoded conversations and the text model. Knows nothing of what is asked.
"""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass

import numpy as np
import torch
from dialogues import make_sample
from encode import Encoder
from network import TextForward, VisionForward
from parallel import Team, cpu_count, run_team
from talk_stage import LOG_STEPS, Log, answer_loss, stack_pictures
from torch import Tensor
from trainee import Trainee

TASKS = {
    "scene": 3.0,
    "locate": 3.0,
    "text": 2.5,
    "page": 1.0,
    "chart": 1.5,
    "pair": 1.2,
    "clip": 1.2,
    "invoice": 0.8,
    "screen": 0.8,
    "other": 0.1,
    "chat": 0.1,
}
PICTURES = 3500  # conversations' pictures that each worker keeps
STEP_TOKENS = 8000
FIRST_SEED = 20_000_000_000
EASY_SHARE = 0.5  # small pictures with little on them
END_RATE = 0.03  # of the learning rate, reached at the end of the stage


@dataclass(frozen=True)
class Seen:
    """What was drawn, and its visual tokens [V, 256] picture after picture."""

    task: str
    seed: int
    ease: float
    tokens: Tensor


def see_pictures(
    encoder: Encoder, see: VisionForward, seeds: range, tasks: dict[str, float]
) -> list[Seen]:
    """Draw one conversation's pictures per seed and keep their visual tokens."""
    kept = []
    for seed in seeds:
        rng = random.Random(seed)
        task = rng.choices(list(tasks), list(tasks.values()))[0]
        ease = float(rng.random() < EASY_SHARE)
        one = encoder(make_sample(task, seed, ease=ease))
        if not one.pixels:
            kept.append(Seen(task, seed, ease, torch.zeros(0, 256, dtype=torch.bfloat16)))
            continue
        groups, _, places = stack_pictures([one], None)
        with torch.no_grad():
            tokens, _ = see(groups, deepstack=False)
        kept.append(Seen(task, seed, ease, tokens[places.argsort()]))
    return kept


def train_recalling(trainee: Trainee, minutes: float, lr: float) -> None:
    """Train the text model for `minutes` on remembered pictures."""
    trainee.prepare()
    run_team(cpu_count(), trainee.spent, lambda team: _recall(team, trainee, minutes * 60, lr))


def _recall(team: Team, trainee: Trainee, seconds: float, lr: float) -> None:
    model, encoder, step = trainee.model, trainee.encoder, trainee.step
    began = time.time()
    first = FIRST_SEED + (step * team.size + team.rank) * PICTURES
    see = VisionForward(model.model.visual)
    memory = see_pictures(encoder, see, range(first, first + PICTURES), TASKS)
    if team.rank == 0:
        print(f"saw {PICTURES} in {time.time() - began:.0f} s", flush=True)
    team.wait()
    talk, log = TextForward(model.model.language_model), Log()
    before = time.time()
    while (spent := team.seconds.item()) < seconds:
        rng = random.Random(step * team.size + team.rank)
        batch, tokens, places, at = [], [], [], 0
        while at < STEP_TOKENS // team.size:
            seen = rng.choice(memory)
            one = encoder(make_sample(seen.task, seen.seed, ease=seen.ease, retold=step + 1))
            counts = [len(labels) for labels in one.labels]
            for start, count in zip(one.starts, counts, strict=True):
                places.append(torch.arange(at + start, at + start + count))
            batch.append(one)
            tokens.append(seen.tokens)
            at += len(one.ids)
        spans = np.cumsum([0, *(len(one.ids) for one in batch)]).tolist()
        hidden = talk(
            torch.from_numpy(np.concatenate([one.ids for one in batch])),
            torch.from_numpy(np.concatenate([one.positions for one in batch], axis=1)),
            list(itertools.pairwise(spans)),
            torch.cat(places),
            torch.cat(tokens),
            [],
        )
        loss, exact = answer_loss(model, hidden, batch)
        loss.backward()
        team.wait()
        now = time.time()
        if team.rank == 0:
            team.seconds.add_(now - before)
        before = now
        rate = 1 - (1 - END_RATE) * spent / seconds
        trainee.optimiser.step(team, lr * rate)
        step += 1
        if team.rank:
            continue
        log.add(loss.item(), 0.0, exact, len(batch) * team.size)
        if step % LOG_STEPS == 0:
            log.show(step, spent)
        trainee.keep(step, team.seconds.item(), team.seconds.item() >= seconds)
