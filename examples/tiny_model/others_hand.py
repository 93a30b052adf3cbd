"""The sixty pictures in `others/`, each by a one-off script, with a question and its right answer.

For evaluation only: no module of training imports this, and no script there imports a drawer of
training. Knows the folder. Knows nothing of scores.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent / "others"


@dataclass(frozen=True)
class Question:
    """One picture by somebody else; `row` is "text", "invoice", "chart" and so on."""

    picture: Path
    row: str
    text: str
    answer: str

    def messages(self) -> list[dict]:
        """The question in the chat format."""
        image = Image.open(self.picture).convert("RGB")
        parts = [{"type": "image", "image": image}, {"type": "text", "text": self.text}]
        return [{"role": "user", "content": parts}]


def questions() -> list[Question]:
    """All of them, hand after hand."""
    found = []
    for told in sorted((FOLDER / "pictures").glob("*.json")):
        for one in json.loads(told.read_text(encoding="utf-8")):
            picture = told.parent / one["picture"]
            found.append(Question(picture, one["row"], one["question"], one["answer"]))
    return found
