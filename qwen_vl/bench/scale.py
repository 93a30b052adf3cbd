"""`python -m qwen_vl.bench.scale`: how many replicas so many viewers need, by simulation.

A viewer uploads a picture or a clip, asks several questions about it, reads each answer, and begins
anew. Replicas read prompts piece by piece, with a token for every running answer in between, and
take questions without new pictures first, as the engine does. They remember conversations while
these fit, die now and then, and refuse what their queue does not hold. `--check` runs two real
servers and simulates the same. Knows times that were measured; knows nothing of models.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw

PIECE_S = 0.03  # of reading a prompt, before running answers get a token: the engine's BREATH_S
RETRY_S = 5.0  # after a refusal, as Retry-After says
PATIENCE_S = 10.0  # then the first come gets every second turn
RESTART_S = 60.0  # of a replica that died
WANTED_S = 3.0  # p95 of the wait for the first word
VIEWERS = (10, 100, 1_000, 10_000)


@dataclass(frozen=True)
class Times:
    """How long a replica takes, in seconds."""

    start_s: float  # per prompt, whatever its length
    see_s: float  # per picture of 256 tokens that no cache holds
    read_s: float  # per new token of a prompt
    step_s: float  # a token for every running answer
    row_s: float  # more for each of these answers

    def prompt_s(self, pictures: int, tokens: int) -> float:
        return self.start_s + pictures * self.see_s + tokens * self.read_s

    def decode_s(self, rows: int) -> float:
        return self.step_s + rows * self.row_s


# Forward passes of Qwen3-VL-8B's architecture in bfloat16: see docs/scale.md.
H200_8B = Times(start_s=0.03, see_s=0.018, read_s=32e-6, step_s=0.030, row_s=0.0001)


@dataclass(frozen=True)
class World:
    """What viewers do and what serves them."""

    viewers: int
    replicas: int
    times: Times = H200_8B
    affinity: bool = True  # later turns go to the replica that has read the earlier ones
    rows: int = 32  # --max-batch
    queue: int = 16  # --max-queue
    kept: int = 200  # conversations that a replica's prefix cache holds
    pictures_kept: int = 1000  # pictures that its vision cache holds
    turns: int = 4
    clips: float = 0.2  # of conversations; 16 frames of 64 tokens. The others have one picture
    clip_mb: float = 8.0
    picture_mb: float = 0.5
    question_tokens: int = 40
    answers: tuple[int, ...] = (40, 80, 120, 160, 300)  # their tokens, drawn from these
    think_s: float = 30.0  # between an answer and the next question, on average
    uplink_mbit: float = 20.0  # of a viewer
    link_mbit: float = 1000.0  # of the server, shared
    mean_life_s: float = 86_400.0  # of a replica
    seconds: float = 420.0
    warm_s: float = 120.0  # not counted


@dataclass
class Figures:
    """What came of it."""

    waits_s: list[float] = field(default_factory=list)
    asked: int = 0
    refused: int = 0
    lost: int = 0  # answers that had begun on a replica that died
    tokens: int = 0
    prefix_hits: int = 0
    later_turns: int = 0
    vision_hits: int = 0
    pictures: int = 0
    upload_mb: float = 0.0

    def wait_s(self, part: float) -> float:
        ordered = sorted(self.waits_s)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


@dataclass
class _Question:
    conversation: int
    viewer: _Viewer
    pictures: int
    history: int  # tokens of the conversation before this question
    new: int  # tokens of the question, its pictures included
    left: int  # tokens of the answer
    asked_s: float = 0.0
    work_s: float = 0.0  # of reading that is left
    begun: bool = False


class _Viewer:
    def __init__(self) -> None:
        self.turn = 0
        self.conversation = -1
        self.pictures = 0
        self.history = 0


class _Replica:
    """One engine: a queue, prompts that are being read, and a batch."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: list[_Question] = []
        self.reading: list[_Question] = []  # the last one; a quick one is let in before the first
        self.is_patient = False  # whether the last turn went to the first come
        self.rows: list[_Question] = []
        self.prefixes: OrderedDict[int, None] = OrderedDict()
        self.features: OrderedDict[int, None] = OrderedDict()
        self.busy = False
        self.alive = True
        self.task = 0  # the piece of work that is under way; the events of earlier ones are void
        self.began_s = 0.0  # of a stretch of steps without a prompt beside them
        self.step_s = 0.0  # of each of these; 0 while a prompt is read
        self.is_cut = False  # it ends with the step that is under way

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.rows) + len(self.reading)

    @property
    def rows_taken(self) -> int:
        return len(self.rows) + len(self.reading)

    def is_quick(self, question: _Question) -> bool:
        """Whether it brings no pictures that are to be encoded."""
        conversation = question.conversation
        return conversation in self.prefixes or conversation in self.features

    def next_one(self, now_s: float) -> _Question:
        """Takes out whose turn it is."""
        is_late = now_s - self.waiting[0].asked_s > PATIENCE_S
        self.is_patient = is_late and not self.is_patient
        quick = None if self.is_patient else self.next_quick()
        return quick or self.waiting.pop(0)

    def next_quick(self) -> _Question | None:
        """Takes out the first that brings no pictures."""
        found = next(filter(self.is_quick, self.waiting), None)
        if found is not None:
            self.waiting.remove(found)
        return found


