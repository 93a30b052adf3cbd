"""Pictures drawn ahead, in files of less than 60 MB: what they show, and where it is printed.

A shard is a zip file: `0.webp` (lossless) with `0.json`, `1.webp` with `1.json`, and so on.
Knows files. Knows nothing of who draws the pictures or of what is asked about them.
"""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from documents import Chart, Screen
from PIL import Image
from reading import Line, Note

MOST_BYTES = 60_000_000
Facts = list[str] | dict[str, str] | Chart | Screen
_NO_DATE = (1980, 1, 1, 0, 0, 0)  # the same pictures make the same bytes


@dataclass(frozen=True)
class Drawn:
    """A picture of a task, what is printed where, and the facts that questions are about."""

    task: str
    image: Image.Image
    lines: tuple[Line, ...]
    facts: Facts


def write_shard(path: Path, drawn: Iterable[Drawn]) -> None:
    """Write the pictures; the file is there only when it is whole."""
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as shard:
        for number, one in enumerate(drawn):
            pixels = io.BytesIO()
            one.image.save(pixels, "WEBP", lossless=True)  # a third of a PNG's bytes
            facts = asdict(one.facts) if isinstance(one.facts, Chart | Screen) else one.facts
            told = {"task": one.task, "facts": facts, "lines": [asdict(part) for part in one.lines]}
            shard.writestr(zipfile.ZipInfo(f"{number}.webp", _NO_DATE), pixels.getvalue())
            told_at = zipfile.ZipInfo(f"{number}.json", _NO_DATE)
            shard.writestr(told_at, json.dumps(told), zipfile.ZIP_DEFLATED)
    if part.stat().st_size >= MOST_BYTES:
        raise ValueError(f"{path.name} is {part.stat().st_size} bytes: give it fewer pictures")
    os.replace(part, path)


class Shelf:
    """All pictures of a folder's shards, in memory as they lie in the files."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("*.zip"))
        if not paths:
            raise FileNotFoundError(f"no shards in {folder}: draw.py makes them")
        # Each process that is forked later seeks in a copy of its own.
        self._shards = [zipfile.ZipFile(io.BytesIO(path.read_bytes())) for path in paths]
        self._of_task: dict[str, list[tuple[zipfile.ZipFile, str]]] = {}
        for shard in self._shards:
            for name in shard.namelist():
                if name.endswith(".json"):
                    task = json.loads(shard.read(name))["task"]
                    self._of_task.setdefault(task, []).append((shard, name.removesuffix(".json")))

    def __len__(self) -> int:
        return sum(map(len, self._of_task.values()))

    def take(self, task: str, rng: random.Random) -> Drawn | None:
        """Any picture of the task; None if there are none."""
        if task not in self._of_task:
            return None
        shard, number = rng.choice(self._of_task[task])
        image = Image.open(io.BytesIO(shard.read(f"{number}.webp"))).convert("RGB")
        told = json.loads(shard.read(f"{number}.json"))
        return Drawn(task, image, tuple(map(_line, told["lines"])), _facts(task, told["facts"]))


def _line(told: dict) -> Line:
    note = told.pop("note")
    if note and note["box"]:
        note["box"] = tuple(note["box"])
    middles = tuple(told.pop("middles"))
    return Line(**told, note=Note(**note) if note else None, middles=middles)


def _facts(task: str, told: dict | list) -> Facts:
    if task == "chart":
        return Chart(**{**told, "labels": tuple(told["labels"]), "values": tuple(told["values"])})
    return Screen(**told) if task == "screen" else told
