"""What one start keeps for the next: rounded weights, and what was measured on this CPU."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import opened
from support.running_app import ROOT
from support.tiny_models import HYBRIDS
from support.until import until
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Qwen2Config
from transformers import Qwen2ForCausalLM as Qwen2

from qwen_vl.config import Settings, load_settings
from qwen_vl.engine.model import machine
from qwen_vl.engine.model.checkpoint import Checkpoint
from qwen_vl.engine.model.cpu import cpu_name
from qwen_vl.engine.model.machine import Choice
from qwen_vl.engine.model.quantize import Wide, quantize
from qwen_vl.engine.model.rounded import entry_name, load_rounded, read_extras, write
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Message, TextPart
from qwen_vl.start_cache import StartCache, folder_of

INT8 = Choice("cpu", torch.float32, 2, "for a test", "int8")
GREEDY = SamplingParams(temperature=0, max_new_tokens=8)
QUESTION = [Message("user", (TextPart("Hello"),))]


def silent(said: str, share: float | None) -> None:
    pass


class Told(list[str]):
    """A report that remembers."""

    def __call__(self, said: str, share: float | None) -> None:
        if said not in self:
            self.append(said)


@pytest.fixture
def cache(tmp_path: Path) -> StartCache:
    return StartCache(tmp_path / "kept")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the 2B models are stored: bfloat16, and one tensor for embedding and output layer."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("tied")
    Qwen2(config).bfloat16().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(
    tiny_checkpoints: dict[str, Path], tied: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hybrids")
    hybrids = {name: HYBRIDS[name](root / name) for name in ("qwen3_5", "qwen3_5_text")}
    dense = {name: tiny_checkpoints[name] for name in ("qwen3_vl", "qwen2_5_vl")}
    return {**dense, **hybrids, "tied": tied}


def auto_class(folder: Path) -> Any:
    sees = "vision_config" in (folder / "config.json").read_text()
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def loaded(
    folder: Path, choice: Choice, cache: StartCache | None, report: Callable[..., None] = silent
) -> Any:
    return load_rounded(auto_class(folder), Checkpoint(folder, "a/b"), choice, cache, report)


def same(one: Any, other: Any) -> bool:
    tensors = one.state_dict()
    return tensors.keys() == other.state_dict().keys() and all(
        tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
        for name, tensor in other.state_dict().items()
    )


def entries(cache: StartCache) -> list[Path]:
    return sorted(cache.folder.glob("*.kept"))


@pytest.mark.parametrize(
    ("family", "scheme"),
    [
        *((name, "int8") for name in ("qwen3_vl", "qwen2_5_vl", "qwen3_5", "tied")),
        *((name, "int4") for name in ("qwen3_vl", "qwen3_5_text", "tied")),
    ],
)
def test_tensor_by_tensor_is_as_all_at_once(
    family: str, scheme: str, folders: dict[str, Path], cache: StartCache
) -> None:
    whole = auto_class(folders[family]).from_pretrained(folders[family], dtype="auto")
    quantize(whole, scheme, Wide())
    choice = replace(INT8, quantize=scheme)
    first = loaded(folders[family], choice, cache)
    assert same(first, whole)
    assert {name: type(module) for name, module in first.named_modules()} == {
        name: type(module) for name, module in whole.named_modules()
    }
    told = Told()
    later = loaded(folders[family], choice, cache, told)
    assert told == ["Loading the rounded weights"]
    assert same(later, whole)
    assert not any(tensor.is_meta for tensor in (*later.parameters(), *later.buffers()))
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        assert torch.equal(later(ids).logits, whole(ids).logits)
    assert later.generation_config.to_dict() == whole.generation_config.to_dict()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_later_start_maps_the_file_and_gives_the_same_tokens(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = Settings(
        model=str(tiny_checkpoints["qwen3_vl"]),
        device="cpu",
        quantize="int8",
        cache_folder=str(tmp_path),
    )
    texts, maps = [], []
    for _ in range(2):
        engine = opened(settings)
        assert engine.status().state == "ready", engine.status().detail
        maps.append(Path("/proc/self/maps").read_text().count(str(tmp_path)))
        texts.append("".join(chunk.text for chunk in engine.stream(QUESTION, GREEDY)))
        engine.close()
    assert texts[0] == texts[1]
    assert maps[0] == 0 < maps[1]
    assert caplog.text.count("The rounded weights are kept for the next start") == 1
    assert caplog.text.count("libraries loaded") == 2  # where the seconds went
    assert len(list(tmp_path.glob("*.kept"))) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_first_start_never_holds_the_checkpoint(tmp_path: Path, cache: StartCache) -> None:
    config = Qwen2Config(
        vocab_size=1000,
        hidden_size=1024,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    with torch.device("meta"):
        model = Qwen2(config).bfloat16()
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.zero_()
    model.save_pretrained(tmp_path / "model")
    del model, parameter
    machine.release_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory_kb("VmRSS")
    model = loaded(tmp_path / "model", INT8, cache)
    rounded_kb = sum(tensor.nbytes for tensor in model.state_dict().values()) / 1024
    assert rounded_kb > 50_000
    libraries_kb = 75_000  # that transformers loads on the way; the checkpoint is 115,000 more
    assert memory_kb("VmHWM") - before < 1.25 * rounded_kb + libraries_kb


def memory_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def test_another_start_waits_and_maps_what_the_first_one_keeps(
    tied: Path, cache: StartCache
) -> None:
    keeping, go_on = threading.Event(), threading.Event()

    def report(said: str, share: float | None) -> None:
        if said.startswith("Keeping"):
            keeping.set()
            go_on.wait()

    models = []
    first = threading.Thread(target=lambda: models.append(loaded(tied, INT8, cache, report)))
    first.start()
    until(keeping.is_set)

    class Second(Told):
        def __call__(self, said: str, share: float | None) -> None:
            super().__call__(said, share)
            go_on.set()

    told = Second()
    models.append(loaded(tied, INT8, StartCache(cache.folder), told))
    first.join()
    assert told == ["Another start is rounding the same weights", "Loading the rounded weights"]
    assert same(*models)


KILLED = """
import os, signal, sys
from pathlib import Path
from qwen_vl.start_cache import StartCache

