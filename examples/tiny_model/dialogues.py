"""Conversations about drawn pictures, in the chat format, with their right answers.

Knows which pictures a task shows and how turns make a conversation. Knows nothing of tokens or of
training.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import plotted
import scene as scenes
import wide_documents
from clips import make_clip, make_pair
from documents import (
    draw_chart,
    draw_invoice,
    draw_screen,
    draw_text,
    frame_size,
    smallest_px,
)
from looks import illegible, make_damage
from PIL import Image, ImageFilter
from questions import OFF_TOPIC, SYSTEM_PROMPTS
from reading import LARGEST_PX, Line, Mark, Note, page
from scene import Scene
from shards import Shelf
from turns import (
    Asker,
    Turn,
    chart_turns,
    chat_turns,
    clip_turns,
    invoice_turns,
    locate_turns,
    other_turns,
    page_turns,
    pair_turns,
    scene_turns,
    screen_turns,
    text_turns,
)
from wording import ABOUT_ME, UNREADABLE, name

TASKS = (
    "scene",
    "locate",
    "text",
    "page",
    "invoice",
    "chart",
    "screen",
    "pair",
    "clip",
    "other",
    "chat",
    "illegible",
)
SHELVED = 0.3  # share of other hands' pictures that were drawn ahead, where there are such
PLOTTED = 0.35  # share of other hands' charts that Matplotlib draws, where it is installed
# Document -> what draws it by the first hand, and what asks about it.
DOCUMENTS = {
    "text": (draw_text, text_turns),
    "invoice": (draw_invoice, invoice_turns),
    "chart": (draw_chart, chart_turns),
    "screen": (draw_screen, screen_turns),
}
WIDE_DRAWERS = {
    "text": wide_documents.draw_text,
    "invoice": wide_documents.draw_invoice,
    "chart": wide_documents.draw_chart,
    "screen": wide_documents.draw_screen,
}
# Questions that nobody can answer who cannot read the print, by the beginnings of their kinds.
NEEDS_PRINT = {
    "text": ("read", "line_first", "line_last"),
    "invoice": ("invoice", "field_"),
    "chart": ("highest", "lowest", "bar_labels"),
}
# Rows and columns of 32 pixels of a page full of print.
PAGE_CELLS = ((4, 5), (5, 5), (4, 6), (5, 6), (6, 6), (5, 8), (6, 8))
# Short answers come several to a picture: seeing it is what costs.
QUICK = ("scene", "locate", "chart", "clip", "screen")
FRAME_COUNTS = (2, 3, 3, 4, 4, 5, 6, 8)
MANY_TURNS, FEW_TURNS = (1, 2, 3, 4, 4), (1, 1, 2, 3)
LONGER = 2  # times as many in training: seeing the picture is what costs
# Training draws from seeds below this one, evaluation and the tests from it upwards.
FIRST_EVAL_SEED = 1 << 40


@dataclass(frozen=True)
class Sample:
    """One conversation about some pictures.

    `shown[i]` are the printed lines and shapes of `images[i]`. `times_s` is set for
    the frames of a clip.
    """

    task: str
    lang: str
    images: tuple[Image.Image, ...]
    shown: tuple[tuple[Line | Mark, ...], ...]
    times_s: tuple[float, ...] | None
    turns: tuple[Turn, ...]
    messages: tuple[dict, ...]


def other_picture(rng: random.Random) -> Image.Image:
    """Noise, gradients, blurred blobs, waves or nothing: no shapes and no print."""
    width, height = frame_size(rng)
    noise = np.random.default_rng(rng.getrandbits(32))
    kind = rng.randrange(5)
    if kind == 0:
        return Image.new("RGB", (width, height), tuple(rng.randrange(256) for _ in range(3)))
    if kind == 1:
        pixels = noise.integers(0, 256, (height, width, 3))
    elif kind == 2:
        ends = noise.uniform(0, 255, (2, 3))
        ramp = np.linspace(0, 1, width)[None, :, None] * rng.random()
        ramp = ramp + np.linspace(0, 1, height)[:, None, None] * (1 - rng.random())
        pixels = ends[0] + (ends[1] - ends[0]) * np.clip(ramp, 0, 1)
    else:
        coarse = noise.integers(0, 256, (rng.randint(3, 9), rng.randint(3, 9), 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        if kind == 3:
            return image
        grain = noise.normal(0, 18, (height, width, 3))
        pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(2))) + grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def clip_size(rng: random.Random, ease: float) -> tuple[int, int]:
    """Width and height of a clip's frames: small, as many of them share one prompt."""
    if rng.random() < ease:
        return 128, 128
    ratio = rng.choice((16 / 9, 16 / 9, 4 / 3, 1.0, 9 / 16))
    short = rng.randint(112, 160)
    return (round(short * ratio), short) if ratio >= 1 else (short, round(short / ratio))


def marks(shown: Scene, size: tuple[int, int]) -> list[Line | Mark]:
    """The shapes as symbols at their middles."""
    found = []
    for i, shape in enumerate(shown.shapes):
        box = scenes.box_1000(shape, *size)
        middle = ((box[0] + box[2]) * size[0] / 2000, (box[1] + box[3]) * size[1] / 2000)
        note = Note("shape", i + 1, len(shown.shapes), tuple(box))
        found.append(Mark(name(shape, "en"), *middle, note))
    return found


