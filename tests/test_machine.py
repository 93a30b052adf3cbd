"""The choice of precision, device and threads is made and explained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwen_vl.config import Settings
from qwen_vl.engine import machine
from qwen_vl.errors import ModelUnavailable


def test_flags_win() -> None:
    choice = machine.choose(Settings(dtype="bfloat16", device="cpu", threads=1))
    assert (choice.dtype, choice.device, choice.threads) == (torch.bfloat16, "cpu", 1)
    assert "--dtype" in choice.reason


def test_tiny_models_run_in_float32() -> None:
    assert machine.choose(Settings(device="cpu"), tiny=True).dtype == torch.float32


@pytest.mark.parametrize(
    ("bfloat16_s", "expected"),
    [((0.5, 0.5), torch.bfloat16), ((0.5, 4.0), torch.float32), ((4.0, 0.5), torch.float32)],
)
def test_bfloat16_must_win_in_both_phases(
    bfloat16_s: tuple[float, float], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_s = {torch.float32: (1.0, 1.0), torch.bfloat16: bfloat16_s}
    monkeypatch.setattr(machine, "_probe", times_s.__getitem__)
    choice = machine.choose(Settings(device="cpu"))
    assert choice.dtype == expected
    assert "measured" in choice.reason


def test_the_probe_measures() -> None:
    assert all(seconds > 0 for seconds in machine._probe(torch.float32))


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ModelUnavailable, match=f"--device {device} cannot be used"):
        machine.choose(Settings(device=device))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", None)],
)
def test_container_quota(quota: str, cores: int | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert machine._cgroup_cores(tmp_path / "cpu.max") == cores
    assert machine._cgroup_cores(tmp_path / "missing") is None
