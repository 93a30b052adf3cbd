"""`python -m qwen_vl.bench.peers`: this project's server against llama.cpp's, on this machine.

Both serve the same weights on the same threads: this project as `app.py` would by itself,
llama.cpp in Q8_0. They are asked the same over HTTP, one server at a time, so that neither waits
for the other. Everything is measured twice and the better run counts. Prints the ratios as a table,
and writes JSON and a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from qwen_vl.bench.arguments import at_least
from qwen_vl.bench.peer_questions import Measured, sitting
from qwen_vl.bench.peer_servers import PeerFailed, Server, running
from qwen_vl.bench.speed import Figure, draw, say

ROOT = Path(__file__).resolve().parents[2]
SITTINGS = 2  # at the first start and at a later one; one more start only tells how long it takes
CONTEXT_TOKENS = 8192  # of each server: llama.cpp sets memory aside for all of them at its start
PEER = "llama.cpp"
Runs = dict[str, list[Measured]]  # by the row's name


@dataclass(frozen=True)
class Row:
    """One line of the table: what each server's runs gave, in their order."""

    name: str
    ours: Sequence[Measured]
    theirs: Sequence[Measured]

    @property
    def unit(self) -> str:
        return self.ours[0].unit

    @property
    def ratio(self) -> float:
        """Ours to theirs: times and memory want it low, speeds high."""
        return better(self.ours) / better(self.theirs)


def better(runs: Sequence[Measured]) -> float:
    """The fastest, the smallest."""
    values = [run.value for run in runs]
    return max(values) if runs[0].unit.endswith("/s") else min(values)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m qwen_vl.bench.peers", description=__doc__)
    parser.add_argument(
        "--llama-server",
        type=Path,
        required=True,
        help="its file; `make peers` builds it",
    )
    parser.add_argument(
        "--converter", type=Path, help="its convert_hf_to_gguf.py (default: found above the server)"
    )
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument(
        "--tokenizer",
        type=Path,
        help="a folder with Qwen3's tokenizer: weights are random, in Qwen3-VL-2B's architecture",
    )
    weights.add_argument("--model", type=Path, help="a folder with a Qwen3-VL checkpoint")
    parser.add_argument("--threads", type=at_least(1), help="of each server (default: all cores)")
    parser.add_argument("--new-tokens", type=at_least(2), default=128, help="tokens per answer")
    parser.add_argument("--quick", action="store_true", help="without the rows that take minutes")
    parser.add_argument(
        "--cache", type=Path, default=Path("build/peers"), help="for the model's files, some GB"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="folder for results")
    args = parser.parse_args(argv)
    try:
        version = version_of(args.llama_server)
        rows, name = compare(args)
    except PeerFailed as error:
        parser.exit(1, f"{error}\n")
    title = f"{name} against {PEER} {version}"
    print(f"\n{title}, {args.new_tokens} new tokens\n\n{table(rows)}")
    args.out.mkdir(parents=True, exist_ok=True)
    write(rows, title, args.out, new_tokens=args.new_tokens)
    print(f"\nWritten: {args.out / 'peers.json'} and {args.out / 'peers.png'}")