def _keep(store: OrderedDict[int, None], key: int, most: int) -> bool:
    """Whether it was there; it is the newest from now on."""
    found = key in store
    store[key] = None
    store.move_to_end(key)
    if len(store) > most:
        store.popitem(last=False)
    return found


class Simulation:
    """`run` gives the figures of a world; equal seeds give equal figures."""

    def __init__(self, world: World, seed: int = 1) -> None:
        self.world, self.figures = world, Figures()
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._conversations = itertools.count()
        self._now_s = self._link_free_s = 0.0
        self._replicas = [_Replica(number) for number in range(world.replicas)]
        for _ in range(world.viewers):
            begins_s = self._random.uniform(0, 2 * world.think_s)
            self._after(begins_s, partial(self._next_turn, _Viewer()))
        for replica in self._replicas:
            self._after(self._life_s(), partial(self._die, replica))

    def run(self) -> Figures:
        while self._events and self._events[0][0] < self.world.seconds:
            self._now_s, _, happen = heapq.heappop(self._events)
            happen()
        for replica in self._replicas:  # stretches that the end cuts
            if replica.step_s:
                done = int((self.world.seconds - replica.began_s) / replica.step_s)
                self._count_steps(replica, done, self.world.seconds)
        return self.figures

    def _count_steps(self, replica: _Replica, steps: int, ended_s: float) -> None:
        """Those of a stretch that ended so late that they count."""
        late_s = ended_s - self.world.warm_s
        counted = min(steps, int(late_s / replica.step_s) + 1) if replica.step_s else steps
        if late_s >= 0:
            self.figures.tokens += counted * len(replica.rows)

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + seconds, next(self._order), happen))

    def _life_s(self) -> float:
        return self._random.expovariate(1 / self.world.mean_life_s)

    @property
    def _counts(self) -> bool:
        return self._now_s >= self.world.warm_s

    # --- viewers ---

    def _next_turn(self, viewer: _Viewer) -> None:
        world, new = self.world, self.world.question_tokens
        upload_mb = 0.0
        if viewer.turn == 0:
            is_clip = self._random.random() < world.clips
            viewer.conversation = next(self._conversations)
            viewer.pictures = 16 if is_clip else 1
            viewer.history = 0
            upload_mb = world.clip_mb if is_clip else world.picture_mb
            new += 16 * 64 if is_clip else 256
        question = _Question(
            viewer.conversation,
            viewer,
            viewer.pictures,
            viewer.history,
            new,
            self._random.choice(world.answers),
        )
        viewer.history += new + question.left
        viewer.turn = (viewer.turn + 1) % world.turns
        self._after(self._upload_s(upload_mb), lambda: self._ask(question))

    def _upload_s(self, megabytes: float) -> float:
        """Over the viewer's own line, and then the server's, one after another."""
        if not megabytes:
            return 0.0
        self.figures.upload_mb += megabytes
        own_s = megabytes * 8 / self.world.uplink_mbit
        begins_s = max(self._now_s, self._link_free_s)
        self._link_free_s = begins_s + megabytes * 8 / self.world.link_mbit
        return max(own_s, self._link_free_s - self._now_s)

    def _ask(self, question: _Question) -> None:
        question.asked_s = self._now_s
        if self._counts:
            self.figures.asked += 1
        self._send(question)

    def _send(self, question: _Question) -> None:
        world = self.world
        for replica in self._choices(question.conversation):
            if replica.load < world.rows + world.queue:
                replica.waiting.append(question)
                self._work(replica)
                return
        if self._counts:
            self.figures.refused += 1
        self._after(RETRY_S, lambda: self._send(question))

    def _choices(self, conversation: int) -> list[_Replica]:
        """Which replicas to ask, the first choice first."""
        alive = [replica for replica in self._replicas if replica.alive]
        if not alive:
            return []
        least = min(alive, key=lambda replica: replica.load)
        if not self.world.affinity:
            return [least]
        home = alive[hash((conversation, 7)) % len(alive)]
        return [home, least] if home.load < self.world.rows else [least]

    def _answered(self, question: _Question) -> None:
        self._after(
            self._random.expovariate(1 / self.world.think_s),
            lambda: self._next_turn(question.viewer),
        )

    # --- replicas ---

    def _work(self, replica: _Replica) -> None:
        """Begins the next piece of work, unless one is under way."""
        if not replica.alive:
            return
        if replica.busy:
            return self._cut_short(replica)
        world, rows = self.world, replica.rows
        if replica.waiting and replica.rows_taken < world.rows:
            if not replica.reading:
                self._read(replica, replica.next_one(self._now_s))
            elif len(replica.reading) == 1 and (quick := replica.next_quick()) is not None:
                self._read(replica, quick)
        step_s = world.times.decode_s(len(rows)) if rows else 0.0
        if replica.reading:
            question = replica.reading[-1]
            piece_s = min(PIECE_S, question.work_s)
            self._begin(replica, piece_s + step_s, steps=1, piece_s=piece_s)
        elif rows:  # as many steps as nothing happens in
            steps = min(row.left for row in rows)
            replica.began_s, replica.step_s = self._now_s, step_s
            self._begin(replica, steps * step_s, steps)

    def _read(self, replica: _Replica, question: _Question) -> None:
        question.work_s = self._reading_s(replica, question)
        replica.reading.append(question)

    def _begin(self, replica: _Replica, takes_s: float, steps: int, piece_s: float = 0.0) -> None:
        replica.busy = True
        replica.task += 1
        task = replica.task
        self._after(takes_s, lambda: self._worked(replica, task, steps, piece_s))

    def _cut_short(self, replica: _Replica) -> None:
        """A prompt has come: a stretch of steps ends with the one that is under way."""
        if replica.step_s and not replica.is_cut and replica.rows_taken < self.world.rows:
            steps = max(1, math.ceil((self._now_s - replica.began_s) / replica.step_s - 1e-9))
            ends_s = replica.began_s + steps * replica.step_s
            replica.is_cut = True
            self._begin(replica, max(0.0, ends_s - self._now_s), steps)

    def _reading_s(self, replica: _Replica, question: _Question) -> float:
        """What is left to read, by what this replica has read already."""
        world, later = self.world, question.history > 0
        knows = _keep(replica.prefixes, question.conversation, world.kept)
        saw = _keep(replica.features, question.conversation, world.pictures_kept)
        if self._counts:
            self.figures.later_turns += later
            self.figures.prefix_hits += later and knows
            self.figures.pictures += later and not knows
            self.figures.vision_hits += later and not knows and saw
        if knows:
            return world.times.prompt_s(0, question.new)
        return world.times.prompt_s(
            0 if saw else question.pictures, question.history + question.new
        )

    def _worked(self, replica: _Replica, task: int, steps: int, piece_s: float) -> None:
        if replica.task != task:
            return
        self._count_steps(replica, steps, self._now_s)
        replica.busy, replica.is_cut, replica.step_s = False, False, 0.0
        for row in replica.rows:
            row.left -= steps
        for row in [row for row in replica.rows if row.left <= 0]:
            replica.rows.remove(row)
            self._answered(row)
        if replica.reading:
            question = replica.reading[-1]
            question.work_s -= piece_s
            if question.work_s <= 1e-9:
                replica.reading.pop()
                question.begun = True
                question.left -= 1
                replica.rows.append(question)
                if self._counts:
                    self.figures.waits_s.append(self._now_s - question.asked_s)
        self._work(replica)

    def _die(self, replica: _Replica) -> None:
        """What had not begun is asked elsewhere. What had begun is lost, and asked again later."""
        waiting = [*replica.waiting, *replica.reading]
        lost = replica.rows
        self.figures.lost += len(lost)
        dead = _Replica(replica.number)
        replica.__dict__.update(dead.__dict__, alive=False, task=replica.task + 1)
        for question in waiting:
            self._send(question)
        for question in lost:
            self._answered(question)
        self._after(RESTART_S, lambda: self._revive(replica))

    def _revive(self, replica: _Replica) -> None:
        replica.alive = True
        self._after(self._life_s(), lambda: self._die(replica))


