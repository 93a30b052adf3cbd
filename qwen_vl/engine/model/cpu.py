"""Which CPU this is, as far as speed goes."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import torch

from qwen_vl.config import cpu_limits


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name, and a digest of the instructions that may be used on it."""
    told: dict[str, str] = {}
    try:
        for line in info.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
    except OSError:  # not Linux
        pass
    instructions = told.get("flags") or told.get("Features") or platform.machine()
    used = " ".join([instructions, torch.backends.cpu.get_cpu_capability(), *cpu_limits()])
    digest = hashlib.sha256(used.encode()).hexdigest()[:8]
    return f"{told.get('model name') or platform.processor() or platform.machine()} ({digest})"
