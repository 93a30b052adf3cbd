"""The sixty pictures by one-off scripts: all asked, by many hands, and unknown to training."""

from __future__ import annotations

import ast
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent.parent / "examples" / "tiny_model"
sys.path.insert(0, str(FOLDER))

import evaluate  # noqa: E402
import others_hand  # noqa: E402

ALLOWED = {"__future__", "asked", "cv2", "io", "json", "numpy", "pathlib", "PIL", "playwright",
           "pypdfium2", "reportlab", "shutil"}  # fmt: skip


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def test_there_are_sixty_small_pictures_each_with_one_question() -> None:
    asked = others_hand.questions()
    names = [one.picture.name for one in asked]
    assert len(names) == len(set(names)) == 60
    assert set(names) == {path.name for path in (others_hand.FOLDER / "pictures").glob("*.png")}
    hands = Counter(name.split("-")[0] for name in names)
    assert set(hands.values()) == {10}
    assert len(hands) == 6
    assert {one.row for one in asked} == {row.task for row in evaluate.OTHERS_ROWS}
    for one in asked:
        assert one.picture.stat().st_size < 100_000
        pixels = np.asarray(Image.open(one.picture).convert("RGB")).astype(int)
        assert np.ptp(pixels, axis=(0, 1)).max() > 50, one.picture  # something is drawn


def test_a_right_answer_scores_in_full() -> None:
    rows = {row.task: row for row in evaluate.OTHERS_ROWS}
    for one in others_hand.questions():
        row = rows[one.row]
        points, whole = row.score(one.answer, one.answer)
        assert points == (0 if row.is_error else whole)
        if one.row == "invoice":
            assert set(json.loads(one.answer)) == {"invoice_no", "date", "customer", "total"}
    answered = [(one, one.answer) for one in others_hand.questions()]
    assert evaluate.others_table(answered).count("100.0 %") == 4
    assert evaluate.card_table(answered).count("the same") == 20


def test_no_script_knows_the_drawers_and_training_does_not_know_the_scripts() -> None:
    scripts = list(others_hand.FOLDER.glob("*.py"))
    assert len(scripts) == 6
    for path in scripts:
        assert imported(path) <= ALLOWED, path.name
    knowing = {path.stem for path in FOLDER.glob("*.py") if "others_hand" in imported(path)}
    assert knowing == {"evaluate"}