def draw(
    task: str, rng: random.Random, ask: Asker, ease: float, wide: bool, shelf: Shelf | None
) -> tuple[list[Image.Image], list[list[Line | Mark]], tuple[float, ...] | None, Iterator[Turn]]:
    """The pictures of a task, what they show, frame times, and endless questions."""
    if task in ("scene", "locate"):
        counts = (1, 1, 2) if rng.random() < ease else (1, 2, 2, 3, 3, 4)
        shown = scenes.make_scene(rng, rng.choice(counts), wide)
        size = frame_size(rng, ease)
        turns = scene_turns(ask, shown) if task == "scene" else locate_turns(ask, shown, size)
        return [scenes.draw_scene(shown, *size)], [marks(shown, size)], None, turns
    if task in ("pair", "clip"):
        if task == "pair":
            clip = make_pair(rng, wide)
        else:
            clip = make_clip(rng, rng.choice(FRAME_COUNTS), wide)
        size = clip_size(rng, ease)
        images = [scenes.draw_scene(shown, *size) for shown in clip.scenes]
        found = [marks(shown, size) for shown in clip.scenes]
        if task == "pair":
            return images, found, None, pair_turns(ask, clip)
        return images, found, clip.times_s, clip_turns(ask, clip)
    if task == "other":
        return [other_picture(rng)], [[]], None, other_turns(ask)
    if task == "chat":
        return [], [], None, chat_turns(ask)
    if task == "illegible":
        kind = rng.choice(tuple(NEEDS_PRINT))
        printer, facts = WIDE_DRAWERS[kind](rng, ease)
        image = illegible(printer.image, max(line.size_px for line in printer.lines), rng)
        asked = DOCUMENTS[kind][1](ask, facts)
        told = UNREADABLE[ask.lang]
        honest = (
            Turn("illegible", turn.question, told)
            for turn in asked
            if turn.kind.startswith(NEEDS_PRINT[kind])
        )
        return [image], [[]], None, honest
    if task == "page":
        cells = PAGE_CELLS[0] if rng.random() < ease else rng.choice(PAGE_CELLS)
        image, lines = page(rng, cells, smallest_px(ease), LARGEST_PX)
        return [image], [lines], None, page_turns(ask, lines)
    drawer, asker = DOCUMENTS[task]
    if wide:
        drawn = shelf.take(task, rng) if shelf and rng.random() < SHELVED else None
        if drawn:
            return [drawn.image], [list(drawn.lines)], None, asker(ask, drawn.facts)
        drawer = WIDE_DRAWERS[task]
        if task == "chart" and plotted.pyplot and rng.random() < PLOTTED:
            drawer = plotted.draw_chart
    printer, facts = drawer(rng, ease)
    return [printer.image], [printer.lines], None, asker(ask, facts)


def make_sample(
    task: str,
    seed: int,
    lang: str | None = None,
    ease: float = 0.0,
    longer: bool = False,
    retold: int = 0,
    wide: bool = False,
    shelf: Shelf | None = None,
) -> Sample:
    """One conversation of 1 to 4 turns, up to 8 if `longer`; the same arguments give the same.

    The pictures follow from `task`, `seed`, `ease` and `wide` alone; `retold` asks anew about them.
    `wide` has them drawn by other hands than the first, some of them ahead on the `shelf`.
    """
    rng = random.Random(f"{seed} {longer} {retold}")
    ask = Asker(rng, lang or rng.choice(("en", "en", "zh")))
    drawn = random.Random(seed)
    images, shown, times_s, stream = draw(task, drawn, ask, ease, wide, shelf)
    if wide:
        damage = make_damage(drawn)
        images = [damage(image) for image in images]
    turns: list[Turn] = []
    most = 1 if task in ("pair", "page") else rng.choice(MANY_TURNS if task in QUICK else FEW_TURNS)
    if longer and task in QUICK:
        most *= LONGER
    for _ in range(40):
        if len(turns) == most:
            break
        if rng.random() < 0.04 and task not in ("chat", "other"):
            off_topic = rng.choice(OFF_TOPIC[ask.lang == "zh"])
            turns.append(Turn("off_topic", off_topic, ABOUT_ME[ask.lang]))
            continue
        turn = next(stream)
        if all(turn.question != old.question for old in turns):
            turns.append(turn)
    messages = conversation(rng, task, images, times_s, turns)
    return Sample(
        task,
        ask.lang,
        tuple(images),
        tuple(tuple(part) for part in shown),
        times_s,
        tuple(turns),
        tuple(messages),
    )


def conversation(
    rng: random.Random,
    task: str,
    images: list[Image.Image],
    times_s: tuple[float, ...] | None,
    turns: list[Turn],
) -> list[dict]:
    """Messages in the chat format: pictures first, then the question, then the answer, ..."""
    messages = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    parts: list[dict] = []
    for i, image in enumerate(images):
        if times_s is not None:
            parts.append({"type": "text", "text": f"<{times_s[i]:.1f} seconds>"})
        parts.append({"type": "image", "image": image})
    first = {"type": "text", "text": turns[0].question}
    order = rng.random()
    if len(images) == 1 and order < 0.08:
        parts.insert(0, first)
    elif task == "pair" and order < 0.08:
        parts.insert(1, first)
    elif task == "pair" and order < 0.16:
        parts.insert(0, first)
    else:
        parts.append(first)
    messages.append({"role": "user", "content": parts})
    messages.append({"role": "assistant", "content": turns[0].answer})
    for turn in turns[1:]:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages
