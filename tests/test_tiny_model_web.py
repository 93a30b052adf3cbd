"""The tiny model's pages drawn by a browser: labels are true, nothing is cut off, shards keep all.

Needs a browser, no trained weights and no network.
"""

from __future__ import annotations

import ast
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.browser_app import CHROMIUM

FOLDER = Path(__file__).parent.parent / "examples" / "tiny_model"
sys.path.insert(0, str(FOLDER))

import dialogues  # noqa: E402
import fonts  # noqa: E402
import shards  # noqa: E402
import train  # noqa: E402
import web_hand  # noqa: E402
import web_pages  # noqa: E402

TASKS = tuple(web_pages.PAGES)
EACH = 15


@pytest.fixture(scope="module")
def hand() -> Iterator[web_hand.WebHand]:
    with web_hand.web_hand(CHROMIUM) as started:
        yield started


@pytest.fixture(scope="module")
def drawn(hand: web_hand.WebHand) -> dict[str, list[shards.Drawn]]:
    """Some pictures of each task."""
    return {
        task: [shards.Drawn(task, *hand.draw(task, random.Random(seed))) for seed in range(EACH)]
        for task in TASKS
    }


@pytest.fixture(scope="module")
def shelf(
    drawn: dict[str, list[shards.Drawn]], tmp_path_factory: pytest.TempPathFactory
) -> shards.Shelf:
    folder = tmp_path_factory.mktemp("shards")
    for task, pictures in drawn.items():
        shards.write_shard(folder / f"{task}.zip", pictures)
    return shards.Shelf(folder)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_cut_off(drawn: dict[str, list[shards.Drawn]], task: str) -> None:
    for one in drawn[task]:
        width, height = one.image.size
        assert max(width, height) <= min(512, 2 * min(width, height) + 1)
        for line in one.lines:
            assert len(line.middles) == len(line.text)
            assert list(line.middles) == sorted(line.middles)
            assert 0 <= line.x <= line.middles[0]
            assert line.middles[-1] < width
            assert line.size_px * 0.3 <= line.y_centre <= height - line.size_px * 0.3
            assert set(line.text) <= set(fonts.CHARS) | {" "}


@pytest.mark.parametrize("task", TASKS)
def test_each_character_has_ink_where_its_label_says(
    drawn: dict[str, list[shards.Drawn]], task: str
) -> None:
    for one in drawn[task]:
        pixels = np.asarray(one.image.convert("L")).astype(int)
        for line in one.lines:
            half = line.size_px * 0.6
            rows = pixels[max(0, round(line.y_centre - half)) : round(line.y_centre + half) + 1]
            for char, middle in zip(line.text, line.middles, strict=True):
                reach = max(2, line.size_px * 0.35)
                patch = rows[:, max(0, round(middle - reach)) : round(middle + reach) + 1]
                assert char == " " or patch.max() - patch.min() >= 25, (line, char)


@pytest.mark.parametrize("task", TASKS)
def test_facts_are_printed_and_lie_where_they_are_said_to(
    drawn: dict[str, list[shards.Drawn]], task: str
) -> None:
    for one in drawn[task]:
        printed = {line.text: line for line in one.lines}
        noted = [(line.note.role, line.text) for line in one.lines]
        if isinstance(one.facts, list):
            assert [line.text for line in one.lines] == one.facts
            tops = [line.y_centre for line in one.lines]
            assert tops == sorted(tops)
        elif isinstance(one.facts, dict):
            assert set(one.facts.items()) <= set(noted)
        elif task == "chart":
            named = [text for role, text in noted if role in ("bar", "highest", "lowest")]
            assert named == list(one.facts.labels)
            best = one.facts.labels[one.facts.values.index(max(one.facts.values))]
            assert ("highest", best) in noted
            values = [text for role, text in noted if role == "value"]
            shown = [str(value) for value in one.facts.values]
            assert values == (shown if one.facts.values_printed else [])
        else:
            width, height = one.image.size
            for name, box in one.facts.buttons.items():
                line = next(x for x in one.lines if x.text == name and x.note.role == "button")
                assert box[0] <= line.middles[0] * 1000 / width <= box[2]
                assert box[1] <= line.y_centre * 1000 / height <= box[3]
                assert line.note.box == tuple(box)
            for name, box in one.facts.fields.items():
                assert printed[name].y_centre * 1000 / height <= box[1]


