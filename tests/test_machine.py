"""The choice of precision, device and threads is made and explained."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config

from qwen_vl.config import Settings
from qwen_vl.engine.model import machine
from qwen_vl.engine.model.load import LoadedModel
from qwen_vl.errors import ModelUnavailable
from qwen_vl.families import FAMILIES

ROOT = Path(__file__).resolve().parents[1]


def test_flags_win() -> None:
    choice = machine.choose(Settings(dtype="bfloat16", device="cpu", threads=1))
    assert (choice.dtype, choice.device, choice.threads) == (torch.bfloat16, "cpu", 1)
    assert "--dtype" in choice.reason


def test_tiny_models_run_in_float32() -> None:
    assert machine.choose(Settings(device="cpu"), tiny=True).dtype == torch.float32


def speeds(bfloat16: tuple[float, float], int8: tuple[float, float]) -> machine.Speeds:
    prefill, decode = zip(bfloat16, int8, strict=True)
    return machine.Speeds(
        dict(zip(("bfloat16", "int8"), prefill, strict=True)),
        dict(zip(("bfloat16", "int8"), decode, strict=True)),
    )


@pytest.mark.parametrize(
    ("bfloat16", "expected"),
    [((2.0, 2.0), torch.bfloat16), ((2.0, 0.2), torch.float32), ((0.2, 2.0), torch.float32)],
)
def test_bfloat16_must_win_in_both_phases(
    bfloat16: tuple[float, float], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "measure", lambda _: speeds(bfloat16, (1.0, 4.0)))
    choice = machine.choose(Settings(device="cpu", quantize="none"))
    assert (choice.dtype, choice.quantize) == (expected, "none")
    assert "measured" in choice.reason


@pytest.mark.parametrize(
    ("int8_decode", "has_experts", "expected"),
    [(4.0, False, "int8"), (1.1, False, "none"), (4.0, True, "none")],
)
def test_auto_takes_int8_where_it_is_faster(
    int8_decode: float, has_experts: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "measure", lambda _: speeds((0.5, 0.5), (1.0, int8_decode)))
    choice = machine.choose(Settings(device="cpu"), has_experts=has_experts)
    assert (choice.quantize, choice.dtype) == (expected, torch.float32)
    assert choice.precision == {"none": "float32"}.get(expected, expected)


def test_int8_is_compared_with_what_would_run_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for prefill, expected in ((0.2, "int8"), (1.5, "none")):  # of bfloat16, which decodes well
        told = speeds((prefill, 2.6), (1.0, 2.9))
        monkeypatch.setattr(machine, "measure", lambda _, told=told: told)
        assert machine.choose(Settings(device="cpu")).quantize == expected


def test_prefill_multiplies_in_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for gain, expected in ((2.0, torch.bfloat16), (0.3, torch.float32)):
        monkeypatch.setattr(machine, "measure", lambda _, g=gain: speeds((g, 1.0), (1.0, 4.0)))
        assert machine.choose(Settings(device="cpu")).wide.dtype == expected


def test_the_probe_measures() -> None:
    measured = machine.measure(machine.usable_cores())
    assert set(measured.decode) == {"float32", "bfloat16", "int8", "int4"}
    assert all(gain > 0 for gain in (*measured.decode.values(), *measured.prefill.values()))
    assert measured.wide.least_rows in (17, 33, 65)


@dataclass
class Sized:
    """A model of so many bytes, whose pass tells how many threads it may use."""

    weight_bytes: int
    config: Qwen2Config = field(default_factory=Qwen2Config)

    def get_memory_footprint(self) -> int:
        return self.weight_bytes

    def modules(self) -> tuple[()]:
        return ()

    def __call__(self, **_: object) -> int:
        return torch.get_num_threads()


@pytest.mark.parametrize(
    ("weight_bytes", "tokens", "expected"),
    [(45_000_000, 1, 1), (45_000_000, 300, 2), (800_000_000, 1, 2), (800_000_000, 300, 2)],
)
def test_only_small_passes_of_tiny_models_run_on_one_thread(
    weight_bytes: int, tokens: int, expected: int
) -> None:
    loaded = LoadedModel(
        *(FAMILIES["qwen3"], Sized(weight_bytes), None, None, None),
        *(frozenset(), torch.device("cpu")),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert loaded.forward(tokens) == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_cannot_be_quantised_is_said() -> None:
    with pytest.raises(ModelUnavailable, match="experts"):
        machine.choose(Settings(device="cpu", quantize="int8"), has_experts=True)
    with pytest.raises(ModelUnavailable, match="use --quantize int4 on a CPU"):
        machine.choose(Settings(device="cpu", quantize="4bit"))
    with pytest.raises(ValueError, match="leave out --dtype bfloat16"):
        Settings(quantize="int8", dtype="bfloat16")


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
    assert machine.cgroup_cores(tmp_path / "cpu.max") == cores
    assert machine.cgroup_cores(tmp_path / "missing") is None


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heaps")
def test_threads_share_one_heap(tmp_path: Path) -> None:
    told = tmp_path / "heaps.xml"
    code = (
        "import ctypes, sys, threading\n"
        "from qwen_vl import heap\n"
        "heap.share_heap()\n"
        "meet = threading.Barrier(9)\n"
        "def allocate():\n"
        "    kept = [bytes(1000) for _ in range(2000)]\n"
        "    meet.wait(); meet.wait()\n"
        "for _ in range(8): threading.Thread(target=allocate).start()\n"
        "meet.wait()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.fopen.restype = ctypes.c_void_p\n"
        "file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b'w'))\n"
        "libc.malloc_info(0, file); libc.fclose(file); meet.wait()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(told)], cwd=ROOT, check=True)
    assert told.read_text().count("<heap nr=") == 1
