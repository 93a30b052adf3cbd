"""The simulation of `scale` beside a real run: two servers here, 32 viewers, the bundled model.

The servers' times are measured first, while both have all that they take at once: they share this
machine's cores with each other, and with what asks them.
"""

from __future__ import annotations

import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from PIL import Image, ImageDraw

from qwen_vl.bench.scale import Simulation, Times, World
from qwen_vl.config import Settings
from qwen_vl.engine import Engine, open_engine
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import ImagePart, Message, TextPart, Usage

VIEWERS, REPLICAS, TURNS, ROWS = 32, 2, 4, 8
THINK_S, RUN_S, WARM_S = 5.0, 150.0, 20.0
SIDE_PX = 448
PARAMS = SamplingParams(temperature=0, presence_penalty=0, max_new_tokens=64)
QUESTIONS = ("Describe the image.", "How many shapes are there?", "Locate every shape.", "Hello")


@dataclass
class Conversation:
    """Questions about one picture, one after another."""

    pick: random.Random
    messages: list[Message] = field(default_factory=list)

    def ask(self, engine: Engine, params: SamplingParams = PARAMS) -> tuple[float, Usage]:
        """-> (seconds to the first word, what the answer cost)."""
        turn = sum(message.role == "user" for message in self.messages)
        parts: list[ImagePart | TextPart] = [TextPart(QUESTIONS[turn % len(QUESTIONS)])]
        if turn == 0:
            parts.insert(0, ImagePart(picture(self.pick)))
        self.messages.append(Message("user", tuple(parts)))
        began_s, first_s, text = time.monotonic(), 0.0, ""
        for chunk in engine.stream(self.messages, params):
            first_s = first_s or time.monotonic()
            text += chunk.text
            usage = chunk.usage
        self.messages.append(Message("assistant", (TextPart(text),)))
        assert usage is not None
        return first_s - began_s, usage


def picture(pick: random.Random) -> Image.Image:
    """A circle somewhere; no two are equal."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(pick.choices(range(256), k=3)))
    x, y = pick.randrange(SIDE_PX // 2), pick.randrange(SIDE_PX // 2)
    ImageDraw.Draw(image).ellipse((x, y, x + 150, y + 150), fill="red")
    return image


@contextmanager
def servers() -> Iterator[list[str]]:
    """Addresses of two real servers, once both answer."""
    urls, running = [], []
    try:
        for _ in range(REPLICAS):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            flags = f"--model bundled --threads 1 --max-batch {ROWS} --max-queue {VIEWERS}"
            command = [sys.executable, "-c", "import app; app.main()", *flags.split()]
            running.append(
                subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
            )
            urls.append(f"http://127.0.0.1:{port}/v1")
        yield urls
    finally:
        for process in running:
            process.terminate()
            process.wait()


@contextmanager
def engine_over(urls: list[str]) -> Iterator[Engine]:
    # The servers are to hold the queue, so nothing is refused before them.
    settings = Settings(engine="remote", base_url=tuple(urls), max_queue=VIEWERS)
    engine = open_engine(settings)
    try:
        while sum(one.healthy for one in engine.stats().upstreams) < len(urls):
            time.sleep(0.2)
        yield engine
    finally:
        engine.close()


def measured(urls: list[str]) -> Times:
    """The servers' times, the means over all of them, which work at once."""

    one_token = replace(PARAMS, max_new_tokens=1)

    def on_one(url: str) -> tuple[float, ...]:
        firsts, laters, single, full = [], [], [], []
        with engine_over([url]) as engine, ThreadPoolExecutor(ROWS) as pool:

            def each_s(crowd: list[Conversation]) -> float:
                """Seconds for one of them, where all are asked at once for a single token."""
                began_s = time.monotonic()
                list(pool.map(lambda one: one.ask(engine, one_token), crowd))
                return (time.monotonic() - began_s) / len(crowd)

            for seed in range(4):
                crowd = [Conversation(random.Random(f"{url} {seed} {i}")) for i in range(ROWS)]
                firsts.append(each_s(crowd))
                laters.append(each_s(crowd))
                single.append(1 / crowd[0].ask(engine)[1].tokens_per_s)
                usages = [told[1] for told in pool.map(lambda one: one.ask(engine), crowd)]
                full.append(statistics.median(1 / usage.tokens_per_s for usage in usages))
        return tuple(map(statistics.median, (firsts, laters, single, full)))

    with ThreadPoolExecutor(len(urls)) as pool:
        told = list(pool.map(on_one, urls))
    first_s, later_s, single_s, full_s = (statistics.mean(part) for part in zip(*told, strict=True))
    row_s = max(0.0, (full_s - single_s) / (ROWS - 1))
    return Times(later_s, max(0.0, first_s - later_s), 0.0, single_s - row_s, row_s)


@dataclass
class Seen:
    """What real viewers saw."""

    waits_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def real_run(engine: Engine) -> Seen:
    seen, lock, begin_s = Seen(), threading.Lock(), time.monotonic()

    def view(number: int) -> None:
        pick = random.Random(number)
        time.sleep(pick.uniform(0, 2 * THINK_S))
        while True:
            conversation = Conversation(pick)
            for _ in range(TURNS):
                wait_s, usage = conversation.ask(engine)
                now_s = time.monotonic() - begin_s
                if now_s > RUN_S:
                    return
                if now_s > WARM_S:
                    with lock:
                        seen.waits_s.append(wait_s)
                        seen.tokens.append(usage.completion_tokens)
                time.sleep(pick.expovariate(1 / THINK_S))

    with ThreadPoolExecutor(VIEWERS) as pool:
        list(pool.map(view, range(VIEWERS)))
    return seen


def check() -> None:
    """Prints both, and their ratios."""
    with servers() as urls:
        times = measured(urls)
        with engine_over(urls) as engine:
            seen = real_run(engine)
    world = World(
        viewers=VIEWERS,
        replicas=REPLICAS,
        times=times,
        affinity=False,  # the remote engine asks the least busy server
        rows=ROWS,
        queue=VIEWERS,
        turns=TURNS,
        clips=0.0,
        answers=tuple(seen.tokens),
        think_s=THINK_S,
        uplink_mbit=1e6,
        link_mbit=1e6,
        seconds=RUN_S,
        warm_s=WARM_S,
    )
    runs = [Simulation(world, seed).run() for seed in range(5)]
    counted_s = RUN_S - WARM_S
    print(times)
    print("| what | measured | simulated | simulated / measured |")
    print("|---|---|---|---|")
    simulated: Callable[[Callable], float] = lambda of: statistics.mean(map(of, runs))  # noqa: E731
    for name, real, told in (
        (
            "answers per second",
            len(seen.waits_s) / counted_s,
            simulated(lambda run: len(run.waits_s) / counted_s),
        ),
        (
            "tokens per second",
            sum(seen.tokens) / counted_s,
            simulated(lambda run: run.tokens / counted_s),
        ),
        (
            "mean wait, s",
            statistics.mean(seen.waits_s),
            simulated(lambda run: statistics.mean(run.waits_s)),
        ),
        (
            "p95 of the wait, s",
            sorted(seen.waits_s)[int(0.95 * len(seen.waits_s))],
            simulated(lambda run: run.wait_s(0.95)),
        ),
    ):
        print(f"| {name} | {real:.3g} | {told:.3g} | {told / real:.2f} |")
