"""What is being trained, and how it is kept: weights, optimiser, checkpoints, the exported model.

Knows files and the order of saving. Knows nothing of what a stage learns or from what.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import torch
from encode import Encoder
from network import halve, make_config, make_model
from optim import Optimiser
from parallel import cpu_count
from read_stage import ReadingHead
from safetensors.torch import load_file, save_file
from shards import Shelf
from tokenizer import load_or_build, save_tokenizer
from transformers import Qwen3VLForConditionalGeneration

SHARD_SIZE = "9MB"  # no file of the repository is over 10 MB
HEAD_FILE = "reading_head.safetensors"  # for going on with training; answering does not need it
SAVE_S, EXPORT_S = 150, 600  # on a CPU; a GPU learns as much in a tenth of the time
# Small, or with a rank that means nothing: AdamW. All other matrices: Muon.
ADAM_ONLY = ("pos_embed", "merger", "head", "embed_tokens")
# At Adam's full rate these ran away: deepstack drowned the visual tokens, patches their places.
RATES = {"deepstack_merger": 0.1, "patch_embed": 0.1}


class Trainee:
    """The model with its reading head, and where its training stands.

    A stage that was interrupted goes on; a new stage starts from what the last one reached. Without
    a checkpoint in `work` the weights come from the exported model in `start`, or are new. `eased`
    stages begin with easier pictures; some pictures may lie drawn ahead on the `shelf`.
    """

    def __init__(
        self,
        stage: str,
        work: Path,
        out: Path,
        start: Path | None,
        eased: bool = True,
        device: str = "cpu",
        shelf: Shelf | None = None,
    ) -> None:
        self.shelf = shelf
        self.eased, self.device = eased, torch.device(device)
        self.workers = cpu_count() if device == "cpu" else 1
        self.stage, self.out, self.checkpoint = stage, out, work / "checkpoint.pt"
        work.mkdir(parents=True, exist_ok=True)
        if start and not (work / "tokenizer.json").exists():
            shutil.copy(start / "tokenizer.json", work / "tokenizer.json")
        self.tokenizer = load_or_build(work / "tokenizer.json")
        self.encoder = Encoder(self.tokenizer)
        config = make_config(self.tokenizer.get_vocab(), self.tokenizer.get_vocab_size())
        self.is_new = not start and not self.checkpoint.exists()
        self.model = make_model(config)
        self.head = ReadingHead(config.vision_config.out_hidden_size)
        if start:
            saved = Qwen3VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
            self.model.load_state_dict(saved.state_dict())
            self.head.load_state_dict(
                {name: weight.float() for name, weight in load_file(start / HEAD_FILE).items()}
            )
        self.state = (
            torch.load(self.checkpoint, map_location="cpu") if self.checkpoint.exists() else None
        )
        self.step, self.spent = 0, 0.0
        if self.state:
            self.step = self.state["step"]
            self.spent = self.state["spent"] if self.state["stage"] == self.stage else 0.0

    def prepare(self) -> None:
        """Make the optimiser and take over the checkpoint; before the workers fork."""
        for module in (self.model, self.head):
            halve(module)
            module.to(self.device)
        self.optimiser = Optimiser(
            {
                "visual": self.model.model.visual,
                "head": self.head,
                "text": self.model.model.language_model,
            },
            ADAM_ONLY,
            self.workers,
            RATES,
        )
        if self.state:
            self.optimiser.load(self.state["optimiser"])
            self.state = None
        self.saved = self.exported = time.time()
        self.stopping: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: self.stopping.append(number))

    def keep(self, step: int, spent_s: float, over: bool) -> None:
        """Worker 0 after each step: save and export when due; a polite kill saves and ends."""
        now, haste = time.time(), 10 if self.device.type == "cuda" else 1
        if now - self.saved > SAVE_S or over or self.stopping:
            state = {
                "stage": self.stage,
                "step": step,
                "spent": spent_s,
                "optimiser": self.optimiser.state(),
            }
            torch.save(state, self.checkpoint.with_suffix(".tmp"))
            os.replace(self.checkpoint.with_suffix(".tmp"), self.checkpoint)
            self.saved = now
        if now - self.exported > EXPORT_S / haste or over or self.stopping:
            self.export()
            self.exported = now
        if self.stopping:
            raise SystemExit("stopped; what was learnt is saved")

    def export(self) -> None:
        """Write model, tokenizer and processor settings; the folder is swapped in whole."""
        fresh = self.out.with_name(self.out.name + ".new")
        old = self.out.with_name(self.out.name + ".old")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        save_tokenizer(self.tokenizer, fresh)
        self.model.generation_config.do_sample = False
        self.model.save_pretrained(fresh, max_shard_size=SHARD_SIZE)
        weights = {
            name: weight.cpu().contiguous() for name, weight in self.head.state_dict().items()
        }
        save_file(weights, fresh / HEAD_FILE)
        config = json.loads((fresh / "config.json").read_text())
        config["dtype"] = "bfloat16"
        (fresh / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for file in fresh.iterdir():
            file.chmod(0o644)
        if self.out.exists():
            os.replace(self.out, old)
        os.replace(fresh, self.out)
        shutil.rmtree(old, ignore_errors=True)
