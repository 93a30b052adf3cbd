"""Who may import whom, as the table in CONTRIBUTING.md says. Dependencies point down."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "app.py", *sorted((ROOT / "qwen_vl").rglob("*.py"))]
HEAVY = ("torch", "transformers", "gradio", "fastapi", "av", "cv2", "openai")
EVERYBODYS = {
    "schema",
    "sampling",
    "constraint",
    "tools",
    "errors",
    "config",
    "",
}  # "" is the package itself: its version


def table() -> dict[str, tuple[set[str], set[str]]]:
    """Room -> (rooms, libraries) that it may import."""
    rows: dict[str, tuple[set[str], set[str]]] = {}
    for line in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            names, _, rooms, libraries = (
                set(re.findall(r"`([\w.]+)`", cell)) for cell in line.strip("|").split("|")
            )
            for name in names:
                rows[name] = (rooms, libraries)
    return rows


MAY_IMPORT = table()
OWNED = set().union(*(libraries for _, libraries in MAY_IMPORT.values())) | {"torchvision"}


def room_of(dotted: str) -> str:
    """`qwen_vl.engine.local.scheduler` -> `engine.local`: the longest name in the table."""
    parts = dotted.split(".")[1:] if dotted.startswith("qwen_vl") else dotted.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in MAY_IMPORT:
            return ".".join(parts[:length])
    return ".".join(parts)


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def is_module(dotted: str) -> bool:
    path = ROOT / Path(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names of all modules imported anywhere in a file, with their lines.

    `from package import name` names the module `package.name` where there is one.
    """
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if is_module(inner) else node.module), node.lineno


all_files = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


@all_files
def test_dependencies_point_down(path: Path) -> None:
    own = room_of(module_of(path))
    assert own == "" or own in MAY_IMPORT, f"give {own} a row in CONTRIBUTING.md"
    allowed = MAY_IMPORT[own][0] | EVERYBODYS | {own} if own else {""}
    for dotted, line in imports(path):
        if dotted.partition(".")[0] not in ("qwen_vl", "app"):
            continue
        assert is_opening(path) or room_of(dotted) in allowed, (
            f"{path.name}:{line} must not import {dotted}"
        )


def is_opening(path: Path) -> bool:
    """`open_engine` alone looks into the engines, and only when it is called."""
    return path == ROOT / "qwen_vl/engine/__init__.py"


def test_opening_an_engine_imports_late() -> None:
    path = ROOT / "qwen_vl/engine/__init__.py"
    top = [node.module or "" for node in parsed(path).body if isinstance(node, ast.ImportFrom)]
    inner = [room_of(dotted) for dotted, _ in imports(path) if dotted.startswith("qwen_vl")]
    assert {room_of(name) for name in top if name.startswith("qwen_vl")} <= {"engine", *EVERYBODYS}
    assert {"engine.local", "engine.remote"} <= set(inner) <= set(MAY_IMPORT)


@all_files
def test_libraries_have_their_owners(path: Path) -> None:
    own = room_of(module_of(path))
    allowed = MAY_IMPORT[own][1] if own else set()
    for dotted, line in imports(path):
        library = dotted.partition(".")[0]
        assert library not in OWNED or library in allowed, (
            f"{path.name}:{line} must not import {dotted}"
        )


@all_files
def test_only_config_reads_the_environment(path: Path) -> None:
    if module_of(path) in ("qwen_vl.config", "app"):
        return
    for node in ast.walk(parsed(path)):
        read = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
        assert not read, f"{path.name}:{node.lineno} reads the environment: make it a setting"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            names = {alias.name for alias in node.names}
            assert not names & {"environ", "getenv", "putenv"}, f"{path.name}:{node.lineno}"


def test_nothing_rises_in_a_circle() -> None:
    """The table itself has an order: repeatedly take away what needs nothing that is left."""
    left = {room: set(rooms) for room, (rooms, _) in MAY_IMPORT.items()}
    assert set().union(*left.values()) <= set(left), "a row names a room that has none"
    while left:
        free = {room for room, rooms in left.items() if not rooms & set(left)}
        assert free, f"these need each other: {sorted(left)}"
        left = {room: rooms for room, rooms in left.items() if room not in free}


def test_every_room_is_there() -> None:
    assert {room_of(module_of(path)) for path in FILES} - {""} == set(MAY_IMPORT)


def test_engines_do_not_know_each_other() -> None:
    assert not MAY_IMPORT["engine.remote"][0] & {"engine.local", "engine.model"}
    for room in ("ui", "api", "jobs", "metrics", "gate", "app"):
        assert not any(name.startswith("engine.") for name in MAY_IMPORT[room][0])
    assert "api" not in MAY_IMPORT["ui"][0]
    assert "ui" not in MAY_IMPORT["api"][0]


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("config", ()),
        ("schema", ()),
        ("errors", ()),
        ("conversation", ()),
        ("sampling", ()),
        ("families", ()),
        ("media.pictures", ()),
        ("media.clips", ()),
        ("media.decoders.worker", ()),
        ("engine", ()),
        ("gate", ()),
        ("api", ("fastapi",)),
    ],
)
def test_importing_it_loads_no_heavy_library(module: str, allowed: tuple[str, ...]) -> None:
    code = f"import sys, qwen_vl.{module}; print(*sorted(set(sys.modules) & set({HEAVY})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert tuple(done.stdout.split()) == allowed
