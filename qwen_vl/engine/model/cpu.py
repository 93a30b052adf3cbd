"""Which CPU this is, as far as speed goes."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import torch

# Each keeps a library from instructions that the CPU has.
_LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
)


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
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ]
    used = " ".join([instructions, torch.backends.cpu.get_cpu_capability(), *limits])
    digest = hashlib.sha256(used.encode()).hexdigest()[:8]
    return f"{told.get('model name') or platform.processor() or platform.machine()} ({digest})"
