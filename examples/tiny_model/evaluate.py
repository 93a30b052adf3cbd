"""Ask the saved model about freshly drawn pictures and print what it gets right.

    python examples/tiny_model/evaluate.py            # prints three tables
    python examples/tiny_model/evaluate.py --write    # and puts them into README.md

The first table is of pictures by Cairo, which training never draws with (it needs cairocffi), the
second of the sixty pictures in `others/`, by one-off scripts, the third of pictures by training's
own first hand.

The seeds lie above every seed that training uses. Half of the questions are first turns, half are
follow-ups; English and Chinese alternate.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from dialogues import FIRST_EVAL_SEED, Sample, make_sample
from others_hand import Question, questions
from processor import Asked
from turns import Turn

HERE = Path(__file__).parent
BATCH = 16


@dataclass(frozen=True)
class Case:
    """A conversation up to a question, and the right answer."""

    messages: list[dict]
    turn: Turn


@dataclass(frozen=True)
class Row:
    """One line of the table. `score` gives (points, out of) of one answer."""

    name: str
    task: str
    kinds: tuple[str, ...]  # none: every kind of question
    metric: str
    target: str
    score: Callable[[str, str], tuple[float, float]]
    is_error: bool = False


def exact(answer: str, truth: str) -> tuple[float, float]:
    """1 if the answer is the truth."""
    return float(answer.strip() == truth), 1


def edits(answer: str, truth: str) -> tuple[float, float]:
    """Levenshtein distance, and the number of true characters."""
    row = list(range(len(answer) + 1))
    for i, char in enumerate(truth, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(answer, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (char != other))
    return float(row[-1]), len(truth)


def iou(one: list[float], two: list[float]) -> float:
    """Intersection over union of two [x1, y1, x2, y2]."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    inside = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return inside / (areas - inside) if areas > inside else 0.0


def boxes(answer: str, truth: str) -> tuple[float, float]:
    """IoU of every true box with the given box of the same label; nothing for a missing one."""
    true = json.loads(truth)
    try:
        given = {part["label"]: part["bbox_2d"] for part in json.loads(answer)}
        if not true:
            return float(not given), 1
        return sum(iou(given.get(b["label"], [0] * 4), b["bbox_2d"]) for b in true), len(true)
    except (ValueError, KeyError, TypeError, IndexError):
        return 0.0, max(1, len(true))


def fields(answer: str, truth: str) -> tuple[float, float]:
    """How many fields of the JSON are right."""
    true = json.loads(truth)
    try:
        given = json.loads(answer)
        return float(sum(given.get(key) == value for key, value in true.items())), len(true)
    except (ValueError, AttributeError):
        return 0.0, len(true)


def events(answer: str, truth: str) -> tuple[float, float]:
    """How many lines of the timeline are right; invented lines count against it."""
    true, given = truth.split("\n"), answer.strip().split("\n")
    return float(len(set(true) & set(given))), max(len(true), len(given))


ROWS = (
    Row("scene", "scene", (), "answers exactly right", "95 %", exact),
    Row("chart", "chart", (), "answers exactly right", "95 %", exact),
    Row("locate", "locate", ("locate", "locate_all"), "mean IoU of boxes", "0.75", boxes),
    Row("text", "text", ("read",), "character error rate", "5 %", edits, is_error=True),
    Row("invoice", "invoice", ("invoice",), "fields right", "90 %", fields),
    Row("timeline", "clip", ("timeline",), "events right", "90 %", events),
    Row("clip questions", "clip", ("at_time", "event_at", "when"), "exactly right", "-", exact),
    Row("two pictures", "pair", (), "answers exactly right", "-", exact),
    Row("screen", "screen", ("screen", "buttons", "fields", "screen_title", "describe"),
        "answers exactly right", "-", exact),
    Row("screen boxes", "screen", ("locate",), "mean IoU of boxes", "-", boxes),
    Row("invoice questions", "invoice",
        tuple(f"field_{key}" for key in ("invoice_no", "date", "due_date", "customer", "tax",
                                         "total")), "exactly right", "-", exact),
    Row("off-topic", "other", (), "honest answers", "-", exact),
    Row("no picture", "chat", (), "honest answers", "-", exact),
    Row("illegible print", "illegible", (), "honest answers", "-", exact),
)  # fmt: skip


