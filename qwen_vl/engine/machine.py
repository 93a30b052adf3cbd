"""Which precision, device and thread count suit this machine, and why.

Decides by measurement: on a CPU, "auto" is not to be trusted, because bfloat16 is emulated on many
of them and then several times slower than float32. Knows nothing of models.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from qwen_vl.config import Settings
from qwen_vl.errors import ModelUnavailable

_PROBE_WIDTH = 2048  # the hidden size of Qwen3-VL-2B
_PREFILL_ROWS = 256  # one small picture


@dataclass(frozen=True)
class Choice:
    """Where and how the model runs; `reason` is shown to the user."""

    device: str  # "cpu", "cuda", "mps", or "auto" for several GPUs
    dtype: torch.dtype
    threads: int
    reason: str


def choose(settings: Settings, *, tiny: bool = False) -> Choice:
    """Picks for `settings`; `tiny` models run in float32, where they are exact and fast anyway.

    Raises ModelUnavailable for a device that is not there.
    """
    threads = settings.threads or usable_cores()
    device = _device(settings.device)
    if settings.dtype != "auto":
        return Choice(device, getattr(torch, settings.dtype), threads, "chosen by --dtype")
    if tiny:
        return Choice(device, torch.float32, threads, "a model this small runs fast in float32")
    if device == "cpu":
        dtype, reason = _fastest_on_cpu(threads)
        return Choice(device, dtype, threads, reason)
    if device == "mps":
        return Choice(device, torch.float16, threads, "float16 is native on Apple GPUs")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Choice(device, torch.bfloat16, threads, "bfloat16 is native on this GPU")
    return Choice(device, torch.float16, threads, "this GPU has no bfloat16")


def _device(wanted: str) -> str:
    if wanted != "auto":
        try:
            torch.empty(0, device=wanted)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ModelUnavailable(
                f"--device {wanted} cannot be used on this machine ({reason}): leave it out, or "
                "install a torch build for this device (see the README)."
            ) from error
        return wanted
    if torch.cuda.is_available():
        return "auto"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_cores() -> int:
    """CPU cores this process may really use: affinity and container quota counted in."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, torch.get_num_threads(), _cgroup_cores() or cores))


def _cgroup_cores(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """The cgroup v2 CPU quota in whole cores, rounded up; None without one."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, -(-int(quota) // int(period)))


def _fastest_on_cpu(threads: int) -> tuple[torch.dtype, str]:
    torch.set_num_threads(threads)
    times_s = {dtype: _probe(dtype) for dtype in (torch.float32, torch.bfloat16)}
    gains = [
        single / half
        for single, half in zip(times_s[torch.float32], times_s[torch.bfloat16], strict=True)
    ]
    measured = f"prefill {gains[0]:.1f}x, decode {gains[1]:.1f}x the speed of float32"
    if min(gains) >= 1 and max(gains) > 1.1:
        return torch.bfloat16, f"bfloat16 measured at {measured} on this CPU"
    return torch.float32, f"bfloat16 measured at only {measured} on this CPU"


def _probe(dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of one prefill-like and one decode-like linear layer; the best of a few runs."""
    # Eight weights, so that decoding reads them from memory and not from a cache.
    weights = [torch.randn(_PROBE_WIDTH, _PROBE_WIDTH).to(dtype) for _ in range(8)]
    return _time(_PREFILL_ROWS, weights[:1]), _time(1, weights)


@torch.inference_mode()
def _time(rows: int, weights: list[torch.Tensor]) -> float:
    x = torch.randn(rows, _PROBE_WIDTH).to(weights[0].dtype)
    best_s = float("inf")
    for _ in range(4):
        start_s = time.perf_counter()
        for weight in weights:
            torch.nn.functional.linear(x, weight)
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s
