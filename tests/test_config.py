"""Settings come from flags over the environment, are checked once and told in docs/flags.md."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen_vl import config
from qwen_vl.config import Settings, flag_rows, flags_page, load_settings

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = [item.name for item in dataclasses.fields(Settings) if item.name.startswith("max_")]


def test_nothing_given_is_the_defaults() -> None:
    assert load_settings([], {}) == Settings()


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("model", "bundled", "bundled"),
        ("port", "0", 0),
        ("max_frames", "7", 7),
        ("image_tokens", "640", 640),
        ("image_tokens", "auto", "auto"),
        ("max_seconds", "0.5", 0.5),
        ("hub", "modelscope", "modelscope"),
        ("system_prompt", "100% 你好", "100% 你好"),
    ],
)
def test_a_flag_and_its_variable_mean_the_same(name: str, written: str, value: Any) -> None:
    flag, variable = "--" + name.replace("_", "-"), f"QWEN_VL_{name.upper()}"
    by_flag = load_settings([flag, written], {})
    assert getattr(by_flag, name) == value
    assert load_settings([], {variable: written}) == by_flag


def test_a_flag_wins_over_its_variable() -> None:
    environ = {"QWEN_VL_MAX_FRAMES": "5", "QWEN_VL_MAX_IMAGES": "6", "QWEN_VL_SHARE": "1"}
    settings = load_settings(["--max-frames", "7", "--no-share"], environ)
    assert (settings.max_frames, settings.max_images, settings.share) == (7, 6, False)


@pytest.mark.parametrize(
    ("written", "value"),
    [("1", True), ("TRUE", True), ("yes", True), ("on", True), ("0", False), ("off", False)],
)
def test_a_switch_in_the_environment_takes_words(written: str, value: bool) -> None:
    assert load_settings([], {"QWEN_VL_SHARE": written}).share is value


def test_an_empty_variable_is_no_variable() -> None:
    assert load_settings([], {"QWEN_VL_MAX_FRAMES": " ", "QWEN_VL_MODEL": ""}) == Settings()


def test_a_space_listens_on_all_addresses_unless_told_otherwise() -> None:
    assert load_settings([], {"SPACE_ID": "someone/demo"}).host == "0.0.0.0"
    assert load_settings(["--host", "127.0.0.1"], {"SPACE_ID": "a/b"}).host == "127.0.0.1"
    assert load_settings([], {"SPACE_ID": "a/b", "QWEN_VL_HOST": "::1"}).host == "::1"


@pytest.mark.parametrize("has_storage", [True, False])
def test_a_space_keeps_jobs_weights_and_uploads_in_its_storage_if_it_has_any(
    has_storage: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path if has_storage else tmp_path / "none"
    monkeypatch.setattr(config, "SPACE_STORAGE", folder)
    kept = str(folder / "jobs.sqlite") if has_storage else ":memory:"
    assert load_settings([], {"SPACE_ID": "a/b"}).job_file == kept
    assert load_settings([], {}).job_file == ":memory:"
    rounded = str(folder / "qwen_vl") if has_storage else ""
    on_space = load_settings([], {"SPACE_ID": "a/b"})
    assert (on_space.cache_folder, on_space.quantized_cache) == (rounded, has_storage)
    assert on_space.upload_folder == (str(folder / "uploads") if has_storage else "")
    chosen = {"SPACE_ID": "a/b", "QWEN_VL_JOB_FILE": "elsewhere"}
    assert load_settings([], chosen).job_file == "elsewhere"


BAD: list[tuple[str, Any]] = [
    *[(name, value) for name in NUMBERS if name != "max_queue" for value in (0, -1, "nan", "inf")],
    ("max_queue", -1),
    ("port", -1),
    ("port", 65536),
    ("threads", -1),
    ("image_tokens", 3),
    ("image_tokens", "more"),
    ("image_tokens", 16_385),
    ("hub", "elsewhere"),
    ("dtype", "int7"),
    ("share", "perhaps"),
    ("port", "http"),
    ("root_path", "demo"),
    ("root_path", "/demo/"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_that_makes_no_sense_ends_the_program_and_says_so(
    name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings([], {f"QWEN_VL_{name.upper()}": str(value)})
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert name.replace("_", "-") in told or f"QWEN_VL_{name.upper()}" in told


@pytest.mark.parametrize("argv", [["--port", "x"], ["--hub", "elsewhere"], ["--no-such-flag"]])
def test_a_bad_flag_ends_the_program(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(argv, {})
    assert end.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(["--help"], {})
    assert not end.value.code
    told = capsys.readouterr().out
    assert all(flag in told for flag, *_ in flag_rows())


def test_settings_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_the_page_of_flags_tells_every_setting() -> None:
    page = flags_page()
    assert all(f"| `{flag}` | `{variable}` |" in page for flag, variable, *_ in flag_rows())


def test_the_page_of_flags_is_what_the_module_prints() -> None:
    command = [sys.executable, "-m", "qwen_vl.config"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    told = (ROOT / "docs/flags.md").read_text(encoding="utf-8")
    assert told == printed, "run `python -m qwen_vl.config > docs/flags.md`"