def fill(part):
    (part / "model.safetensors").write_bytes(b"half")
    print("filling", flush=True)
    sys.stdin.read()  # until it is killed

cache = StartCache(Path(sys.argv[1]))
with cache.alone(sys.argv[2], lambda: None):
    cache.keep(sys.argv[2], "weights", 4, fill)
"""


def test_a_killed_writer_leaves_neither_half_an_entry_nor_its_lock(
    tied: Path, cache: StartCache
) -> None:
    name = entry_name(Checkpoint(tied, "a/b"), "int8")
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(cache.folder), name],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout.readline() == "filling\n"
    waits = []

    def report(said: str, share: float | None) -> None:
        if said.startswith("Another start"):
            waits.append(said)
            writer.send_signal(signal.SIGKILL)

    loaded(tied, INT8, cache, report)
    writer.communicate()
    assert waits
    assert [entry.name for entry in entries(cache)] == [f"{name}.kept"]
    assert not list(cache.folder.glob("*.part"))


def test_what_the_weights_depend_on_is_in_the_name(tied: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tied, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"

    def name(scheme: str = "int8") -> str:
        return entry_name(Checkpoint(folder, "a/b"), scheme)

    names = [name(), name("int4")]
    assert names[0] == name()
    os.utime(weights, ns=(1, 1))  # written anew
    names.append(name())
    config.write_text(config.read_text() + "\n")
    names.append(name())
    weights.write_bytes(weights.read_bytes() + b"more")
    os.utime(weights, ns=(1, 1))
    names.append(name())
    assert len(set(names)) == len(names)


def test_a_hubs_cache_tells_its_files_by_content(tied: Path, tmp_path: Path) -> None:
    names = []
    for folder, etag in (("one", "e1"), ("two", "e1"), ("three", "e2")):
        blobs, snapshot = tmp_path / folder / "blobs", tmp_path / folder / "snapshots" / "main"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        shutil.copyfile(tied / "model.safetensors", blobs / etag)
        os.utime(blobs / etag, ns=(len(names), len(names)))
        (snapshot / "model.safetensors").symlink_to(blobs / etag)
        names.append(entry_name(Checkpoint(snapshot, "a/b"), "int8"))
    assert names[0] == names[1] != names[2]


def test_a_changed_checkpoint_gets_an_entry_of_its_own(tmp_path: Path, cache: StartCache) -> None:
    config = Qwen2Config(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1)
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        Qwen2(config).save_pretrained(tmp_path / "model")
        models.append(loaded(tmp_path / "model", INT8, cache))
    assert not same(*models)
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("damage", ["half a file", "other tensors", "no configuration"])
def test_a_damaged_entry_is_made_again(damage: str, tied: Path, cache: StartCache) -> None:
    first = loaded(tied, INT8, cache)
    (entry,) = entries(cache)
    weights = entry / "model.safetensors"
    if damage == "half a file":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "other tensors":  # those of an earlier version's layers
        tensors = {f"{name}.old": tensor for name, tensor in first.state_dict().items()}
        write(entry, tied, tensors, {})
    else:
        (entry / "config.json").unlink()
    told = Told()
    assert same(loaded(tied, INT8, cache, told), first)
    assert "Rounding the weights to int8" in told
    told.clear()
    assert same(loaded(tied, INT8, cache, told), first)
    assert told == ["Loading the rounded weights"]


def test_extras_come_back(tied: Path, tmp_path: Path) -> None:
    extras = {"model.layers.0.mlp.down_proj": torch.tensor([3, 5], dtype=torch.int64)}
    write(tmp_path, tied, {"weight": torch.zeros(2)}, extras)
    back = read_extras(tmp_path)
    assert back.keys() == extras.keys()
    assert all(torch.equal(back[name], extras[name]) for name in extras)
    (tmp_path / "none").mkdir()
    write(tmp_path / "none", tied, {"weight": torch.zeros(2)}, {})
    assert read_extras(tmp_path / "none") == {}


def test_a_folder_that_cannot_be_written_is_told_once(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    engine = opened(
        Settings(
            model=str(tiny_checkpoints["qwen_text"]),
            device="cpu",
            quantize="int8",
            cache_folder=str(tmp_path / "file" / "kept"),
        )
    )
    assert engine.status().state == "ready", engine.status().detail
    engine.close()
    assert caplog.text.count("Nothing is kept for the next start") == 1
    assert "--cache-folder" in caplog.text


def test_a_full_disk_is_told_and_nothing_is_begun(
    tied: Path, cache: StartCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    loaded(tied, INT8, cache)
    assert "0.0 MB are free" in caplog.text
    assert not entries(cache)


def test_a_disk_that_fills_up_leaves_nothing(cache: StartCache) -> None:
    def fill(part: Path) -> None:
        (part / "half").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    assert not cache.keep("a", "weights", 4, fill)
    assert not list(cache.folder.iterdir())


def test_without_the_cache_nothing_is_written(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    for model, quantized_cache in ((str(tiny_checkpoints["qwen_text"]), False), ("bundled", True)):
        engine = opened(
            Settings(
                model=model,
                device="cpu",
                quantize="auto" if model == "bundled" else "int8",
                quantized_cache=quantized_cache,
                cache_folder=str(folder),
            )
        )
        assert engine.status().state == "ready", engine.status().detail
        engine.close()
        assert not folder.exists()


def test_the_command_deletes_what_starts_have_left_and_nothing_else(
    tied: Path, cache: StartCache, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(tied, INT8, cache)
    cache.recalled("a", lambda: 1)
    (cache.folder / "mine.txt").touch()
    command = ["--clear-quantized-cache", "--cache-folder", str(cache.folder)]
    for expected in ("MB deleted from", "is empty"):
        with pytest.raises(SystemExit) as end:
            load_settings(command, {})
        assert end.value.code == 0
        assert expected in capsys.readouterr().out
    assert [path.name for path in cache.folder.iterdir()] == ["mine.txt"]


def test_a_machine_is_measured_once(cache: StartCache, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = machine.Speeds({"bfloat16": 1.0, "int8": 1.0}, {"bfloat16": 1.0, "int8": 4.0})
    threads: list[int] = []

    def measure(count: int) -> machine.Speeds:
        threads.append(count)
        return speeds

    monkeypatch.setattr(machine, "measure", measure)
    for count in (1, 1, 2, 2):
        choice = machine.choose(
            Settings(device="cpu", threads=count), cache=StartCache(cache.folder)
        )
        assert choice.quantize == "int8"
    assert threads == [1, 2]
    (cache.folder / "measured.json").write_text('{"half')
    machine.choose(Settings(device="cpu", threads=1), cache=cache)
    assert threads == [1, 2, 1]


def test_what_a_cpu_may_use_is_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    names = []
    for flags in ("sse avx2", "sse avx2 avx512_vnni"):
        info.write_text(f"processor : 0\nmodel name : A CPU\nflags : {flags}\n")
        names.append(cpu_name(info))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    names.append(cpu_name(info))
    assert len(set(names)) == 3
    assert all(name.startswith("A CPU") for name in names)
    assert cpu_name(tmp_path / "none")


@pytest.fixture
def hub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    return tmp_path


def test_it_lies_beside_the_hubs_cache_unless_named(hub_home: Path) -> None:
    assert folder_of("") == hub_home / "qwen_vl"
    assert folder_of("/elsewhere") == Path("/elsewhere")
