"""The benchmark against llama.cpp's server asks both the same, one at a time, and tells ratios."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support.running_app import ROOT
from test_api import serving
from transformers import AutoTokenizer

from qwen_vl.bench import peers
from qwen_vl.bench.peer_checkpoint import converter_of, gguf, random_checkpoint
from qwen_vl.bench.peer_questions import ask, assistant, picture, user
from qwen_vl.bench.peer_servers import PeerFailed, Server, running
from qwen_vl.bench.shapes import SHAPES
from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.model.checkpoint import BUNDLED_FOLDER

STAND_IN = [sys.executable, str(ROOT / "tests/support/stand_in_server.py")]
SLOW_ROWS = {
    "time to first token, photograph of 1280x1024",
    "time to first token, 1080p of 1920x1080",
    "time to first token, sum of 10 turns about two pictures",
}


@pytest.mark.parametrize("quick", [True, False])
def test_two_servers_are_compared(
    quick: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each of them refuses to start while the other one is there.
    alone = ["env", f"LOCK={tmp_path / 'lock'}", *STAND_IN]
    servers = [Server(name, alone) for name in ("this project", "llama.cpp")]
    rows = peers.measure(*servers, tmp_path, quick=quick, new_tokens=5)
    peers.write(rows, "2B shape against llama.cpp 1", tmp_path, new_tokens=5)
    told = {row["name"]: row for row in json.loads((tmp_path / "peers.json").read_text())["rows"]}
    for row in told.values():
        name, unit = row["name"], row["ours"][0]["unit"]
        ours, theirs = ([run["value"] for run in row[side]] for side in ("ours", "theirs"))
        once = name.startswith("peak") or "first start" in name
        assert len(ours) == len(theirs) == (1 if once else 2)
        assert min(ours + theirs) > 0
        best = max if unit == "tokens/s" else min
        assert row["ratio"] == pytest.approx(best(ours) / best(theirs))
        assert [run["prompt_tokens"] for run in row["ours"]] == [
            run["prompt_tokens"] for run in row["theirs"]
        ]
    assert {"decode, one answer", "4 at once about one picture", "ready, later start"} <= set(told)
    assert SLOW_ROWS.isdisjoint(told) if quick else set(told) >= SLOW_ROWS
    assert ("8 at once about one picture" in told) != quick
    lines = peers.table(rows).splitlines()
    assert len(lines) == len(told) + 2
    assert all(re.search(r"\| [\d.]+ \|$", line) for line in lines[2:])
    with Image.open(tmp_path / "peers.png") as drawn:
        assert drawn.width == 1000
    assert "... llama.cpp: 4 at once about one picture" in capsys.readouterr().out


def test_this_projects_server_answers_what_is_asked(bundled_engine: Engine) -> None:
    """The bundled model ends its answers by itself; what it says and reads is counted."""
    with serving(bundled_engine, Settings(model="bundled"), closes_engine=False) as client:
        seen = picture(64, 64, seed=1)
        one = ask(client, [user("What is there?", seen)], 1)
        more = ask(client, [user("What is there?", seen)], 4)
        later = ask(client, [user("What is there?", seen), assistant("A fog."), user("Where?")], 1)
    assert 0 < one.first_s <= one.total_s
    assert one.completion_tokens == 1
    assert 1 < more.completion_tokens <= 4
    assert more.first_s < more.total_s
    assert one.prompt_tokens == more.prompt_tokens < later.prompt_tokens


def test_a_server_that_refuses_is_told_with_its_words(tmp_path: Path) -> None:
    stand_in = Server("a stand-in", ["env", "MOST_WORDS=3", *STAND_IN])
    with running(stand_in, tmp_path / "log") as live:
        assert live.ready_s > 0
        assert live.peak_gib() > 0
        with pytest.raises(PeerFailed, match=r"400.*too long for this stand-in"):
            ask(live.client, [assistant("more than three words")], 1)


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    broken = Server("broken", [sys.executable, "-c", "raise SystemExit('no such model')"])
    with pytest.raises(PeerFailed, match="broken ended while it started:\nno such model"):
        running(broken, tmp_path / "log").__enter__()
    with pytest.raises(PeerFailed, match="cannot be started"):
        running(replace(broken, command=[str(tmp_path / "none")]), tmp_path / "log").__enter__()


def test_a_missing_server_ends_it_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, out = tmp_path / "llama-server", tmp_path / "out"
    command = ["--llama-server", str(missing), "--model", str(BUNDLED_FOLDER), "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        peers.main(command)
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert str(missing) in told
    assert "make peers" in told
    assert not out.exists()


def test_the_converter_lies_above_the_server(tmp_path: Path) -> None:
    server = tmp_path / "llama.cpp/build/bin/llama-server"
    with pytest.raises(PeerFailed, match="--converter"):
        converter_of(server)
    server.parent.mkdir(parents=True)
    (tmp_path / "llama.cpp/convert_hf_to_gguf.py").touch()
    assert converter_of(server) == tmp_path / "llama.cpp/convert_hf_to_gguf.py"


def test_a_converter_is_run_once_per_file_and_its_failure_is_told(tmp_path: Path) -> None:
    converter = tmp_path / "convert.py"
    converter.write_text("raise SystemExit('unknown architecture')")
    with pytest.raises(PeerFailed, match="unknown architecture"):
        gguf(BUNDLED_FOLDER, converter, tmp_path)
    converter.write_text(
        "import sys; open(sys.argv[sys.argv.index('--outfile') + 1], 'w').write(' '.join(sys.argv))"
    )
    text, vision = gguf(BUNDLED_FOLDER, converter, tmp_path)
    assert "--outtype q8_0" in text.read_text()
    assert "--outtype f16 --mmproj" in vision.read_text()
    converter.unlink()
    assert gguf(BUNDLED_FOLDER, converter, tmp_path) == (text, vision)


def test_a_random_checkpoint_is_one_that_the_app_loads(tmp_path: Path) -> None:
    from qwen_vl.bench.baseline import named

    small = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 64, "head_dim": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    shape = SHAPES["2b"]
    rope = {**shape.text["rope_parameters"], "mrope_section": [12, 10, 10]}
    tiny = replace(
        shape,
        text={**shape.text, **small, **heads, "vocab_size": 2048, "rope_parameters": rope},
        vision={
            **shape.vision,
            **{"depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 64},
            **{"out_hidden_size": 64, "deepstack_visual_indexes": [0]},
        },
    )
    folder = random_checkpoint(tiny, BUNDLED_FOLDER, tmp_path / "random")
    loaded = named(Settings(model=str(folder))).loaded
    assert loaded.image_token_id == AutoTokenizer.from_pretrained(
        BUNDLED_FOLDER
    ).convert_tokens_to_ids("<|image_pad|>")
    assert loaded.model.config.text_config.num_hidden_layers == 2
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(PeerFailed, match="--tokenizer"):
        random_checkpoint(tiny, tmp_path, tmp_path / "other")
