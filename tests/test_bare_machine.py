"""On a machine where something is missing: one line says what to install, and CI says where it ran.

Each machine is made of a folder of commands, which is all that PATH names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAKE = shutil.which("make")
SHELL_TOOLS = ("bash", "sh", "make", "uname", "id", "env", "dirname", "true", "chmod")

with_make = pytest.mark.skipif(MAKE is None, reason="make is not installed")


def machine(folder: Path, **scripts: str) -> dict[str, str]:
    """The environment of a machine that has the shell's tools and these scripts."""
    folder.mkdir()
    for name in SHELL_TOOLS:
        if path := shutil.which(name):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(path)
    for name, text in scripts.items():
        put(folder / name, text)
    return {"PATH": str(folder), "HOME": str(folder)}


def put(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def ran(
    *command: str | Path, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


# --- the app ---


def test_opencv_without_its_system_libraries_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file')"
    )
    done = ran(sys.executable, "app.py", cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "libGL.so.1" in line
    assert "opencv-python-headless" in line


def test_a_python_without_the_packages_is_one_line() -> None:
    done = ran(sys.executable, "-S", "app.py", cwd=ROOT)  # without site-packages
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "requirements.txt" in line


# --- make ---


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a failed make says, without its own words about it."""
    assert done.returncode == 2
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if not line.startswith("make")]


@with_make
def test_missing_tools_are_one_line_where_they_cannot_be_installed(tmp_path: Path) -> None:
    no_sudo = machine(tmp_path / "a", id="echo 1000", **{"apt-get": "echo must not run"})
    no_apt = machine(tmp_path / "b", id="echo 0")
    for env in (no_sudo, no_apt):
        (line,) = told(ran("make", "tools", cwd=ROOT, env=env))
        assert "chromium, curl and libatomic.so.1" in line


@with_make
def test_missing_tools_are_installed_with_roots_rights(tmp_path: Path) -> None:
    """apt-get makes here what it is told to install, and sudo asks for no password."""
    here = tmp_path / "bin"
    env = machine(here, id="echo 1000", python3="exit 0")
    put(here / "sudo", '[ "$1" = -n ] && shift && exec "$@"')
    made = f'for name in "$@"; do echo > "{here}/$name"; chmod +x "{here}/$name"; done'
    put(here / "apt-get", made)
    done = ran("make", "tools", cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    assert (here / "libatomic1").exists()


@with_make
def test_a_python_without_venv_is_one_line(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    env = machine(tmp_path / "bin", python3="exit 1")
    (line,) = told(ran("make", "run", cwd=tmp_path, env=env))
    assert "python3-venv" in line


# --- CI ---


def ci(tmp_path: Path, bare: str | None) -> subprocess.CompletedProcess[str]:
    """`.ci/run` in a folder with a space, beside a `bare` that does this. What runs is printed."""
    here = tmp_path / "a folder" / "demo"
    (here / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", here / ".ci")
    if bare is not None:
        put(here.parent / "shared" / "bare", bare)
    env = machine(tmp_path / "bin", make='echo "$0 $*"')
    return ran(here / ".ci" / "run", cwd=tmp_path, env=env)


@pytest.mark.parametrize("status", [0, 2, 137])
def test_ci_ends_as_its_commands_end_on_the_bare_machine(status: int, tmp_path: Path) -> None:
    done = ci(tmp_path, f'echo "there: $*"; exit {status}')
    assert done.returncode == status
    assert "there: sh -c" in done.stdout
    assert "make lint" in done.stdout
    assert "make test" in done.stdout
    assert len(done.stdout.splitlines()) == 1  # and nothing on this machine


@pytest.mark.parametrize("bare", [None, "exit 75"])
def test_ci_runs_here_where_there_is_no_bare_machine(bare: str | None, tmp_path: Path) -> None:
    done = ci(tmp_path, bare)
    assert done.returncode == 0, done.stderr
    assert "on this machine" in done.stdout
    made = [line.rpartition("/")[2] for line in done.stdout.splitlines()[-2:]]
    assert made == ["make lint", "make test"]
