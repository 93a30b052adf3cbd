"""`python -m qwen_vl.bench`: how fast is it on this machine, against plain `generate`.

Both run in the same process, one after the other, so their ratios hold where absolute times drift:
first the engine as the app would run it (on a CPU with int8 weights), then `generate` in float32.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from PIL import Image, ImageDraw, ImageFont

from qwen_vl.bench.arguments import add_model, at_least, settings
from qwen_vl.config import Settings
from qwen_vl.constraint import Constraint, json_schema
from qwen_vl.engine import Engine
from qwen_vl.errors import ModelUnavailable, Unsupported
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, ImagePart, Message, TextPart, Usage

if TYPE_CHECKING:
    from qwen_vl.bench import baseline

QUESTION = "Describe the image."
ANSWER = "Some coloured spots lie on a grey ground, and none of them has an edge."
SECOND_QUESTION = "How many shapes are there?"
SECOND_TOKENS = 30
SYSTEM_PROMPT = "You are a helpful assistant. You look closely and answer briefly. " * 12
TEXT_QUESTION = "Explain in a few sentences why the sky is blue."
TEXTS = 4
LONG_LIST = {  # objects without an end, so that the answer reaches its limit
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "label": {"type": "string", "maxLength": 40},
            "bbox_2d": {"type": "array", "items": {"type": "integer"}, "minItems": 4},
        },
        "required": ["label", "bbox_2d"],
    },
}
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
    add_model(parser)
    parser.add_argument("--image-px", type=at_least(32), default=512, help="side of the picture")
    parser.add_argument("--new-tokens", type=at_least(2), default=128, help="tokens per answer")
    parser.add_argument(
        "--most-at-once", type=at_least(1), default=8, help="concurrent requests, at most"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="without drafts and schemas, half of the time",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for results")
    args = parser.parse_args(argv)
    try:
        figures, name = measure(
            settings(parser, args),
            shape=args.shape,
            image_px=args.image_px,
            new_tokens=args.new_tokens,
            most_at_once=args.most_at_once,
            quick=args.quick,
        )
    except ModelUnavailable as error:
        parser.exit(1, f"{error}\n")
    print(f"\n{name}, one {args.image_px}x{args.image_px} picture, {args.new_tokens} new tokens\n")
    print(table(figures))
    args.out.mkdir(parents=True, exist_ok=True)
    result = {"model": name, "image_px": args.image_px, "new_tokens": args.new_tokens}
    result["figures"] = [asdict(figure) for figure in figures]
    (args.out / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(figures, name).save(args.out / "bench.png")
    print(f"\nWritten: {args.out / 'bench.json'} and {args.out / 'bench.png'}")


def measure(
    settings: Settings,
    *,
    shape: str | None,
    image_px: int,
    new_tokens: int,
    most_at_once: int,
    quick: bool = False,
) -> tuple[list[Figure], str]:
    """Runs everything, one after another, and prints what it is doing -> (figures, model name).

    `quick` leaves out drafts and schemas.
    """
    from qwen_vl.bench import baseline, drafts
    from qwen_vl.bench.shapes import SHAPES

    find = partial(baseline.random_weights, SHAPES[shape]) if shape else baseline.named
    with peak_memory() as memory:
        say("Engine: loading the model")
        engine = baseline.SubjectEngine(find, settings)
        while engine.status().state == "loading":
            time.sleep(0.01)
        if engine.subject is None:
            raise ModelUnavailable(engine.status().detail)
        name = f"{engine.subject.name} in {engine.subject.precision}"
        load_s = engine.subject.load_s
        ours = run_engine(engine, image_px, new_tokens, most_at_once, quick)
        drafted: list[drafts.Compared] = []
        if not quick:
            say("Engine: dictated answers, with drafts and without")
            drafted = drafts.measure(engine, 2 * new_tokens)
    engine.close()
    del engine
    baseline.release_memory()
    with peak_memory() as plain_memory:
        say("Plain generate: loading the model")
        subject = find(baseline.plain_settings(settings))
        name += f"; generate in {subject.precision}"
        say("Plain generate: one request")
        first, detail = [_user(noise(image_px), QUESTION)], SamplingParams().max_image_tokens
        baseline.generate(subject, first, 2, detail)  # warms up
        plain_ttft_s, plain_s = min(
            baseline.generate(subject, first, new_tokens, detail) for _ in range(REPEATS)
        )
    plain_speed = (new_tokens - 1) / (plain_s - plain_ttft_s)
    one, texts = ours.one, ours.texts_alone
    figures = [
        _against("load", load_s, "s", subject.load_s, "generate"),
        Figure("generate: time to first token", plain_ttft_s, "s"),
        Figure("generate: decode", plain_speed, "tokens/s"),
        _against("time to first token", one.ttft_s, "s", plain_ttft_s, "generate"),
        _against(
            "time to first token, second turn",
            ours.second_turn.ttft_s,
            "s",
            plain_ttft_s,
            "generate's first turn",
        ),
        _against(
            "time to first token, another question",
            ours.other_question.ttft_s,
            "s",
            plain_ttft_s,
            "generate's first turn",
        ),
        _against("decode, one request", one.tokens_per_s, "tokens/s", plain_speed, "generate"),
        *_constrained(ours),
        *(
            _against(f"decode with drafts, {one.name}", one.drafted, "tokens/s", one.plain, "off")
            for one in drafted
        ),
        _against(
            "engine's own work per decode step",
            ours.overhead_s * 1000,
            "ms",
            ours.forward_s * 1000,
            "the model's forward",
        ),
    ]
    for count, (speed, worst_ttft_s) in ours.together.items():
        against = "generate one after another"
        figures += [
            _against(f"{count} at once", speed, "tokens/s", new_tokens / plain_s, against),
            Figure(f"{count} at once, worst time to first token", worst_ttft_s, "s"),
        ]
    worst_s = max(usage.ttft_s for usage in ours.texts_together)
    what = f"{len(ours.texts_together)} texts at once, worst time to first token"
    figures.append(_against(what, worst_s, "s", texts.ttft_s, "one text alone"))
    ours_gib, plain_gib = memory.peak_bytes / 2**30, plain_memory.peak_bytes / 2**30
    figures.append(_against("peak memory", ours_gib, "GiB", plain_gib, "generate"))
    return figures, name


@dataclass(frozen=True)
class EngineRun:
    """What the engine reached. `together` maps a count to (tokens/s in all, worst TTFT in s)."""

    one: Usage
    second_turn: Usage
    other_question: Usage  # a first one about a picture that was seen before
    forward_s: float  # of one decode step, in the model
    overhead_s: float  # of one decode step, around it
    together: dict[int, tuple[float, float]]
    texts_alone: Usage
    texts_together: list[Usage]
    unconstrained_s: float | None  # of one decode step; None: not measured
    constrained_s: float | None  # the same question with a schema; None: the tokenizer takes none


def run_engine(
    engine: baseline.SubjectEngine,
    image_px: int,
    new_tokens: int,
    most_at_once: int,
    quick: bool = False,
) -> EngineRun:
    """All of the engine's rows but those of drafts; with `quick` without that of a schema, too."""
    assert engine.subject is not None
    say("Engine: warming up")
    ask(engine, [_user(noise(image_px, seed=99), QUESTION)], 2)
    say("Engine: one request")
    runs = []
    for seed in range(REPEATS):
        first = [_user(noise(image_px, seed), QUESTION)]
        before_s = engine.forward_s
        text, usage = ask(engine, first, 1)
        prefill_s = engine.forward_s - before_s
        first = [_user(noise(image_px, seed + REPEATS), QUESTION)]
        before_s = engine.forward_s
        text, usage = ask(engine, first, new_tokens)
        forward_s = (engine.forward_s - before_s - prefill_s) / max(1, usage.completion_tokens - 1)
        runs.append((text, usage, forward_s))
    _, one, _ = min(runs, key=lambda run: run[1].ttft_s)
    _, fastest, forward_s = max(runs, key=lambda run: run[1].tokens_per_s)
    say("Engine: a second question about the same picture")
    # The first answer is dictated: what random weights say is not read as the tokens it was.
    answer = engine.subject.loaded.tokenizer(ANSWER, add_special_tokens=False).input_ids
    engine.dictate(answer, usage.prompt_tokens)
    text, _ = ask(engine, first, len(answer))
    engine.dictate([])
    turns = [*first, Message("assistant", (TextPart(text),)), _user(None, SECOND_QUESTION)]
    _, second_turn = ask(engine, turns, SECOND_TOKENS)
    seen = noise(image_px, 2 * REPEATS - 1)  # the last one
    _, other = ask(engine, [_user(seen, SECOND_QUESTION)], SECOND_TOKENS)
    together = {}
    for count in (n for n in CONCURRENCY if n <= most_at_once):
        say(f"Engine: {count} at once")
        picture = noise(image_px, seed=1000 + count)
        asked = [[_user(picture, f"{QUESTION} ({i})")] for i in range(count)]
        start_s = time.perf_counter()
        usages = ask_together(engine, asked, new_tokens)
        speed = sum(usage.completion_tokens for usage in usages) / (time.perf_counter() - start_s)
        together[count] = speed, max(usage.ttft_s for usage in usages)
    say("Engine: texts with a system prompt that is known already")
    system = Message("system", (TextPart(SYSTEM_PROMPT),))
    asked = [[system, _user(None, f"{TEXT_QUESTION} ({i})")] for i in range(TEXTS + 2)]
    ask(engine, asked[0], 2)
    _, alone = ask(engine, asked[1], new_tokens)
    texts = ask_together(engine, asked[2 : 2 + min(TEXTS, most_at_once)], new_tokens)
    free, bound = (None, None) if quick else schema_cost(engine, asked[1], new_tokens)
    step_s = 1 / fastest.tokens_per_s
    overhead_s = step_s - forward_s
    return EngineRun(
        one, second_turn, other, forward_s, overhead_s, together, alone, texts, free, bound
    )


