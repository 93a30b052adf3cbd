"""README.md and docs/ hold what they say: commands run, paths exist, links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from PIL import Image, ImageDraw
from support.running_app import PATIENCE_S, ROOT, started

from qwen_vl.config import DEFAULT_MODEL, load_settings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = (".venv/bin/python", "python")
SPACE = {"SPACE_ID": "someone/demo"}
PIP = (".venv/bin/pip", "pip")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(*languages: str) -> list[str]:
    """The code in these languages, of all pages."""
    fence = rf"```(?:{'|'.join(languages)})\n(.*?)```"
    return [block for page in PAGES for block in re.findall(fence, text_of(page), re.DOTALL)]


def commands() -> list[str]:
    """Every command in the pages, once: a line of its own in a block, joined where it is broken."""
    lines = "\n".join(blocks("bash", "sh", "shell")).replace("\\\n", " ").splitlines()
    parts = (part for line in lines for part in re.sub(r"\s#.*", "", line).split(" && "))
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def curl_calls() -> list[str]:
    return [command for command in commands() if command.startswith("curl ")]


# --- commands ---


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    with started() as (_, client):
        yield client


def test_there_are_curl_calls() -> None:
    assert len(curl_calls()) >= 8


@pytest.mark.parametrize("command", curl_calls())
def test_curl_calls_work(command: str, server: httpx.Client, tmp_path: Path) -> None:
    picture = Image.new("RGB", (160, 160), "white")
    ImageDraw.Draw(picture).ellipse((30, 30, 120, 120), fill="red")
    picture.save(tmp_path / "photo.jpg")
    here = str(server.base_url).rstrip("/")
    task = server.post("/inference", json={"text": "Hello", "max_tokens": 5}).json()["task_id"]
    command = command.replace("http://127.0.0.1:7860", here).replace("TASK_ID", task)
    done = subprocess.run(
        ["bash", "-c", f"{command} --fail-with-body --silent --show-error"],
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_the_client_in_python_works(server: httpx.Client) -> None:
    snippets = [one for one in blocks("python") if "OpenAI(" in one or "client.responses" in one]
    assert len(snippets) == 2
    snippet = "\n".join([*snippets, "assert more.previous_response_id == first.id"])
    snippet = snippet.replace("http://127.0.0.1:7860", str(server.base_url).rstrip("/"))
    done = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=ROOT,
        env={**os.environ, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert "shape" in done.stdout  # of the example, which the bundled model describes rightly


@pytest.mark.parametrize("command", [one for one in commands() if one not in curl_calls()])
def test_every_other_command_means_something_here(command: str) -> None:
    """Flags are read as the app reads them; what a command names is there."""
    match shlex.split(command):
        case ["qwen-vl", *flags]:
            load_settings(flags, {})
        case [python, "app.py", *flags] if python in PYTHON:
            load_settings(flags, {})
        case [python, "-m", module, *_] if python in (*PYTHON, "python3"):
            assert importlib.util.find_spec(module)
        case [pip, "install", *what] if pip in PIP:
            files = [value for flag, value in pairwise(what) if flag == "-r"]
            assert all((ROOT / file).is_file() for file in files)
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", text_of(ROOT / "Makefile"), re.MULTILINE)
        case ["docker", "build" | "run" | "compose", *_]:
            pass  # tests/test_deploy.py reads the files that they read
        case [".venv/bin/ruff", "check" | "format", *_] | [".venv/bin/mypy"]:
            pass  # are what `make lint` runs
        case _:
            pytest.fail("nothing here tells whether this command works")


def test_versions_that_are_told_are_those_that_are_pinned() -> None:
    told = {pin for page in PAGES for pin in re.findall(r"[\w-]+==\d[\w.]*", text_of(page))}
    pins = text_of(ROOT / "requirements.txt").splitlines()
    assert told
    assert told <= {line.partition(";")[0] for line in pins}


# --- paths and links ---


def unreleased() -> str:
    """What the changelog says of the code as it is now; older entries name what was there then."""
    return text_of(ROOT / "CHANGELOG.md").partition("## Unreleased\n")[2].partition("\n## ")[0]


def named_paths(text: str) -> set[str]:
    found = re.findall(r"(?<![\w./-])(?:qwen_vl|tests|examples|docs)/[\w./-]*", text)
    modules = re.findall(r"(?<=-m )qwen_vl[\w.]*", text)
    return {name.rstrip(".") for name in found} | {name.replace(".", "/") for name in modules}


def exists(name: str) -> bool:
    return (ROOT / name).exists() or (ROOT / f"{name}.py").is_file()


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name
)
def test_every_path_that_is_named_exists(page: Path) -> None:
    text = unreleased() if page.name == "CHANGELOG.md" else text_of(page)
    assert [name for name in sorted(named_paths(text)) if not exists(name)] == []


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", text_of(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_found_from_the_readme() -> None:
    links = re.findall(r"\]\((docs/\w+\.md)", text_of(ROOT / "README.md"))
    assert set(links) == {f"docs/{page.name}" for page in PAGES[1:]}


# --- the README ---


def test_the_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) < 200


def test_a_space_gets_the_same_gradio_as_everybody() -> None:
    """The head of the README is what Spaces read; it has to be first."""
    _, head, _ = text_of(ROOT / "README.md").split("---\n", 2)
    told = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    python = Version(told["python_version"].strip('"'))
    for pin in map(Requirement, text_of(ROOT / "requirements.txt").splitlines()):
        here = pin.marker is None or pin.marker.evaluate({"python_version": str(python)})
        assert pin.name != "gradio" or not here or told["sdk_version"] in pin.specifier
    project = text_of(ROOT / "pyproject.toml")
    (wanted,) = re.findall(r'requires-python = "(.*)"', project)
    assert python in SpecifierSet(wanted)
    assert (ROOT / told["app_file"]).is_file()


def test_a_space_has_the_default_model_in_its_image() -> None:
    _, head, _ = text_of(ROOT / "README.md").split("---\n", 2)
    assert yaml.safe_load(head)["preload_from_hub"] == [DEFAULT_MODEL]


def test_the_table_of_spaces_names_settings() -> None:
    table = text_of(ROOT / "README.md").partition("## On a Space\n")[2].partition("\n## ")[0]
    rows = re.findall(r"`(QWEN_VL_\w+)=([^`]+)`", table)
    assert rows
    assert all(load_settings([], {**SPACE, name: value}) for name, value in rows)
