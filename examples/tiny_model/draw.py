"""Draw training's pictures ahead with a browser, into shards that train.py reads.

    python examples/tiny_model/draw.py --out work/shards --shards 8
    python examples/tiny_model/train.py --stage talk --shards work/shards ...

It needs `pip install playwright` and a Chromium. The same seed draws the same pictures; shards
that are there already are left as they are, so that it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from dialogues import FIRST_EVAL_SEED
from shards import Drawn, write_shard
from web_hand import web_hand

WEIGHTS = {"text": 4.0, "invoice": 2.5, "chart": 2.5, "screen": 1.0}
PER_SHARD = 2_000


def drawn_by_browser(chromium: str, seed: int, number: int, count: int) -> Iterator[Drawn]:
    """The `count` pictures of shard `number`; each follows from its own seed alone."""
    with web_hand(chromium) as hand:
        for own in range(number * count, (number + 1) * count):
            rng = random.Random(f"{seed} {own}")
            task = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            yield Drawn(task, *hand.draw(task, rng))


def draw_shard(out: Path, chromium: str, seed: int, count: int, number: int) -> Path:
    """Shard `number`, drawn if it is not there."""
    path = out / f"web-{seed}-{number:04d}.zip"
    if not path.exists():
        write_shard(path, drawn_by_browser(chromium, seed, number, count))
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the shards lie here")
    parser.add_argument("--shards", type=int, default=1, help="how many")
    parser.add_argument("--count", type=int, default=PER_SHARD, help="pictures in each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="browsers that draw side by side")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    args = parser.parse_args()
    if not args.chromium:
        parser.error("there is no chromium on the path: name it with --chromium")
    if not 0 <= args.seed < FIRST_EVAL_SEED:
        parser.error(f"seeds of training are 0 to {FIRST_EVAL_SEED - 1}")
    args.out.mkdir(parents=True, exist_ok=True)
    draw = partial(draw_shard, args.out, args.chromium, args.seed, args.count)
    with get_context("spawn").Pool(args.workers) as pool:
        for path in pool.imap(draw, range(args.shards)):
            print(f"{path} {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
