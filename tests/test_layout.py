"""Who may know whom, read from the imports: the table in section 1 of DESIGN.md.

Dependencies point down. A new module needs a place in `BELOW` before it can be imported.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "app.py", *sorted((ROOT / "qwen_vl").rglob("*.py"))]

# The modules of this project that each one may import. A package (engine, ui) counts as one here.
BELOW: dict[str, set[str]] = {
    "schema": set(),
    "errors": set(),
    "config": set(),
    "heap": set(),
    "kept": set(),
    "presets": {"schema", "config"},
    "limits": {"errors", "config"},
    "headers": {"errors"},
    "scenes": {"schema", "errors", "config"},
    "decoders": {"limits", "headers", "scenes", "errors", "config"},
    "media": {"decoders", "limits", "headers", "schema", "errors", "config"},
    "video": {"decoders", "limits", "headers", "schema", "errors", "config"},
    "grounding": {"media", "schema", "errors", "config"},
    "messages": {"media", "schema", "errors", "config"},
    "openai_format": {"schema", "errors", "config"},
    "engine": {"media", "heap", "presets", "schema", "errors", "config"},
    "fetch": {"media", "errors", "config"},
    "gate": {"media", "openai_format", "schema", "errors", "config"},
}
BELOW["metrics"] = {"engine", "schema", "errors", "config"}
BELOW["job_file"] = {"schema", "errors", "config"}
BELOW["job_store"] = {"job_file", "schema", "errors", "config"}
BELOW["job_results"] = {"job_file", "job_store", "schema", "errors", "config"}
_JOBS = {"tasks", "job_results", "job_store", "job_file"}
BELOW["tasks"] = (_JOBS - {"tasks"}) | {"engine", "schema", "errors", "config"}
BELOW["ui"] = set(BELOW) - _JOBS - {"fetch", "metrics", "openai_format", "gate"}
BELOW["bench"] = set(BELOW) - _JOBS - {"fetch", "metrics", "ui", "gate"}
BELOW["api"] = set(BELOW) - {"ui", "bench"}
BELOW["installed"] = set()
BELOW["app"] = set(BELOW)
for _module in BELOW:
    BELOW[_module] = BELOW[_module] | {""}  # the package itself: its version

# Libraries that only some modules may import, so that each can be exchanged in one place.
OWNERS: dict[str, set[str]] = {
    "gradio": {"ui", "app"},
    "gradio_client": {"ui", "app"},
    "fastapi": {"api"},
    "starlette": {"api", "gate", "ui", "app"},
    "uvicorn": {"gate"},
    "httpx": {"fetch", "engine"},
    "safehttpx": {"fetch"},
    "prometheus_client": {"metrics"},
    "av": {"decoders"},
    "cv2": {"decoders"},
    "torch": {"engine"},
    "torchvision": set(),
    "transformers": {"engine"},
    "accelerate": {"engine"},
    "openai": {"engine"},
}
HEAVY = ("torch", "transformers", "gradio", "fastapi", "av", "cv2", "openai")


def name_of(path: Path) -> str:
    """`app`, or the name right below the package; the package's own __init__ is ''."""
    if path == ROOT / "app.py":
        return "app"
    first = path.relative_to(ROOT / "qwen_vl").parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names of everything imported anywhere in a file, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            assert node.module is not None
            if node.module == "qwen_vl":  # `from qwen_vl import api` names a module
                yield from ((f"qwen_vl.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def imported_modules(path: Path) -> Iterator[tuple[str, str, int]]:
    """(project module, dotted name, line) of every import from this project."""
    for dotted, line in imports(path):
        top, _, rest = dotted.partition(".")
        if top == "qwen_vl":
            module = rest.partition(".")[0]
            yield ("" if module.startswith("__") else module), dotted, line
        elif top == "app":
            yield "app", dotted, line


all_files = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


@all_files
def test_dependencies_point_down(path: Path) -> None:
    own = name_of(path)
    assert not own or own in BELOW, f"give {own} a place in BELOW, and in DESIGN.md"
    allowed = BELOW.get(own, set()) | ({own} if path.parent.name == own else set())
    for module, dotted, line in imported_modules(path):
        assert module in allowed, f"{path.name}:{line} must not import {dotted}"


@all_files
def test_only_engines_look_into_engines(path: Path) -> None:
    if name_of(path) != "engine":
        deep = [dotted for dotted, _ in imports(path) if dotted.startswith("qwen_vl.engine.")]
        assert deep == [], "use the protocol in qwen_vl.engine, and nothing below it"


@all_files
def test_libraries_have_their_owners(path: Path) -> None:
    for dotted, line in imports(path):
        owners = OWNERS.get(dotted.partition(".")[0])
        where = f"{path.name}:{line} must not import {dotted}"
        assert owners is None or name_of(path) in owners, where


@all_files
def test_only_config_reads_the_environment(path: Path) -> None:
    if name_of(path) in ("config", "app"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        read = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
        assert not read, f"{path.name}:{node.lineno} reads the environment: make it a setting"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            names = {alias.name for alias in node.names}
            assert not names & {"environ", "getenv", "putenv"}, f"{path.name}:{node.lineno}"


def test_nothing_rises_in_a_circle() -> None:
    """The table itself has an order: repeatedly take away what needs nothing that is left."""
    left = {module: set(below) - {""} for module, below in BELOW.items()}
    while left:
        free = {module for module, below in left.items() if not below & set(left)}
        assert free, f"these need each other: {sorted(left)}"
        left = {module: below for module, below in left.items() if module not in free}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("config", ()),
        ("schema", ()),
        ("errors", ()),
        ("messages", ()),
        ("media", ()),
        ("video", ()),
        ("decoders.worker", ()),
        ("presets", ()),
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
