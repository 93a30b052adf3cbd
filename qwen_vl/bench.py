"""`python -m qwen_vl.bench`: how fast is it on this machine, against plain `generate`.

Both run on the same weights in the same process, so their ratios hold where absolute times drift.
Prints a table, and writes the figures as JSON and as a picture. Knows the engine's interface and
nothing below it but what to compare with.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from PIL import Image, ImageDraw, ImageFont

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.schema import Chunk, ImagePart, Message, SamplingParams, TextPart, Usage

QUESTION = "Describe the image."
SECOND_QUESTION = "How many shapes are there?"
SECOND_TOKENS = 30
CONCURRENCY = (1, 2, 4, 8)
REPEATS = 2  # of what has no cache to hide behind; the better run counts, on both sides


@dataclass(frozen=True)
class Figure:
    """One measured row. `ratio` is against the baseline: times want it low, speeds high."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    baseline: str = ""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m qwen_vl.bench", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", default="bundled", help="model id or folder (default: bundled)")
    what.add_argument("--shape", choices=["2b"], help="Qwen3-VL's architecture with random weights")
    parser.add_argument("--dtype", default="auto", help="as for app.py (default: auto)")
    parser.add_argument("--image-px", type=int, default=512, help="side of the picture")
    parser.add_argument("--new-tokens", type=int, default=128, help="tokens per answer")
    parser.add_argument("--most-at-once", type=int, default=8, help="concurrent requests, at most")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for results")
    args = parser.parse_args(argv)
    figures, name = measure(
        Settings(model=args.model, dtype=args.dtype, max_seconds=3600),
        shape=args.shape,
        image_px=args.image_px,
        new_tokens=args.new_tokens,
        most_at_once=args.most_at_once,
    )
    print(f"\n{name}, one {args.image_px}x{args.image_px} picture, {args.new_tokens} new tokens\n")
    print(table(figures))
    args.out.mkdir(parents=True, exist_ok=True)
    result = {"model": name, "image_px": args.image_px, "new_tokens": args.new_tokens}
    result["figures"] = [asdict(figure) for figure in figures]
    (args.out / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(figures, name).save(args.out / "bench.png")
    print(f"\nWritten: {args.out / 'bench.json'} and {args.out / 'bench.png'}")


def measure(
    settings: Settings, *, shape: str | None, image_px: int, new_tokens: int, most_at_once: int
) -> tuple[list[Figure], str]:
    """Runs everything, one after another, and tells what it is doing -> (figures, model name)."""
    from qwen_vl.engine import baseline

    say("Loading the model")
    subject = baseline.random_2b(settings) if shape else baseline.named(settings)
    figures = [Figure("load", subject.load_s, "s")]
    picture = noise(image_px)
    first = [_user(picture, QUESTION)]
    detail = SamplingParams().max_image_tokens

    say("Plain generate: warming up")
    baseline.generate(subject, first, 2, detail)
    say("Plain generate: one request")
    with peak_memory() as plain_memory:
        plain_ttft_s, plain_s = min(
            baseline.generate(subject, first, new_tokens, detail) for _ in range(REPEATS)
        )
    plain_speed = (new_tokens - 1) / (plain_s - plain_ttft_s)
    figures += [
        Figure("generate: time to first token", plain_ttft_s, "s"),
        Figure("generate: decode", plain_speed, "tokens/s"),
        Figure("generate: peak memory", plain_memory.peak_bytes / 2**30, "GiB"),
    ]

    engine = baseline.SubjectEngine(subject, settings)
    while engine.status().state == "loading":
        time.sleep(0.01)
    say("Engine: warming up")
    ask(engine, [_user(noise(image_px, seed=99), QUESTION)], 2)
    say("Engine: one request")
    with peak_memory() as memory:
        runs = [
            ask(engine, [_user(noise(image_px, seed), QUESTION)], new_tokens)
            for seed in range(REPEATS)
        ]
        _, one = min(runs, key=lambda run: run[1].ttft_s)
        say("Engine: a second question about the same picture")
        first = [_user(noise(image_px, REPEATS - 1), QUESTION)]
        answer = Message("assistant", (TextPart(runs[-1][0]),))
        turns = [*first, answer, _user(None, SECOND_QUESTION)]
        _, two = ask(engine, turns, SECOND_TOKENS)
        figures += [
            _against("time to first token", one.ttft_s, "s", plain_ttft_s, "generate"),
            _against(
                "time to first token, second turn",
                two.ttft_s,
                "s",
                plain_ttft_s,
                "generate's first turn",
            ),
            _against("decode, one request", one.tokens_per_s, "tokens/s", plain_speed, "generate"),
        ]
        for count in (n for n in CONCURRENCY if n <= most_at_once):
            say(f"Engine: {count} at once")
            figures += together(engine, image_px, count, new_tokens, plain_s)
    figures.append(
        _against(
            "peak memory",
            memory.peak_bytes / 2**30,
            "GiB",
            plain_memory.peak_bytes / 2**30,
            "generate",
        )
    )
    engine.close()
    return figures, subject.name


def together(
    engine: Engine, image_px: int, count: int, new_tokens: int, plain_s: float
) -> list[Figure]:
    """`count` people ask about one new picture at the same time."""
    picture = noise(image_px, seed=1000 + count)
    usages: list[Usage] = []

    def one(i: int) -> None:
        usages.append(ask(engine, [_user(picture, f"{QUESTION} ({i})")], new_tokens)[1])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    start_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent_s = time.perf_counter() - start_s
    speed = sum(usage.completion_tokens for usage in usages) / spent_s
    return [
        _against(
            f"{count} at once, all together",
            speed,
            "tokens/s",
            new_tokens / plain_s,
            "generate one after another",
        ),
        Figure(
            f"{count} at once, worst time to first token",
            max(usage.ttft_s for usage in usages),
            "s",
        ),
    ]


def ask(engine: Engine, messages: list[Message], new_tokens: int) -> tuple[str, Usage]:
    """One greedy answer -> (text, usage)."""
    params = SamplingParams(temperature=0, presence_penalty=0, max_new_tokens=new_tokens)
    chunks: list[Chunk] = list(engine.stream(messages, params))
    usage = chunks[-1].usage
    assert usage is not None
    return "".join(chunk.text for chunk in chunks), usage


def noise(side_px: int, seed: int = 0) -> Image.Image:
    """A picture that no cache has seen: smooth random colours."""
    small = Image.frombytes("RGB", (16, 16), random.Random(seed).randbytes(16 * 16 * 3))
    return small.resize((side_px, side_px), Image.Resampling.BICUBIC)


def _user(picture: Image.Image | None, text: str) -> Message:
    images = () if picture is None else (ImagePart(picture),)
    return Message("user", (*images, TextPart(text)))


def _against(name: str, value: float, unit: str, base: float, baseline: str) -> Figure:
    return Figure(name, value, unit, value / base, baseline)


class _Peak:
    peak_bytes = 0


@contextmanager
def peak_memory() -> Iterator[_Peak]:
    """The most resident memory of this process while the block runs, sampled."""
    peak, process, done = _Peak(), psutil.Process(), threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak.peak_bytes = max(peak.peak_bytes, process.memory_info().rss)

    peak.peak_bytes = process.memory_info().rss
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def say(doing: str) -> None:
    print(f"... {doing}", flush=True)


def table(figures: Sequence[Figure]) -> str:
    """Markdown."""
    rows = ["| what | measured | ratio | against |", "|---|---|---|---|"]
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        rows.append(
            f"| {figure.name} | {figure.value:.3g} {figure.unit} | {ratio} | {figure.baseline} |"
        )
    return "\n".join(rows)


def draw(figures: Sequence[Figure], name: str) -> Image.Image:
    """The ratios as bars on a logarithmic scale, 1 (as fast as generate) in the middle."""
    shown = [figure for figure in figures if figure.ratio is not None]
    width, row_px, head_px, left, middle = 1000, 44, 70, 380, 640
    image = Image.new("RGB", (width, head_px + row_px * len(shown) + 20), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(17)
    pen.text((20, 20), f"{name}: ratios to plain generate", fill="black", font=font)
    for i, figure in enumerate(shown):
        y = head_px + i * row_px
        assert figure.ratio is not None
        decades = max(-1.5, min(1.5, _log10(figure.ratio)))
        faster = (figure.ratio > 1) == figure.unit.endswith("/s")
        end = middle + decades * (middle - left) / 1.5
        pen.text((20, y), figure.name, fill="black", font=font)
        pen.rectangle(
            (min(middle, end), y, max(middle, end) + 1, y + 24),
            fill="#2e8b57" if faster else "#c2553d",
        )
        pen.text((910, y), f"{figure.ratio:.2f}x", fill="black", font=font)
    pen.line((middle, head_px - 10, middle, image.height - 10), fill="#888888")
    return image


def _log10(value: float) -> float:

    return math.log10(value) if value > 0 else -1.5


if __name__ == "__main__":
    main()
