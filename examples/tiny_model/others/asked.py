"""What each one-off script hands over: a picture's file with question, kind of question, answer.

For evaluation only. Knows nothing of the pictures, and nothing of training's drawers.
"""

from __future__ import annotations

import json
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"


def record(hand: str, rows: list[tuple[str, str, str, str]]) -> None:
    """Keep this hand's (file, row of the table, question, right answer)."""
    names = ("picture", "row", "question", "answer")
    told = [dict(zip(names, row, strict=True)) for row in rows]
    path = PICTURES / f"{hand}.json"
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
