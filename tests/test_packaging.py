"""What the code imports is pinned, and `pip install .` gives the command with all that it needs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from support.running_app import ROOT, started

# Imported only where a flag asks for it, and then named by the error of whoever lacks it.
OPTIONAL = (
    "modelscope",  # --hub modelscope
    "ray",  # --engine ray: examples/requirements-ray.txt
    "spaces",  # --engine zero; ZeroGPU Spaces have it
    "scenedetect",  # beside this project in bench.clips
)
NOT_IMPORTED = ("accelerate",)  # transformers asks for it to spread a model over devices
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python"}
SHIPPED = (
    *("app.py", "qwen_vl", "examples"),
    *("pyproject.toml", "requirements.txt", "README.md", "LICENSE"),
)


def code() -> list[Path]:
    return [ROOT / "app.py", *sorted((ROOT / "qwen_vl").rglob("*.py"))]


def imported_libraries(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def requirements() -> list[str]:
    """The lines of requirements.txt."""
    return (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


def pinned() -> set[str]:
    return {normal(line.partition("==")[0]) for line in requirements()}


def test_each_requirement_is_one_version() -> None:
    shape = r'[\w-]+==[\w.]+(; python_version (>=|<) "3\.11")?'
    assert [line for line in requirements() if not re.fullmatch(shape, line)] == []


def test_what_is_imported_is_pinned_and_nothing_else() -> None:
    libraries = {name for path in code() for name in imported_libraries(path)}
    libraries -= {*sys.stdlib_module_names, *OPTIONAL, "qwen_vl", "app"}
    wanted = {normal(DISTRIBUTIONS.get(name, name)) for name in libraries}
    assert pinned() == wanted | set(NOT_IMPORTED)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because building writes beside the code."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(out), str(copy))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installed copy; its libraries are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--target", str(folder), str(wheel))
    return folder


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, arguments[0], "--no-deps", "--no-index", *arguments[1:]],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_needs_what_the_checkout_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        (metadata,) = (name for name in files.namelist() if name.endswith("/METADATA"))
        told = Parser().parsestr(files.read(metadata).decode())
    assert told.get_all("Requires-Dist") == requirements()


def test_the_package_has_every_file_of_the_code(wheel: Path) -> None:
    files = {path for path in (ROOT / "qwen_vl").rglob("*.*") if "__pycache__" not in path.parts}
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    with zipfile.ZipFile(wheel) as packed:
        missing = wanted - set(packed.namelist())
    assert missing == set(), "name their package, or their kind of file, in pyproject.toml"


def environment(installed: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(installed)}


def test_the_installed_command_tells_its_flags(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed / "bin" / "qwen-vl", "--help"],
        cwd=tmp_path,
        env=environment(installed),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: qwen-vl ")


def test_the_installed_command_answers_with_the_bundled_model(
    installed: Path, tmp_path: Path
) -> None:
    """Page, examples and decoders included, far from the checkout."""
    command = (sys.executable, str(installed / "bin" / "qwen-vl"))
    with started(command=command, cwd=tmp_path, env=environment(installed)) as (_, client):
        assert client.get("/health").json()["model"] == "qwen3-vl-tiny-demo"
        assert "clip.webm" in client.get("/config").text
        files = {"image": (installed / "qwen_vl/examples/images/scene.png").read_bytes()}
        asked = {"prompt": "Describe the image.", "max_tokens": "3"}
        told = client.post("/v1/chat/completions", files=files, data=asked)
        assert told.status_code == 200, told.text
