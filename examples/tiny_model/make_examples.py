"""Draw the pictures, the clip and the prompts that the demo shows as examples.

    python examples/tiny_model/make_examples.py

Seeds are tried until the saved model answers every prompt about a picture exactly right, and only
right ones are kept: an example that fails would teach the visitor the wrong thing about the page.
`--first` takes the first seed unasked. Writes examples/images/*.png, examples/clip.webm and
examples/prompts.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import dialogues
import numpy as np
import scene as scenes
from clips import Clip, make_clip
from evaluate import boxes
from PIL import Image
from processor import Asked
from questions import QUESTIONS
from turns import Asker, Turn, clip_turns

EXAMPLES = Path(__file__).parent.parent
FPS, STEP_S, CLIP_SCENES = 10, 5, 4  # the page takes a frame every 5 s
CLIP_SIZE = (320, 180)
CLIP_TIMES_S = tuple(float(STEP_S * i) for i in range(CLIP_SCENES))
GOOD_IOU = 0.6
MOST_TRIES = 40  # pictures per task
EASE = 0.3  # how often a picture is an easy one
FIRST_SEED = 7_000_000_000  # between the seeds of the talk and the recall stage


@dataclass(frozen=True)
class Wanted:
    """One example: its picture files, task, and the kind of question in each language."""

    files: tuple[str, ...]
    task: str
    kinds: tuple[tuple[str, str], ...]  # (language, kind)


# In the order of the page, where a narrow one shows the first four alone.
WANTED = (
    Wanted(("invoice.png",), "invoice", (("en", "invoice"), ("zh", "invoice"))),
    Wanted(("chart.png",), "chart", (("en", "highest"), ("zh", "trend"))),
    Wanted(("locate.png",), "locate", (("en", "locate"), ("zh", "locate_all"))),
    Wanted(("screen.png",), "screen", (("en", "screen"), ("zh", "screen"))),
    Wanted(("scene.png",), "scene", (("en", "describe"), ("zh", "describe"))),
    Wanted(("before.png", "after.png"), "pair", (("en", "differ"), ("zh", "differ"))),
    Wanted(("text.png",), "text", (("en", "read"), ("zh", "read"))),
)
LEAST_LINES = 3  # of a text to read


class PlainAsker(Asker):
    """Asks in the first, plainest wording."""

    def turn(self, kind: str, answer: str, **names: str) -> Turn:
        """The first paraphrase with its answer."""
        question = QUESTIONS[kind][self.lang == "zh"][0]
        for key, value in names.items():
            question = question.replace("{" + key + "}", value)
        return Turn(kind, question, answer)


def plain_turn(task: str, seed: int, lang: str, kind: str) -> tuple[list[Image.Image], Turn]:
    """The pictures of a seed and a plainly worded question of this kind with its answer."""
    ask = PlainAsker(random.Random(seed), lang)
    wide = task in dialogues.WIDE_DRAWERS  # documents as others print them
    images, _, _, stream = dialogues.draw(task, random.Random(seed), ask, EASE, wide, None)
    for turn in stream:
        if turn.kind == kind and turn.answer != "[]":
            return images, turn
    raise AssertionError("streams do not end")


def good_looking(task: str, images: list[Image.Image], answer: str) -> bool:
    """Large enough to look at, and not the dullest case of its task."""
    if task == "text":
        return images[0].height <= 400 and len(answer.splitlines()) >= LEAST_LINES
    return min(images[0].size) >= 140


def prompts_for(asked: Asked | None, wanted: Wanted) -> tuple[list[Image.Image], list[dict]]:
    """The pictures about which the model answers most prompts rightly, and those prompts."""
    first = FIRST_SEED + 1000 * WANTED.index(wanted)
    best: tuple[list[Image.Image], list[dict]] = ([], [])
    tried = 0
    for seed in itertools.count(first):
        drawn = [plain_turn(wanted.task, seed, lang, kind) for lang, kind in wanted.kinds]
        images, turns = drawn[0][0], [turn for _, turn in drawn]
        if not good_looking(wanted.task, images, turns[0].answer) or "change" in turns[0].answer:
            continue
        tried += 1
        right = are_right(asked, images, None, turns) if asked else [True] * len(turns)
        prompts = [
            {
                "images": [f"images/{file}" for file in wanted.files],
                "video": None,
                "text": turn.question,
                "lang": lang,
                "task": wanted.task,
                "answer": turn.answer,
            }
            for (lang, _), turn, good in zip(wanted.kinds, turns, right, strict=True)
            if good
        ]
        if len(prompts) > len(best[1]) or not best[0]:
            best = images, prompts
        if all(right) or tried == MOST_TRIES:
            return best
    raise AssertionError("counting does not end")


def are_right(
    asked: Asked, images: list[Image.Image], times_s: tuple[float, ...] | None, turns: list[Turn]
) -> list[bool]:
    """Which of these questions the model answers exactly; boxes may be off by a little."""
    answers = asked.answer([ask_about(images, times_s, turn.question) for turn in turns])
    right = []
    for answer, turn in zip(answers, turns, strict=True):
        if turn.kind.startswith("locate"):
            points, out_of = boxes(answer, turn.answer)
            right.append(points >= GOOD_IOU * out_of)
        else:
            right.append(answer == turn.answer)
    return right


def ask_about(
    images: list[Image.Image], times_s: tuple[float, ...] | None, question: str
) -> list[dict]:
    """One user message: pictures, or frames with their times, then the question."""
    turn = Turn("", question, "")
    messages = dialogues.conversation(_Straight(), "clip", images, times_s, [turn])
    return messages[:1]


class _Straight(random.Random):
    """Makes `conversation` take its usual order, without a system prompt."""

    def random(self) -> float:
        return 0.99


def clip_prompts(asked: Asked | None) -> tuple[Clip, list[dict]]:
    """A clip with one event every few seconds, and the prompts that the model answers rightly."""
    said = (("en", "timeline"), ("zh", "timeline"), ("en", "at_time"))
    best: tuple[Clip | None, list[dict]] = (None, [])
    tried = 0
    for seed in itertools.count(FIRST_SEED):
        clip = make_clip(random.Random(seed), CLIP_SCENES)
        if not all(clip.events[1:]) or not clip.scenes[0].shapes:
            continue
        tried += 1
        clip = replace(clip, times_s=CLIP_TIMES_S)
        images = [scenes.draw_scene(shown, *CLIP_SIZE) for shown in clip.scenes]
        turns = []
        for lang, kind in said:
            stream = clip_turns(PlainAsker(random.Random(seed), lang), clip)
            turns.append(next(turn for turn in stream if turn.kind == kind))
        right = are_right(asked, images, CLIP_TIMES_S, turns) if asked else [True] * len(turns)
        prompts = [
            {
                "images": [],
                "video": "clip.webm",
                "text": turn.question,
                "lang": lang,
                "task": "clip",
                "answer": turn.answer,
            }
            for (lang, _), turn, good in zip(said, turns, right, strict=True)
            if good
        ]
        if len(prompts) > len(best[1]) or best[0] is None:
            best = clip, prompts
        if all(right) or tried == MOST_TRIES:
            return best
    raise AssertionError("counting does not end")


def frames(clip: Clip) -> Iterator[np.ndarray]:
    """BGR frames: every scene stands still until the next event."""
    for shown in clip.scenes:
        frame = np.asarray(scenes.draw_scene(shown, *CLIP_SIZE))[:, :, ::-1]
        yield from (np.ascontiguousarray(frame) for _ in range(FPS * STEP_S))


def write_clip(clip: Clip, path: Path) -> None:
    """VP8 in WebM, which every browser plays."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), FPS, CLIP_SIZE)
    if not writer.isOpened():
        raise SystemExit("this OpenCV cannot write VP8")
    for frame in frames(clip):
        writer.write(frame)
    writer.release()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--first", action="store_true", help="do not ask the model")
    args = parser.parse_args()
    asked = None if args.first else Asked(args.model)
    (EXAMPLES / "images").mkdir(exist_ok=True)
    prompts: list[dict] = []
    for wanted in WANTED:
        images, found = prompts_for(asked, wanted)
        for file, image in zip(wanted.files, images, strict=True):
            image.save(EXAMPLES / "images" / file, optimize=True)
        prompts += found
    clip, found = clip_prompts(asked)
    write_clip(clip, EXAMPLES / "clip.webm")
    text = json.dumps(prompts + found, ensure_ascii=False, indent=1)
    (EXAMPLES / "prompts.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
