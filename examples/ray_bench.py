"""How much a second replica brings, and what sending turns to their replica brings.

    python examples/ray_bench.py

Prints ratios of tokens per second, and how much of the prompts of later turns was there already.
Replicas of one core each, on this machine, with the bundled model.
"""

from __future__ import annotations

import itertools
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qwen_vl.config import Settings
from qwen_vl.engine import Engine, open_engine
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import ImagePart, Message, TextPart

CLIENTS, CONVERSATIONS, TURNS, SIDE_PX = 12, 36, 4, 448
PARAMS = SamplingParams(temperature=0, presence_penalty=0, max_new_tokens=32)
LOOK_S = 0.1
QUESTIONS = ("Describe the image.", "How many shapes are there?", "Locate every shape.")


@dataclass
class Told:
    """What one conversation, or all of them, came to."""

    prompt: int = 0  # tokens of later turns' prompts
    cached: int = 0  # of these, how many were there already
    written: int = 0  # tokens of answers
    waited_s: float = 0  # for first tokens of later turns


@contextmanager
def replicas(count: int, affinity: bool) -> Iterator[Engine]:
    """An engine with so many replicas, all of them ready. Raises RuntimeError if they cannot be."""
    settings = Settings(model="bundled", engine="ray", replicas=count, affinity=affinity)
    engine = open_engine(settings)
    try:
        while (status := engine.status()).state != "ready":
            if status.state == "failed":
                raise RuntimeError(status.detail)
            time.sleep(LOOK_S)
        yield engine
    finally:
        engine.close()


def talk(engine: Engine, seed: int) -> Told:
    """One conversation about a picture that nobody else shows."""
    rng, told = random.Random(seed), Told()
    picture = Image.frombytes("RGB", (SIDE_PX, SIDE_PX), rng.randbytes(SIDE_PX * SIDE_PX * 3))
    messages: list[Message] = []
    for turn in range(TURNS):
        question = TextPart(QUESTIONS[turn % len(QUESTIONS)])
        messages.append(Message("user", (question,) if turn else (ImagePart(picture), question)))
        *chunks, last = engine.stream(messages, PARAMS)
        text = "".join(chunk.text for chunk in chunks)
        messages.append(Message("assistant", (TextPart(text),)))
        told.written += last.usage.completion_tokens
        if turn:
            told.prompt += last.usage.prompt_tokens
            told.cached += last.usage.cached_tokens
            told.waited_s += last.usage.ttft_s
    return told


def measure(engine: Engine, seeds: Iterator[int]) -> tuple[float, float, float]:
    """Tokens/s of all clients together; of later turns the share found and the seconds waited."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda seed: talk(engine, seed), itertools.islice(seeds, CLIENTS)))  # warm
        began_s = time.monotonic()
        asked = list(itertools.islice(seeds, CONVERSATIONS))
        told = list(pool.map(lambda seed: talk(engine, seed), asked))
        took_s = time.monotonic() - began_s
    found = sum(one.cached for one in told) / sum(one.prompt for one in told)
    waited_s = sum(one.waited_s for one in told) / (len(told) * (TURNS - 1))
    return sum(one.written for one in told) / took_s, found, waited_s


def measure_one(count: int, affinity: bool) -> tuple[float, float, float]:
    """`measure` with so many replicas, on a Ray of its own."""
    with replicas(count, affinity) as engine:
        return measure(engine, itertools.count())


def main() -> None:
    """Command line."""
    print("| replicas | turns go to | tokens/s | against one | later prompts found | waited, s |")
    print("|---|---|---|---|---|---|")
    base = 0.0
    for count, affinity in ((1, True), (2, True), (2, False)):
        # In a new process: Ray Serve keeps what it knows of an application's router.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            speed, found, waited_s = fresh.submit(measure_one, count, affinity).result()
        base = base or speed
        where = "their replica" if affinity else "any"
        ratio = f"{speed:.0f} | {speed / base:.2f}"
        print(f"| {count} | {where} | {ratio} | {found:.0%} | {waited_s:.2f} |", flush=True)


if __name__ == "__main__":
    main()
