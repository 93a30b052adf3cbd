"""Which place in which picture each part of a right answer was taken from.

Training tells some attention heads where to look, as supervised attention does in translation (Liu
et al., "Neural Machine Translation with Supervised Attention", 2016): finding out alone that an
answer is copied from a picture, one character after the other, takes a small model very long.
Knows what is shown and how answers are worded. Knows nothing of tokens or of the model.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from dialogues import Sample
from reading import BARS, Line, Mark
from turns import Turn
from wording import ZH


class Spot(NamedTuple):
    """A point of picture number `image`, in its pixels."""

    image: int
    x: float
    y: float


# What the first of them knows, as all of them do: how many there are, whether they rise.
ABOUT_ALL = {"count", "line_count", "bars", "trend"}
# Print with other roles is asked for by some questions only.
ALWAYS = {
    "line", "button", "field", "bar", "highest", "lowest",
    "invoice_no", "date", "due_date", "customer", "tax", "total",
}  # fmt: skip
ROLES_OF = {"value": ALWAYS | {"value"}, "screen_title": {"title"}}
SCREEN_DESCRIBED = ('An app screen "', '应用界面 "')
CLAUSE_END = re.compile(r": |, | and |、|和|，|：|。|\. |\n")
STAMP = re.compile(r"(\d+\.\d) ?(?:s\b|秒)")


def spots(sample: Sample, turn: Turn) -> list[Spot | None]:
    """For each character of the turn's answer the place that it tells of, where there is one."""
    found: list[Spot | None] = [None] * len(turn.answer)
    parts = [part for shown in sample.shown for part in shown]
    lines = [part for part in parts if isinstance(part, Line)]
    if turn.kind in ABOUT_ALL and parts:
        first = next(part for part in parts if part.note.role in ("shape", "line", *BARS))
        x = first.x if isinstance(first, Mark) else first.centres()[0]
        return [Spot(0, x, first.y_centre)] * len(turn.answer)
    if lines:
        _follow_print(found, turn, lines)
    elif parts:
        _follow_shapes(found, sample, turn)
    return found


def _follow_print(found: list[Spot | None], turn: Turn, lines: list[Line]) -> None:
    answer = turn.answer
    roles = ROLES_OF.get(turn.kind, ALWAYS)
    if answer.startswith(SCREEN_DESCRIBED):
        roles = roles | {"title"}
    same: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line.note is None or line.note.role in roles:
            same[line.text].append(line)
    first = len("A bar chart") if answer.startswith("A bar chart") else 0
    for text in sorted(same, key=len, reverse=True):
        # Letters and digits beside it would make it part of another word.
        whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])")
        matches = [
            match
            for match in whole.finditer(answer, first)
            if not any(found[match.start() : match.end()])
        ]
        for i, match in enumerate(matches):
            line = same[text][min(i, len(same[text]) - 1)]
            for at, x in zip(range(*match.span()), line.centres(), strict=True):
                found[at] = Spot(0, x, line.y_centre)
    # What leads to a print looks at it already: the numbers of its box, the name of its field, or
    # the comma that says that one more follows.
    spot = None
    for at in range(len(answer) - 1, -1, -1):
        spot = found[at] or spot
        found[at] = spot


def _follow_shapes(found: list[Spot | None], sample: Sample, turn: Turn) -> None:
    image, stamped = _asked_frame(sample, turn.question)
    clauses = _boxes(turn.answer) if turn.answer.startswith("[") else _clauses(turn.answer)
    for start, stop in clauses:
        clause = turn.answer[start:stop]
        if stamp := STAMP.search(clause):
            image, stamped = _frame_at(sample, float(stamp[1])), True
        candidates = [image] if stamped and image == 0 else [image, image - 1]
        for frame in candidates if len(sample.images) > 1 else [0]:
            told = [
                mark
                for mark in sample.shown[frame]
                if isinstance(mark, Mark) and _is_told(mark, clause)
            ]
            if len(told) == 1:
                # A shape that is gone is told from the place that it left.
                found[start:stop] = [Spot(image, told[0].x, told[0].y_centre)] * (stop - start)
            if told:
                break


def _asked_frame(sample: Sample, question: str) -> tuple[int, bool]:
    """The frame that a question names by its time; else the last one."""
    if sample.times_s and (stamp := STAMP.search(question)):
        return _frame_at(sample, float(stamp[1])), True
    return len(sample.images) - 1, False


def _frame_at(sample: Sample, time_s: float) -> int:
    if sample.times_s and time_s in sample.times_s:
        return sample.times_s.index(time_s)
    return len(sample.images) - 1


def _is_told(mark: Mark, clause: str) -> bool:
    colour, kind = mark.symbol.split(" ")
    words = clause.lower()
    return (colour in words and kind in words) or (ZH[colour] in clause and ZH[kind] in clause)


def _clauses(answer: str) -> Iterator[tuple[int, int]]:
    """(start, stop) of the parts of a sentence; what leads to a part belongs to it."""
    start = 0
    for end in CLAUSE_END.finditer(answer):
        if end[0] in (": ", "："):  # "There are two shapes: a red circle ..." counts with the first
            continue
        yield start, end.end()
        start = end.end()
    yield start, len(answer)


def _boxes(answer: str) -> Iterator[tuple[int, int]]:
    start = 0
    for end in re.finditer(r"\}", answer):
        yield start, end.end()
        start = end.end()
