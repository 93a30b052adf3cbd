"""One model in two forms: a checkpoint for this project and its GGUF files for llama.cpp.

The checkpoint is a given one, or an architecture filled with random weights. llama.cpp's own
converter makes the GGUF: text in Q8_0, the vision encoder in float16. Both are kept for next time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from qwen_vl.bench.peer_servers import PeerFailed
from qwen_vl.bench.shapes import Shape
from qwen_vl.engine.model.checkpoint import BUNDLED_FOLDER

CONVERTER = "convert_hf_to_gguf.py"
NEEDED_BYTES = 10 * 10**9  # of a 2B model: bfloat16, its GGUF files and what is rounded to int8
CONTROL_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
PIXELS = {"shortest_edge": 65_536, "longest_edge": 16_777_216}  # as in Qwen3-VL's checkpoints


def random_checkpoint(shape: Shape, tokenizer: Path, folder: Path) -> Path:
    """Writes `shape` with random weights in bfloat16 to `folder`, unless it is there.

    `tokenizer` is a folder with Qwen3's tokenizer.json and tokenizer_config.json: the converter
    knows tokenizers by what they make of a text, so it takes no other. The chat template and the
    picture settings are the bundled model's. Raises PeerFailed.
    """
    if folder.is_dir():
        return folder
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (tokenizer / name).is_file():
            raise PeerFailed(f"There is no {name} in {tokenizer}: name Qwen3's with --tokenizer.")
    words = AutoTokenizer.from_pretrained(tokenizer)
    ids: dict[str, Any] = {
        name: words.convert_tokens_to_ids(token) for name, token in CONTROL_TOKENS.items()
    }
    if missing := [CONTROL_TOKENS[name] for name, number in ids.items() if number is None]:
        raise PeerFailed(f"The tokenizer in {tokenizer} has no {', '.join(missing)}.")
    torch.manual_seed(0)
    model = shape.model_class._from_config(shape.config(**ids), dtype=torch.bfloat16)
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    shutil.copy(tokenizer / "tokenizer.json", unfinished)
    shutil.copy(BUNDLED_FOLDER / "chat_template.jinja", unfinished)
    told = json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    told.pop("chat_template", None)  # a text model's; the converter would prefer it
    (unfinished / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    pictures = json.loads((BUNDLED_FOLDER / "preprocessor_config.json").read_text(encoding="utf-8"))
    pictures["size"] = PIXELS
    (unfinished / "preprocessor_config.json").write_text(json.dumps(pictures), encoding="utf-8")
    ends = {"eos_token_id": words.convert_tokens_to_ids("<|im_end|>")}
    (unfinished / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")
    unfinished.rename(folder)
    return folder


def converter_of(llama_server: Path) -> Path:
    """llama.cpp's converter, in the source tree that its server was built in. Raises PeerFailed."""
    for parent in llama_server.resolve().parents:
        if (parent / CONVERTER).is_file():
            return parent / CONVERTER
    raise PeerFailed(
        f"No {CONVERTER} in the folders above {llama_server}: build the server inside llama.cpp's "
        "source tree, as `make peers` does, or name the script with --converter."
    )


def gguf(checkpoint: Path, converter: Path, folder: Path) -> tuple[Path, Path]:
    """(text model, vision encoder) as GGUF files in `folder`. Raises PeerFailed."""
    about = f"{checkpoint.resolve()} {(checkpoint / 'config.json').stat().st_mtime_ns}"
    name = f"{checkpoint.name}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"
    text, vision = folder / f"{name}-q8_0.gguf", folder / f"{name}-vision-f16.gguf"
    _convert(converter, checkpoint, text, "--outtype", "q8_0")
    _convert(converter, checkpoint, vision, "--outtype", "f16", "--mmproj")
    return text, vision


def _convert(converter: Path, checkpoint: Path, file: Path, *flags: str) -> None:
    if file.is_file():
        return
    unfinished = file.with_name("part-" + file.name)
    command = [sys.executable, str(converter), str(checkpoint), *flags, "--outfile"]
    done = subprocess.run([*command, str(unfinished)], capture_output=True, text=True)
    if done.returncode:
        raise PeerFailed(
            "llama.cpp's converter failed. `make peers` gives it what it imports.\n"
            + done.stderr[-2000:]
        )
    unfinished.rename(file)