def pictures_of(
    task: str, many: int, drawn: dict[str, list[shards.Drawn]], hand: web_hand.WebHand
) -> Iterator[shards.Drawn]:
    """Those of the first `many` seeds, one by one."""
    yield from drawn[task]
    for seed in range(EACH, many):
        yield shards.Drawn(task, *hand.draw(task, random.Random(seed)))


def test_the_higher_bar_is_drawn_higher(
    drawn: dict[str, list[shards.Drawn]], hand: web_hand.WebHand
) -> None:
    """Above a bar of another colour than the ground stands its value, where values are printed."""
    upright = 0
    for one in pictures_of("chart", 40, drawn, hand):
        values = [line for line in one.lines if line.note.role == "value"]
        names = [line for line in one.lines if line.note.role in ("bar", "highest", "lowest")]
        if not values or names[0].y_centre != names[1].y_centre:
            continue
        upright += 1
        by_height = sorted(values, key=lambda line: -line.y_centre)
        steps = [int(line.text) for line in by_height]
        assert steps == sorted(one.facts.values)
    assert upright > 3


def test_print_comes_in_all_sizes_light_and_dark(
    drawn: dict[str, list[shards.Drawn]], hand: web_hand.WebHand
) -> None:
    sizes, grounds = set[int](), list[int]()
    for one in pictures_of("text", 60, drawn, hand):
        sizes |= {line.size_px for line in one.lines}
        grounds.append(int(np.median(np.asarray(one.image.convert("L")))))
        if min(sizes) <= 14 and max(sizes) >= 38 and min(grounds) < 60 and max(grounds) > 240:
            return
    pytest.fail(f"{min(sizes)} to {max(sizes)} pixels on {min(grounds)} to {max(grounds)}")


def test_the_same_seed_draws_the_same_bytes(
    drawn: dict[str, list[shards.Drawn]], hand: web_hand.WebHand, tmp_path: Path
) -> None:
    again = [shards.Drawn(task, *hand.draw(task, random.Random(7))) for task in TASKS]
    shards.write_shard(tmp_path / "one.zip", [drawn[task][7] for task in TASKS])
    shards.write_shard(tmp_path / "two.zip", again)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_a_shard_gives_back_what_was_drawn(
    drawn: dict[str, list[shards.Drawn]], shelf: shards.Shelf
) -> None:
    assert len(shelf) == EACH * len(TASKS)
    for task in TASKS:
        for seed in range(10):
            taken = shelf.take(task, random.Random(seed))
            (same,) = (
                one
                for one in drawn[task]
                if (one.lines, one.facts) == (taken.lines, taken.facts)
                and one.image.tobytes() == taken.image.tobytes()
            )
            assert same.task == task
    assert shelf.take("scene", random.Random(0)) is None


def test_a_shard_that_grows_too_large_is_refused(
    drawn: dict[str, list[shards.Drawn]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MOST_BYTES", 1_000)
    with pytest.raises(ValueError, match="fewer pictures"):
        shards.write_shard(tmp_path / "large.zip", drawn["text"])
    assert not (tmp_path / "large.zip").exists()


@pytest.mark.parametrize("task", TASKS)
def test_training_asks_about_pictures_drawn_ahead(shelf: shards.Shelf, task: str) -> None:
    ahead = 0
    for seed in range(30):
        sample = dialogues.make_sample(task, seed, wide=True, shelf=shelf)
        again = dialogues.make_sample(task, seed, wide=True, shelf=shelf)
        assert sample.turns == again.turns
        assert sample.images[0].tobytes() == again.images[0].tobytes()
        ahead += any(line.middles for line in sample.shown[0])
        for turn in sample.turns:
            if turn.kind == "read":
                assert turn.answer.split("\n") == [line.text for line in sample.shown[0]]
    assert 8 < ahead < 28


def test_an_empty_folder_says_who_makes_shards(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"draw\.py"):
        shards.Shelf(tmp_path)


def test_recall_does_not_take_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train.py", "--stage", "recall", "--shards", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2
    assert "--shards is for read and talk" in capsys.readouterr().err


def test_what_draws_ahead_does_not_know_the_evaluation() -> None:
    todo, known = ["draw"], set()
    while todo:
        module = todo.pop()
        if module in known:
            continue
        known.add(module)
        path = FOLDER / f"{module}.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8"))) if path.exists() else ():
            if isinstance(node, ast.Import):
                todo += [name.name.split(".")[0] for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                todo.append(node.module.split(".")[0])
    assert {"web_hand", "web_pages", "shards"} <= known
    assert not {"unseen", "cairocffi", "evaluate", "others"} & known
