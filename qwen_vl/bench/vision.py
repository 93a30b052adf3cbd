"""`python -m qwen_vl.bench.vision`: where the vision encoder's time goes, by kind and picture size.

Times the parts of the model's own encoder, one picture after another. Knows the encoder's blocks;
knows nothing of the engine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from qwen_vl.bench import baseline
from qwen_vl.bench.arguments import add_model, at_least, settings
from qwen_vl.bench.shapes import SHAPES
from qwen_vl.engine.local.vision import encode
from qwen_vl.engine.model.load import LoadedModel, compute_here
from qwen_vl.errors import ModelUnavailable
from qwen_vl.schema import ImagePart

REPEATS = 2  # the faster one counts


@dataclass(frozen=True)
class Spent:
    """Milliseconds of one picture. Those of the blocks are of one of them, on average."""

    patches: int
    visual_tokens: int
    whole_ms: float
    patch_embedding_ms: float
    attention_ms: float
    linear_ms: float
    rest_of_block_ms: float
    merger_ms: float  # and positions


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m qwen_vl.bench.vision", description=__doc__)
    add_model(parser)
    parser.add_argument(
        "--tokens",
        type=at_least(1),
        nargs="+",
        default=[256, 640, 1280],
        help="visual tokens of the pictures, at most (default: 256 640 1280)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for results")
    args = parser.parse_args(argv)
    chosen = settings(parser, args)
    try:
        if args.shape:
            subject = baseline.random_weights(SHAPES[args.shape], chosen)
        else:
            subject = baseline.named(chosen)
    except ModelUnavailable as error:
        parser.exit(1, f"{error}\n")
    if not subject.loaded.accepts_images:
        parser.exit(1, f"{subject.name} reads text only: name a vision model with --model.\n")
    compute_here(subject.loaded)
    name = f"{subject.name} in {subject.precision}"
    found = [measure(subject.loaded, tokens) for tokens in args.tokens]
    print(f"\n{name}, milliseconds\n\n{table(found)}")
    args.out.mkdir(parents=True, exist_ok=True)
    result = {"model": name, "pictures": [asdict(one) for one in found]}
    (args.out / "vision.json").write_text(json.dumps(result, indent=2) + "\n")


@torch.inference_mode()
def measure(loaded: LoadedModel, visual_tokens: int) -> Spent:
    """Encodes a square picture of noise with so many visual tokens, or a few less."""
    reader = loaded.prompts.reader
    assert reader is not None
    noise = np.random.default_rng(0).integers(0, 255, (2048, 2048, 3), np.uint8)
    picture = reader.count(ImagePart(Image.fromarray(noise)), visual_tokens)
    pixels = reader.pixels(picture)
    visual = loaded.model.model.visual
    runs = []
    for _ in range(REPEATS):
        with _timed(visual, loaded.device) as spent_s:
            encode(loaded, picture, pixels)
        runs.append(spent_s)
    spent = min(runs, key=lambda run: run["whole"])
    blocks = len(visual.blocks)

    def of_block(seconds: float) -> float:
        return seconds * 1000 / blocks

    attention_s = spent["attention"] - spent["linear in attention"]
    return Spent(
        picture.grid[0] * picture.grid[1],
        picture.tokens,
        spent["whole"] * 1000,
        spent["patch embedding"] * 1000,
        of_block(attention_s),
        of_block(spent["linear"]),
        of_block(spent["block"] - spent["linear"] - attention_s),
        (spent["whole"] - spent["patch embedding"] - spent["block"]) * 1000,
    )


@contextmanager
def _timed(visual: Any, device: torch.device) -> Iterator[dict[str, float]]:
    """Adds up the seconds of the encoder's parts, by kind, and those of what holds them."""
    spent_s: dict[str, float] = defaultdict(float)
    hooks: list[Any] = []

    def now_s() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def watch(module: nn.Module, *kinds: str) -> None:
        began_s: list[float] = []

        def ends(*_: Any) -> None:
            spent = now_s() - began_s.pop()
            for kind in kinds:
                spent_s[kind] += spent

        hooks.append(module.register_forward_pre_hook(lambda *_: began_s.append(now_s())))
        hooks.append(module.register_forward_hook(ends))

    watch(visual, "whole")
    watch(visual.patch_embed, "patch embedding")
    for block in visual.blocks:
        watch(block, "block")
        watch(block.attn, "attention")
        for module in _linear(block.attn):
            watch(module, "linear", "linear in attention")
        for module in _linear(block.mlp):
            watch(module, "linear")
    try:
        yield spent_s
    finally:
        for hook in hooks:
            hook.remove()


def _linear(module: nn.Module) -> list[nn.Module]:
    """Its linear layers of any precision."""
    return [child for child in module.children() if hasattr(child, "in_features")]


def table(found: Sequence[Spent]) -> str:
    columns: dict[str, Callable[[Spent], float]] = {
        "visual tokens": lambda one: one.visual_tokens,
        "patches": lambda one: one.patches,
        "in all": lambda one: one.whole_ms,
        "patch embedding": lambda one: one.patch_embedding_ms,
        "attention, a layer": lambda one: one.attention_ms,
        "linear, a layer": lambda one: one.linear_ms,
        "rest, a layer": lambda one: one.rest_of_block_ms,
        "merger and positions": lambda one: one.merger_ms,
    }
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for one in found:
        cells = (value(one) for value in columns.values())
        lines.append(
            f"| {' | '.join(f'{cell:,.3g}' if cell < 100 else f'{cell:,.0f}' for cell in cells)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
