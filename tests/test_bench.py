"""The benchmark runs, compares like with like and writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from qwen_vl.bench import speed as bench


def test_bench_on_a_tiny_model(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.main(
        [
            *("--model", str(tiny_checkpoints["qwen3_vl"])),
            *("--image-px", "128", "--new-tokens", "8", "--most-at-once", "2"),
            *("--out", str(tmp_path)),
        ]
    )
    result = json.loads((tmp_path / "bench.json").read_text())
    figures = {figure["name"]: figure for figure in result["figures"]}
    for name in ("time to first token", "time to first token, second turn", "decode, one request"):
        assert figures[name]["value"] > 0
        assert figures[name]["ratio"] > 0
    assert {"1 at once", "2 at once"} <= set(figures)
    assert figures["peak memory"]["unit"] == "GiB"
    plain, one = figures["generate: time to first token"], figures["time to first token"]
    assert one["ratio"] == pytest.approx(one["value"] / plain["value"])
    printed = capsys.readouterr().out
    assert "| time to first token |" in printed
    assert "... Engine: 2 at once" in printed  # tells what it is doing
    with Image.open(tmp_path / "bench.png") as picture:
        assert picture.width == 1000


def test_a_model_that_is_missing_ends_it_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--new-tokens", "1"],
        ["--most-at-once", "0"],
        ["--dtype", "float8"],
        ["--quantize", "int8", "--dtype", "bfloat16"],
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main([*wrong, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert wrong[0] in printed.err
    assert "Engine" not in printed.out