def replicas_needed(world: World, wanted_s: float = WANTED_S) -> tuple[int, Figures]:
    """The fewest replicas whose p95 of the first word is at most `wanted_s`, without refusals."""

    def fine(count: int) -> Figures | None:
        figures = Simulation(replace(world, replicas=count)).run()
        enough = figures.waits_s and figures.wait_s(0.95) <= wanted_s
        return figures if enough and figures.refused <= 0.001 * figures.asked else None

    most = 1
    while (found := fine(most)) is None:
        most *= 2
    least = most // 2
    while most - least > max(1, most // 16):
        middle = (least + most) // 2
        if (figures := fine(middle)) is not None:
            most, found = middle, figures
        else:
            least = middle
    return most, found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m qwen_vl.bench.scale", description=__doc__)
    parser.add_argument("--most-viewers", type=int, default=1_000, help="(default: 1000)")
    parser.add_argument("--dollars", type=float, default=5.0, help="of a replica's GPU, per hour")
    parser.add_argument("--check", action="store_true", help="two real servers, 32 viewers")
    parser.add_argument("--out", type=Path, default=Path("runs/scale"))
    args = parser.parse_args(argv)
    if args.check:
        from qwen_vl.bench.scale_check import check  # starts servers

        check()
        return
    rows = []
    print("| viewers | turns go to | replicas | $ per hour | p50, s | p95, s | prefixes found |")
    print("|---|---|---|---|---|---|---|")
    for viewers in (count for count in VIEWERS if count <= args.most_viewers):
        for affinity in (True, False):
            count, figures = replicas_needed(World(viewers, 1, affinity=affinity))
            found = figures.prefix_hits / max(1, figures.later_turns)
            cells = (viewers, "their replica" if affinity else "any", count, args.dollars * count)
            rest = f"{figures.wait_s(0.5):.2f} | {figures.wait_s(0.95):.2f} | {found:.0%}"
            print(f"| {' | '.join(map(str, cells))} | {rest} |", flush=True)
            told = asdict(figures) | {"waits_s": None, "p95_s": figures.wait_s(0.95)}
            rows.append({"viewers": viewers, "affinity": affinity, "replicas": count, **told})
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scale.json").write_text(json.dumps(rows, indent=2) + "\n")
    plot().save(args.out / "scale.png")
    print(f"\nWritten: {args.out / 'scale.json'} and {args.out / 'scale.png'}")


def plot(viewers: int = 100, most: int = 4) -> Image.Image:
    """p95 of the first word over viewers per replica, with affinity and without."""
    picture = Image.new("RGB", (640, 400), "white")
    draw = ImageDraw.Draw(picture)
    draw.line((50, 20, 50, 360, 620, 360), fill="black")
    draw.text(
        (60, 15), "p95 of the first word, s (line at 3 s), over viewers of one replica", "black"
    )
    top_s, right = 6.0, viewers * most
    draw.line((50, 360 - 340 * WANTED_S / top_s, 620, 360 - 340 * WANTED_S / top_s), fill="gray")
    for affinity, colour in ((True, "#4f46e5"), (False, "#ea580c")):
        points = []
        for share in range(1, 9):
            count = right * share // 8
            waited_s = Simulation(World(2 * count, 2, affinity=affinity)).run().wait_s(0.95)
            points.append((50 + 570 * count / right, 360 - 340 * min(top_s, waited_s) / top_s))
            draw.text((points[-1][0] - 8, 366), str(count), "black")
        draw.line(points, fill=colour, width=3)
        where = "their replica" if affinity else "any replica"
        draw.text((points[-1][0] - 90, points[-1][1] - 14), where, colour)
    return picture


if __name__ == "__main__":
    main()