UNSEEN_ROWS = (
    Row("scene", "scene", (), "answers exactly right", "-", exact),
    Row("counting", "scene", ("count", "count_kind"), "answers exactly right", "85 %", exact),
    Row("naming", "scene", ("at", "colour", "exists"), "answers exactly right", "85 %", exact),
    Row("chart, highest and lowest", "chart", ("highest", "lowest"), "answers exactly right",
        "85 %", exact),
    Row("chart", "chart", (), "answers exactly right", "-", exact),
    Row("locate", "locate", ("locate", "locate_all"), "mean IoU of boxes", "0.65", boxes),
    Row("text", "text", ("read",), "character error rate", "10 %", edits, is_error=True),
    Row("invoice", "invoice", ("invoice",), "fields right", "80 %", fields),
    Row("timeline", "clip", ("timeline",), "events right", "85 %", events),
    Row("screen", "screen", ("screen", "buttons", "fields", "screen_title", "describe"),
        "answers exactly right", "-", exact),
    Row("screen boxes", "screen", ("locate",), "mean IoU of boxes", "-", boxes),
)  # fmt: skip


OTHERS_ROWS = (
    Row("counting", "counting", (), "answers exactly right", "85 %", exact),
    Row("naming", "naming", (), "answers exactly right", "85 %", exact),
    Row("chart, highest and lowest", "chart", (), "answers exactly right", "85 %", exact),
    Row("locate", "locate", (), "mean IoU of boxes", "0.65", boxes),
    Row("text", "text", (), "character error rate", "10 %", edits, is_error=True),
    Row("invoice", "invoice", (), "fields right", "80 %", fields),
)


def make_sample_of(hand: str, task: str, seed: int, lang: str) -> Sample:
    """A conversation about a picture drawn by a `hand`: "own" or "unseen"."""
    if hand == "own":
        return make_sample(task, seed, lang=lang)
    from unseen import make_unseen  # Cairo is needed for this only

    return make_unseen(task, seed, lang)


def make_cases(row: Row, count: int, hand: str = "own") -> list[Case]:
    """`count` questions of the row's kinds on fresh pictures."""
    cases: list[Case] = []
    seed = FIRST_EVAL_SEED + sum(map(ord, row.name)) * 1_000_000
    while len(cases) < count:
        sample = make_sample_of(hand, row.task, seed, ("en", "zh")[len(cases) % 2])
        seed += 1
        at = 0 if len(cases) // 2 % 2 == 0 else len(sample.turns) - 1
        turn = sample.turns[at]
        if row.kinds and turn.kind not in row.kinds:
            continue
        ends = [i for i, message in enumerate(sample.messages) if message["role"] == "assistant"]
        cases.append(Case(list(sample.messages[: ends[at]]), turn))
    return cases


def run(
    asked: Asked, rows: tuple[Row, ...], count: int, show: int, hand: str = "own"
) -> dict[str, float]:
    """The reached value of every row; prints the first `show` wrong answers of each."""
    reached = {}
    for row in rows:
        cases = make_cases(row, count, hand)
        points = out_of = shown = 0.0
        # Answers of like length share a batch: the longest one sets its time.
        cases.sort(key=lambda case: len(case.turn.answer))
        for start in range(0, count, BATCH):
            batch = cases[start : start + BATCH]
            answers = asked.answer([case.messages for case in batch])
            for case, answer in zip(batch, answers, strict=True):
                got, whole = row.score(answer, case.turn.answer)
                points, out_of = points + got, out_of + whole
                if answer != case.turn.answer and shown < show:
                    shown += 1
                    print(f"{row.name}: {case.turn.question!r}\n  true  {case.turn.answer!r}\n"
                          f"  given {answer!r}")  # fmt: skip
        reached[row.name] = points / out_of
        print(f"{hand} {row.name} {reached[row.name]:.3f}", file=sys.stderr, flush=True)
    return reached