def version_of(llama_server: Path) -> str:
    """What the server says of itself. Raises PeerFailed when there is none."""
    try:
        told = subprocess.run(
            [str(llama_server), "--version"], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise PeerFailed(
            f"{llama_server} does not run ({error}). `make peers` builds llama.cpp's server and "
            "compares with it; or build its target llama-server yourself, and name that file."
        ) from error
    lines = [line for line in (told.stdout + told.stderr).splitlines() if "version" in line]
    return lines[0].removeprefix("version: ") if lines else "of an unknown version"


def compare(args: argparse.Namespace) -> tuple[list[Row], str]:
    """Makes what is missing, and measures -> (rows, the model and its setting in words)."""
    from qwen_vl.bench.peer_checkpoint import NEEDED_BYTES, converter_of, gguf, random_checkpoint
    from qwen_vl.bench.shapes import SHAPES
    from qwen_vl.engine.model.machine import usable_cores

    if sys.platform != "linux":
        raise PeerFailed("Peak memory is read from /proc: run this on Linux.")
    converter = args.converter or converter_of(args.llama_server)
    args.cache.mkdir(parents=True, exist_ok=True)
    checkpoint, name = args.model, str(args.model)
    if checkpoint is None:
        shape = SHAPES["2b"]
        say(f"Random weights in the shape of {shape.name}")
        if shutil.disk_usage(args.cache).free < NEEDED_BYTES:
            raise PeerFailed(f"{args.cache} needs {NEEDED_BYTES / 1e9:.0f} GB: see --cache.")
        folder = args.cache / f"{shape.name.lower()}-random"
        checkpoint, name = random_checkpoint(shape, args.tokenizer, folder), f"{shape.name} shape"
    elif not (checkpoint / "config.json").is_file():
        raise PeerFailed(f"{checkpoint} is not a checkpoint: it has no config.json.")
    say("The same as GGUF")
    text, vision = gguf(checkpoint, converter, args.cache)
    threads = args.threads or usable_cores()
    with tempfile.TemporaryDirectory(prefix="kept-", dir=args.cache) as kept:
        # What the app keeps for later starts is kept here, so that its first start is one.
        ours = Server(
            "this project",
            [
                *("env", f"HF_HOME={Path(kept).resolve()}"),
                *(sys.executable, str(ROOT / "app.py"), "--model", str(checkpoint.resolve())),
                *("--threads", str(threads), "--max-context-tokens", str(CONTEXT_TOKENS)),
                *("--max-seconds", "3600"),
            ],
        )
        theirs = Server(
            PEER,
            [
                *(str(args.llama_server), "--model", str(text), "--mmproj", str(vision)),
                *("--threads", str(threads), "--ctx-size", str(CONTEXT_TOKENS)),
            ],
        )
        rows = measure(ours, theirs, Path(kept), quick=args.quick, new_tokens=args.new_tokens)
    return rows, f"{name}, {threads} of {os.cpu_count()} cores"


def measure(ours: Server, theirs: Server, logs: Path, *, quick: bool, new_tokens: int) -> list[Row]:
    """All rows of both servers. They take turns: only one of them is there at a time.

    What the servers say goes to files in `logs`. Raises PeerFailed.
    """
    runs: tuple[Runs, Runs] = defaultdict(list), defaultdict(list)
    for number, start in enumerate(("first start", "later start", "later start")):
        for side, server in enumerate((ours, theirs)):
            say(f"{server.name}: {start}")
            with running(server, logs / f"{side}-{number}.log") as live:
                found = {f"ready, {start}": Measured(live.ready_s, "s")}
                if number < SITTINGS:
                    found |= sitting(live, quick=quick, new_tokens=new_tokens)
                    found[f"peak memory, {start}"] = Measured(live.peak_gib(), "GiB")
            for name, measured in found.items():
                runs[side][name].append(measured)
    return [Row(name, runs[0][name], runs[1][name]) for name in runs[0]]


def table(rows: Sequence[Row]) -> str:
    """Markdown: the better run of each side, and the ratio."""
    lines = [f"| what | ours | {PEER} | ratio |", "|---|---|---|---|"]
    for row in rows:
        ours, theirs = (f"{better(runs):.3g} {row.unit}" for runs in (row.ours, row.theirs))
        lines.append(f"| {row.name} | {ours} | {theirs} | {row.ratio:.2f} |")
    return "\n".join(lines)


def write(rows: Sequence[Row], title: str, folder: Path, *, new_tokens: int) -> None:
    """`peers.json` with every figure, and `peers.png` with the ratios."""
    told = [{**asdict(row), "ratio": row.ratio} for row in rows]
    result = {"title": title, "new_tokens": new_tokens, "rows": told}
    (folder / "peers.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    figures = [Figure(row.name, better(row.ours), row.unit, row.ratio, PEER) for row in rows]
    draw(figures, title.partition(" against ")[0], PEER).save(folder / "peers.png")


if __name__ == "__main__":
    main()
