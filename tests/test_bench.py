"""The benchmark runs, compares like with like and writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from qwen_vl.bench import speed as bench
from qwen_vl.bench import vision
from qwen_vl.bench.shapes import SHAPES
from qwen_vl.engine.model.checkpoint import BUNDLED_FOLDER
from qwen_vl.engine.model.layers import layer_kinds


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
    first = "time to first token"
    for name in (
        first,
        f"{first}, second turn",
        f"{first}, another question",
        "decode, one request",
    ):
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


def test_the_vision_encoders_time_is_told_by_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vision.main(["--tokens", "64", "100", "--quantize", "int8", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "attention, a layer" in printed
    first, second = json.loads((tmp_path / "vision.json").read_text())["pictures"]
    assert (first["patches"], first["visual_tokens"]) == (256, 64)
    assert second["visual_tokens"] == 100
    config = json.loads((BUNDLED_FOLDER / "config.json").read_text())
    blocks = config["vision_config"]["depth"]
    for one in (first, second):
        of_block = ("attention_ms", "linear_ms", "rest_of_block_ms")
        assert all(one[kind] > 0 for kind in of_block)
        parts_ms = blocks * sum(one[kind] for kind in of_block)
        parts_ms += one["patch_embedding_ms"] + one["merger_ms"]
        assert parts_ms == pytest.approx(one["whole_ms"])


def test_every_shape_has_an_architecture() -> None:
    """Without weights: of Qwen3.5's layers every fourth is full attention."""
    for name, shape in SHAPES.items():
        config = shape.config(image_token_id=7)
        assert config.image_token_id == 7
        kinds = layer_kinds(config.get_text_config())
        assert sum(kind.is_recurrent for kind in kinds) == (18 if "3.5" in name else 0)
        with torch.device("meta"):
            model = shape.model_class._from_config(config)
        billions = model.num_parameters() / 1e9
        assert billions == pytest.approx({"2b": 2.1, "qwen3.5-0.8b": 0.85}.get(name, 2.2), rel=0.05)


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