def answer_others(asked: Asked) -> list[tuple[Question, str]]:
    """Each of the sixty questions with the model's answer."""
    told = questions()
    answers: list[str] = []
    for start in range(0, len(told), BATCH):
        answers += asked.answer([one.messages() for one in told[start : start + BATCH]])
    return list(zip(told, answers, strict=True))


def others_table(answered: list[tuple[Question, str]]) -> str:
    """The Markdown table of the sixty pictures; each row says how many there are."""
    lines = ["| task | metric | target | reached | questions |", "|---|---|---|---|---|"]
    for row in OTHERS_ROWS:
        own = [(one, given) for one, given in answered if one.row == row.task]
        points, whole = map(
            sum, zip(*(row.score(given, one.answer) for one, given in own), strict=True)
        )
        lines.append(table_line(row, points / whole, len(own)))
    return "\n".join(lines)


def card_table(answered: list[tuple[Question, str]], count: int = 20) -> str:
    """Every third of the sixty for the model card, right or wrong as they come."""
    lines = ["| picture | question | right | its answer |", "|---|---|---|---|"]
    for one, given in answered[:: len(answered) // count][:count]:
        said = "the same" if given.strip() == one.answer else given.strip()
        cells = (f"`{one.picture.name}`", one.text, one.answer, said)
        lines.append("| " + " | ".join(part.replace("\n", " / ") for part in cells) + " |")
    return "\n".join(lines)


def table(rows: tuple[Row, ...], reached: dict[str, float], count: int) -> str:
    """The Markdown table."""
    lines = ["| task | metric | target | reached | questions |", "|---|---|---|---|---|"]
    for row in rows:
        lines.append(table_line(row, reached[row.name], count))
    return "\n".join(lines)


def table_line(row: Row, value: float, count: int) -> str:
    """One line of a table."""
    said = f"{value:.2f}" if "IoU" in row.metric else f"{value * 100:.1f} %"
    limit = f"≤ {row.target}" if row.is_error else row.target
    return f"| {row.name} | {row.metric} | {limit} | {said} | {count} |"


def write_table(text: str, name: str, readme: Path) -> None:
    """Replace what stands between the two marks of this name."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = readme.read_text().split(start)
    after = rest.split(end)[1]
    readme.write_text(f"{before}{start}\n{text}\n{end}{after}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--n", type=int, default=60, help="questions per row")
    parser.add_argument("--rows", nargs="*", help="only these rows")
    parser.add_argument("--show", type=int, default=0, help="print so many wrong answers per row")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--hand", choices=("unseen", "others", "own"), help="only this table")
    args = parser.parse_args()
    torch.manual_seed(0)
    asked = Asked(args.model)
    if args.hand in (None, "others") and not args.rows:
        answered = answer_others(asked)
        tables = {"others": others_table(answered), "twenty": card_table(answered)}
        for name, text in tables.items():
            print(f"{name}\n{text}", flush=True)
            if args.write:
                write_table(text, name, HERE / "README.md")
    for hand, of_hand in (("unseen", UNSEEN_ROWS), ("own", ROWS)):
        if args.hand not in (None, hand):
            continue
        rows = tuple(row for row in of_hand if not args.rows or row.name in args.rows)
        text = table(rows, run(asked, rows, args.n, args.show, hand), args.n)
        print(f"{hand}\n{text}", flush=True)
        if args.write:
            write_table(text, hand, HERE / "README.md")


if __name__ == "__main__":
    main()
