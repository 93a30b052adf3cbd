"""Which model for which machine: `python app.py --list-models` prints it, the README shows it.

Knows sizes and what they mean for memory. Memory is reckoned by rules that were measured here (see
`needed_gb`). What a model is good at comes from its card. Does not load anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["cpu", "gpu"]
Precision = Literal["int8", "bfloat16", "4bit"]

# GB for each 1e9 weights while a model is loaded and runs, and what comes on top: the caches, the
# pictures under way, the libraries. On a CPU the weights are read in bfloat16 before they are
# rounded: Qwen3-VL-2B took 7.5 to 7.9 GB at its peak. The others are sizes of numbers.
_GB_PER_BILLION: dict[tuple[Kind, Precision], float] = {
    ("cpu", "int8"): 3.0,
    ("gpu", "bfloat16"): 2.0,
    ("gpu", "4bit"): 0.75,
}
_GB_ON_TOP: dict[Kind, float] = {"cpu": 1.3, "gpu": 2.0}


@dataclass(frozen=True)
class Model:
    """A checkpoint: its weights, and those of them that each token needs, in 1e9."""

    model_id: str
    weights: float
    active: float
    good_at: str
    measured_speed: float | None = None  # decoding, against BASE on the same CPU


BASE = Model(
    "Qwen/Qwen3-VL-2B-Instruct", 2.13, 2.13, "pictures, boxes, clips; OCRBench 79, RefCOCO 85", 1.0
)
_OTHERS = (
    Model("Qwen/Qwen3.5-0.8B", 0.87, 0.87, "short answers, reading; OCRBench 79, RefCOCO 78", 1.4),
    Model("Qwen/Qwen3.5-2B", 2.27, 2.27, "documents; OCRBench 85, OmniDocBench 81", 0.8),
    Model("Qwen/Qwen3.5-4B", 4.66, 4.66, "documents, charts, code; thinks first if asked"),
    Model("Qwen/Qwen3-VL-8B-Instruct", 8.77, 8.77, "pictures, boxes, long clips"),
    Model("Qwen/Qwen3.5-9B", 9.65, 9.65, "documents, charts, reasoning"),
    Model("Qwen/Qwen3.6-27B", 27.8, 27.8, "reasoning over documents and screens"),
    Model("Qwen/Qwen3.5-35B-A3B", 36.0, 3.0, "reasoning, at the speed of a small one"),
    Model("Qwen/Qwen3-VL-32B-Instruct", 33.4, 33.4, "pictures, boxes, long clips, at their best"),
)
MODELS = {model.model_id: model for model in (BASE, *_OTHERS)}

# For each machine the better choice first. A test holds that each fits.
CHOICES: dict[tuple[Kind, int], tuple[tuple[str, Precision], ...]] = {
    ("cpu", 8): (("Qwen/Qwen3.5-0.8B", "int8"),),
    ("cpu", 16): (("Qwen/Qwen3.5-2B", "int8"), (BASE.model_id, "int8")),
    ("gpu", 8): (("Qwen/Qwen3.5-4B", "4bit"), (BASE.model_id, "bfloat16")),
    ("gpu", 16): (("Qwen/Qwen3.5-4B", "bfloat16"), ("Qwen/Qwen3-VL-8B-Instruct", "4bit")),
    ("gpu", 24): (("Qwen/Qwen3.5-9B", "bfloat16"),),
    ("gpu", 48): (("Qwen/Qwen3.6-27B", "4bit"), ("Qwen/Qwen3-VL-32B-Instruct", "4bit")),
    ("gpu", 80): (("Qwen/Qwen3.5-35B-A3B", "bfloat16"),),
}


def needed_gb(weights: float, kind: Kind, precision: Precision) -> float:
    """Peak memory in GB (1e9 bytes) to load a model of so many 1e9 weights and to answer."""
    return weights * _GB_PER_BILLION[kind, precision] + _GB_ON_TOP[kind]


def speed(model: Model) -> str:
    """How fast it decodes against BASE in the same precision, and how that is known."""
    if model.measured_speed is not None:
        return f"{model.measured_speed:.1f}x, measured"
    return f"{BASE.active / model.active:.2g}x, reckoned"


def too_large(checkpoint_bytes: int, kind: Kind, memory_bytes: int, four_bit: bool) -> str:
    """What to tell a user whose machine cannot carry a checkpoint; "" where it can.

    `checkpoint_bytes` is the size of its weights, mostly in bfloat16; `memory_bytes` what the
    machine has in all, of the GPUs where `kind` says so.
    """
    precision: Precision = "int8" if kind == "cpu" else "4bit" if four_bit else "bfloat16"
    needed, there = needed_gb(checkpoint_bytes / 2e9, kind, precision), memory_bytes / 1e9
    if needed <= there:
        return ""
    place = "memory" if kind == "cpu" else "GPU memory"
    told = f"This model needs about {needed:.0f} GB of {place}, and there are {there:.0f} GB"
    better = better_fit(kind, there)
    if better is None:
        return f"{told}. It will be slow or run out: see --list-models, or use --model bundled."
    model_id, with_precision = better
    how = " --quantize 4bit" if with_precision == "4bit" else ""
    return f"{told}. It will be slow or run out. --model {model_id}{how} fits this machine."


def better_fit(kind: Kind, memory_gb: float) -> tuple[str, Precision] | None:
    """The first choice of the largest machine in the list that is no larger than this one."""
    sizes = [size for of, size in CHOICES if of == kind and size <= memory_gb * 1.1]
    return CHOICES[kind, max(sizes)][0] if sizes else None


HEAD = ("machine", "--model", "precision", "memory", "speed", "good at")


def rows() -> list[tuple[str, ...]]:
    """One for each choice, with the columns of HEAD."""
    found: list[tuple[str, ...]] = []
    for (kind, size), choices in CHOICES.items():
        for model_id, precision in choices:
            model = MODELS[model_id]
            told = "--quantize 4bit" if precision == "4bit" else precision
            memory = f"{needed_gb(model.weights, kind, precision):.0f} GB"
            cells = (f"{kind.upper()} {size} GB", model_id, told, memory, speed(model))
            found.append((*cells, model.good_at))
    return found


def listing() -> str:
    """For a terminal."""
    lines = [HEAD, *rows()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    told = "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return f"{told}\n\n{EXPLAINED}\nThe best one for a machine comes first."


EXPLAINED = (
    "Memory is reckoned from the number of weights; speed is that of decoding, against "
    f"{BASE.model_id} in the same precision."
)


def table() -> str:
    """Markdown, for the README."""
    lines = [HEAD, tuple("---" for _ in HEAD), *rows()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    print(table())
