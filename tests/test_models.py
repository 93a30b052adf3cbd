"""Which model suits which machine: what is listed fits, and who asks for too much is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_engine import opened

from qwen_vl.config import DEFAULT_MODEL, Settings, load_settings
from qwen_vl.engine.model import machine
from qwen_vl.families import FAMILIES, family_by_name
from qwen_vl.models import (
    BASE,
    CHOICES,
    MODELS,
    better_fit,
    needed_gb,
    table,
    too_large,
)

README = Path(__file__).resolve().parents[1] / "README.md"


def test_what_is_listed_for_a_machine_fits_it() -> None:
    for (kind, size), choices in CHOICES.items():
        for model_id, precision in choices:
            assert needed_gb(MODELS[model_id].weights, kind, precision) <= size * 0.95


def test_the_base_is_the_default_and_all_are_of_known_families() -> None:
    assert BASE.model_id == DEFAULT_MODEL
    assert {family_by_name(model_id).name for model_id in MODELS} <= set(FAMILIES)


def test_the_flag_prints_what_the_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_settings(["--list-models"], {})
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert table() in README.read_text(encoding="utf-8"), "python -m qwen_vl.models prints it"
    for line in table().splitlines()[2:]:
        for cell in line.strip("| ").split(" | "):
            assert cell in printed


def test_a_machine_that_cannot_carry_a_model_is_told_which_one_it_can() -> None:
    assert too_large(4_300_000_000, "cpu", 16 << 30, False) == ""  # 2B in bfloat16
    told = too_large(17_500_000_000, "cpu", 16 << 30, False)  # 8B
    assert "28 GB of memory, and there are 17 GB" in told
    assert "--model Qwen/Qwen3.5-2B fits" in told
    on_gpu = too_large(55_600_000_000, "gpu", 48 << 30, False)  # 27B
    assert "GPU memory" in on_gpu
    assert "--model Qwen/Qwen3.6-27B --quantize 4bit fits" in on_gpu
    assert too_large(55_600_000_000, "gpu", 48 << 30, True) == ""
    assert "--model bundled" in too_large(4_300_000_000, "cpu", 4 << 30, False)


def test_a_machine_of_any_size_gets_the_choice_of_the_next_smaller_one() -> None:
    assert better_fit("cpu", 64) == CHOICES["cpu", 16][0]
    assert better_fit("gpu", 40) == CHOICES["gpu", 24][0]
    assert better_fit("gpu", 23.6) == CHOICES["gpu", 24][0]  # "24 GB" cards have a little less
    assert better_fit("cpu", 4) is None


def test_the_page_says_that_a_model_is_too_large(
    tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded all the same: it may run from the disk, or another program may end."""
    monkeypatch.setattr(machine, "kind_and_memory", lambda settings: ("cpu", 1 << 20))
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"])))
    status = engine.status()
    engine.close()
    assert status.state == "ready"
    assert re.search(r"needs about \d+ GB of memory, and there are 0 GB", status.notice)


def test_memory_is_the_containers_where_it_has_a_limit(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("8589934592\n")
    assert machine.cgroup_bytes(limit) == 8 << 30
    limit.write_text("max\n")
    assert machine.cgroup_bytes(limit) is None
    assert machine.cgroup_bytes(tmp_path / "none") is None
    kind, memory_bytes = machine.kind_and_memory(Settings(device="cpu"))
    assert kind == "cpu"
    assert memory_bytes > 1 << 28
