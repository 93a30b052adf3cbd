"""The example questions that come with the app.

Reads `examples/prompts.json`; without it there are no examples. Knows nothing of models or layout.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen_vl import EXAMPLES


@dataclass(frozen=True)
class Example:
    """A question with its pictures or its clip, as absolute paths of files that exist."""

    text: str
    lang: str = "en"
    images: tuple[str, ...] = ()
    video: str | None = None


def load_examples(folder: Path = EXAMPLES) -> list[Example]:
    """All examples whose files are there, in their order; none when the file is missing."""
    try:
        entries = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    found = [_example(entry, folder) for entry in entries]
    return [example for example in found if example is not None]


def spoken_in(examples: Sequence[Example], lang: str) -> list[Example]:
    """The examples in this language; all of them where there are none."""
    return [example for example in examples if example.lang == lang] or list(examples)


def files_of_examples(examples: Sequence[Example]) -> list[str]:
    """Every picture and clip, once: what the server may copy from outside its cache."""
    paths = (path for item in examples for path in (*item.images, item.video) if path)
    return list(dict.fromkeys(paths))


def _example(entry: dict[str, object], folder: Path) -> Example | None:
    images = entry.get("images") or []
    video = entry.get("video") or None
    names = [*(images if isinstance(images, list) else []), *([video] if video else [])]
    paths = [folder / str(name) for name in names]
    if not all(path.is_file() for path in paths):
        return None
    return Example(
        text=str(entry["text"]),
        lang=str(entry.get("lang") or "en"),
        images=tuple(str(path) for path in paths) if video is None else (),
        video=None if video is None else str(paths[-1]),
    )
