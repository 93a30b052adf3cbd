"""Only the inference thread may compute in parallel: two OpenMP teams slow each other down."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import threading
import psutil
import torch
from PIL import Image
from qwen_vl.config import Settings
from qwen_vl.engine.model import checkpoint
from qwen_vl.engine.model.machine import choose
from qwen_vl.engine.model.load import load
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import ImagePart, Message, TextPart

settings = Settings(model="bundled")
box = []

def read():
    found = checkpoint.find(settings, lambda *_: None)
    box.append(load(found, choose(settings, tiny=True), lambda *_: None).prompts)

def build():
    parts = (ImagePart(Image.effect_noise((1500, 1200), 60).convert("RGB")), TextPart("Hello"))
    box[0].build([Message("user", parts)], SamplingParams())

def product():
    torch.rand(1 << 24).exp_()

def running():
    return {thread.id for thread in psutil.Process().threads()}

def started(work):
    # how many threads the work leaves behind while the thread that did it is still there
    counts = []
    def watched():
        before = running()
        work()
        counts.append(len(running() - before))
    thread = threading.Thread(target=watched)
    thread.start()
    thread.join()
    return counts[0]

torch.set_num_threads(2)
started(read)
started(build)  # imports what it needs
print(started(build), started(product) >= 1)
"""


def test_a_request_is_prepared_without_an_openmp_team() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout.split()[-2:] == ["0", "True"], done.stdout + done.stderr