def schema_cost(
    engine: Engine, asked: list[Message], new_tokens: int
) -> tuple[float, float | None]:
    """Seconds of a decode step without and with a schema, the better of some runs."""
    say("Engine: an answer that must fit a schema, and the same without")
    schema = json_schema(LONG_LIST, place="bench")
    free: list[float] = []
    bound: list[float] = []
    for _ in range(REPEATS):
        free.append(1 / ask(engine, asked, new_tokens)[1].tokens_per_s)
        try:
            bound.append(1 / ask(engine, asked, new_tokens, schema)[1].tokens_per_s)
        except Unsupported as error:
            say(str(error))
    return min(free), min(bound, default=None)


def _constrained(run: EngineRun) -> list[Figure]:
    if run.constrained_s is None or run.unconstrained_s is None:
        return []
    free_ms, bound_ms = run.unconstrained_s * 1000, run.constrained_s * 1000
    return [_against("decode step with a schema", bound_ms, "ms", free_ms, "one without")]


def ask_together(engine: Engine, asked: Sequence[list[Message]], new_tokens: int) -> list[Usage]:
    """All questions at the same moment."""
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = pool.map(lambda messages: ask(engine, messages, new_tokens), asked)
        return [usage for _, usage in answers]


def ask(
    engine: Engine,
    messages: list[Message],
    new_tokens: int,
    constraint: Constraint | None = None,
) -> tuple[str, Usage]:
    """One greedy answer -> (text, usage)."""
    params = SamplingParams(
        temperature=0, presence_penalty=0, max_new_tokens=new_tokens, constraint=constraint
    )
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


def draw(figures: Sequence[Figure], name: str, other: str = "plain generate") -> Image.Image:
    """The ratios as bars on a logarithmic scale, 1 (as good as the other) in the middle."""
    shown = [figure for figure in figures if figure.ratio is not None]
    width, row_px, head_px, left, middle = 1000, 44, 70, 380, 640
    image = Image.new("RGB", (width, head_px + row_px * len(shown) + 20), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(17)
    pen.text((20, 20), f"{name}: ratios to {other}", fill="black", font=font)
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
