"""Recalling stage: the text model learns to answer about pictures that it remembers.

The encoder stands still: what it made of some thousand pictures is kept, and new questions are
asked about them, several times each, while a few are always being exchanged for fresh ones. That is
several times more conversations per second than seeing every picture anew.
Knows encoded conversations and the text model. Knows nothing of what is asked.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import torch
from batches import lay_out, lay_out_pictures
from dialogues import make_sample
from encode import Encoder
from network import TextForward, VisionForward
from parallel import Team, cpu_count, run_team
from talk_stage import LOG_STEPS, RECIPE, Log, answer_loss
from torch import Tensor
from trainee import Trainee

PICTURES = 2500  # conversations' pictures that each worker remembers
FRESH = 8  # of them are exchanged in every step
STEP_TOKENS = 6000
FIRST_SEED, WORKER_SEEDS = 20_000_000_000, 1_000_000_000
END_RATE = 0.02  # of the learning rate, reached at the end of the stage


@dataclass(frozen=True)
class Seen:
    """What was drawn, and for its visual tokens in their order the tokens and each deepstack level.

    `levels` are [V, 256] each.
    """

    task: str
    seed: int
    ease: float
    wide: bool
    levels: list[Tensor]


class Memory:
    """Pictures that a worker remembers; the oldest go first."""

    def __init__(self, encoder: Encoder, see: VisionForward, first_seed: int) -> None:
        self.encoder, self.see, self.seed = encoder, see, first_seed
        self.seen: list[Seen] = []

    @torch.no_grad()
    def look(self, ease: float) -> None:
        """Draws the pictures of one more conversation and remembers them."""
        self.seed += 1
        rng = random.Random(self.seed)
        task = rng.choices(list(RECIPE.weights), list(RECIPE.weights.values()))[0]
        easy = float(rng.random() < ease)
        wide = rng.random() < RECIPE.wide
        one = self.encoder(make_sample(task, self.seed, ease=easy, wide=wide))
        levels = [torch.zeros(0, 256, dtype=torch.bfloat16)] * 3
        if one.pixels:
            pictures = lay_out_pictures([one], [])
            tokens, features = self.see(pictures.patches, pictures.grids)
            levels = [tokens, *features]
        if len(self.seen) >= PICTURES:
            self.seen.pop(0)
        self.seen.append(Seen(task, self.seed, easy, wide, levels))


def train_recalling(trainee: Trainee, minutes: float, lr: float) -> None:
    """Train the text model for `minutes` on remembered pictures."""
    trainee.prepare()
    run_team(cpu_count(), trainee.spent, lambda team: _recall(team, trainee, minutes * 60, lr))


def _recall(team: Team, trainee: Trainee, seconds: float, lr: float) -> None:
    model, encoder, step = trainee.model, trainee.encoder, trainee.step
    first = FIRST_SEED + team.rank * WORKER_SEEDS + step * FRESH
    memory = Memory(encoder, VisionForward(model.model.visual), first)
    while len(memory.seen) < PICTURES:
        memory.look(ease=0.1)
    if team.rank == 0:
        print(f"{PICTURES} conversations are remembered", flush=True)
    team.wait()
    talk, log = TextForward(model.model.language_model), Log()
    before = time.time()
    while (spent := team.seconds.item()) < seconds:
        rng = random.Random(step * team.size + team.rank)
        for _ in range(FRESH):
            memory.look(ease=0.1)
        batch, levels, places, at = [], [], [], 0
        while at < STEP_TOKENS // team.size:
            seen = rng.choice(memory.seen)
            sample = make_sample(
                seen.task,
                seen.seed,
                ease=seen.ease,
                longer=True,
                retold=rng.getrandbits(32),
                wide=seen.wide,
            )
            one = encoder(sample)
            for start, labels in zip(one.starts, one.labels, strict=True):
                places.append(torch.arange(at + start, at + start + len(labels.slots)))
            batch.append(one)
            levels.append(seen.levels)
            at += len(one.ids)
        tokens, *features = (torch.cat(level) for level in zip(*levels, strict=True))
        told = lay_out(batch, [])
        hidden, gathered, looking = talk(
            torch.from_numpy(told.ids),
            torch.from_numpy(told.positions),
            told.spans,
            torch.cat(places),
            tokens,
            features,
            torch.from_numpy(told.sources),
        )
        loss, exact = answer_loss(model, hidden, told)
        gist, gist_right = trainee.head.gist_loss(gathered, torch.from_numpy(told.gists))
        (loss + RECIPE.looking * looking + RECIPE.gist * gist).backward()
        team.wait()
        now = time.time()
        if team.rank == 0:
            team.spend(now - before)
        before = now
        rate = 1 - (1 - END_RATE) * spent / seconds
        trainee.optimiser.step(team, lr * rate)
        step += 1
        if team.rank:
            continue
        log.add(loss.item(), looking.item(), 0.0, exact, gist_right, len(batch) * team.size)
        if step % LOG_STEPS == 0:
            log.show(step, spent)
        trainee.keep(step, team.seconds.item(), team.seconds.item() >= seconds)
