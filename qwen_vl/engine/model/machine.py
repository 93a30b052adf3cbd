"""Which precision, device and thread count suit this machine, and why.

Decides by measurement. Many CPUs emulate bfloat16, which is then several times slower than float32,
and fewer bits are faster only where there are kernels for them. Knows nothing of models.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import Literal

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from qwen_vl.config import Settings
from qwen_vl.engine.model.cpu import cpu_name
from qwen_vl.engine.model.float_products import multiplying
from qwen_vl.engine.model.input_forms import INPUT_FORMS
from qwen_vl.engine.model.quantize import Int4Linear, Int8Linear, Wide
from qwen_vl.errors import ModelUnavailable
from qwen_vl.heap import trim_heap
from qwen_vl.start_cache import StartCache

_PROBE_WIDTH = 2048  # the hidden size of Qwen3-VL-2B
_PROBE_WEIGHTS = 4  # of 3 x 2048 outputs: 48 MB in int8, more than caches hold
_PROBE_OUTLIERS = _PROBE_WIDTH // 32  # columns
_PREFILL_ROWS = 256  # one small picture
_MOST_NARROW_ROWS = 65
MEASURED = "5"  # another one whenever other things are measured: earlier figures are void then


@dataclass(frozen=True)
class Choice:
    """Where and how the model runs; `reason` is shown to the user."""

    device: str  # "cpu", "cuda", "mps", or "auto" for several GPUs
    dtype: torch.dtype  # of activations, and of weights that are not quantized
    threads: int
    reason: str
    quantize: str = "none"  # "int8" or "int4" on a CPU, "4bit" on a GPU
    wide: Wide = field(default_factory=Wide)  # how quantized weights are multiplied in prefill
    input_bits: int | None = None  # of the digits that int8 weights are multiplied with; 7 or 8

    @property
    def precision(self) -> str:
        """What to tell the user: "float32", "int8", ..."""
        return str(self.dtype).removeprefix("torch.") if self.quantize == "none" else self.quantize


def choose(
    settings: Settings,
    *,
    tiny: bool = False,
    has_experts: bool = False,
    cache: StartCache | None = None,
) -> Choice:
    """Picks for `settings`; `tiny` models run in float32, where they are exact and fast anyway.

    Models with experts are not quantized on a CPU: theirs are no linear layers. What was measured
    is kept in `cache`. Raises ModelUnavailable for what this machine or the model cannot do.
    """
    threads = settings.threads or usable_cores()
    device = _device(settings.device)
    if settings.quantize in ("int8", "int4"):
        if device != "cpu":
            raise ModelUnavailable(
                f"--quantize {settings.quantize} is for CPUs: use --quantize 4bit on a GPU, or "
                "--device cpu."
            )
        if has_experts:
            raise ModelUnavailable(
                f"--quantize {settings.quantize} does not work for models with experts: leave it "
                "out."
            )
        speeds = measured(threads, cache)
        reason = f"chosen by --quantize; {speeds.said(settings.quantize)}"
        return _rounded(threads, reason, settings.quantize, speeds)
    if settings.quantize == "4bit":
        return _four_bit(device, threads)
    if settings.dtype != "auto":
        return Choice(device, getattr(torch, settings.dtype), threads, "chosen by --dtype")
    if tiny:
        return Choice(device, torch.float32, threads, "a model this small runs fast in float32")
    if device == "cpu":
        may_round = settings.quantize == "auto" and not has_experts
        return _fastest_on_cpu(measured(threads, cache), threads, may_round)
    if device == "mps":
        return Choice(device, torch.float16, threads, "float16 is native on Apple GPUs")
    if _has_bfloat16():
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
    return max(1, min(cores, torch.get_num_threads(), cgroup_cores() or cores))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; on a CPU torch says so with a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error).lower()
    known = "allocate memory" in said or "out of memory" in said
    return isinstance(error, RuntimeError) and known


def release_memory() -> None:
    """Gives unused memory back to the system, where the C library offers that."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()


def cgroup_cores(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """The cgroup v2 CPU quota in whole cores, rounded up; None without one."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, -(-int(quota) // int(period)))


def kind_and_memory(settings: Settings) -> tuple[Literal["cpu", "gpu"], int]:
    """What the model will run on, and the bytes of memory there, of all GPUs together."""
    if _device(settings.device) in ("cpu", "mps"):
        return "cpu", min(psutil.virtual_memory().total, cgroup_bytes() or sys.maxsize)
    devices = range(torch.cuda.device_count())
    return "gpu", sum(torch.cuda.get_device_properties(i).total_memory for i in devices)


def cgroup_bytes(path: Path = Path("/sys/fs/cgroup/memory.max")) -> int | None:
    """The cgroup v2 limit on memory; None without one."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max"
        return None


def _four_bit(device: str, threads: int) -> Choice:
    if device in ("cpu", "mps"):
        raise ModelUnavailable(
            "--quantize 4bit needs an NVIDIA or AMD GPU: use --quantize int4 on a CPU."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelUnavailable(
            "--quantize 4bit needs the package bitsandbytes: pip install bitsandbytes"
        )
    half = torch.bfloat16 if _has_bfloat16() else torch.float16
    return Choice(device, half, threads, "chosen by --quantize", "4bit")


def _has_bfloat16() -> bool:
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _fastest_on_cpu(speeds: Speeds, threads: int, may_round: bool) -> Choice:
    gains = speeds.prefill["bfloat16"], speeds.decode["bfloat16"]
    dtype = torch.bfloat16 if min(gains) >= 1 and max(gains) > 1.1 else torch.float32
    # Against what would run otherwise: bfloat16 may decode fast and read prompts far too slowly.
    otherwise = speeds.decode["bfloat16"] if dtype is torch.bfloat16 else 1.0
    if may_round and speeds.decode["int8"] > 1.2 * otherwise:
        return _rounded(threads, speeds.said("int8"), "int8", speeds)
    return Choice("cpu", dtype, threads, speeds.said("bfloat16"))


def _rounded(threads: int, reason: str, scheme: str, speeds: Speeds) -> Choice:
    return Choice(
        *("cpu", torch.float32, threads, reason, scheme, speeds.wide),
        input_bits=speeds.input_bits,
    )


@dataclass(frozen=True)
class Speeds:
    """Measured speeds of linear layers as multiples of float32's, by name.

    `input_bits`: int8 is faster with rounded inputs, and its figures are those. `wide_rows`: from
    so many rows on, it is faster to widen int8 weights first.
    """

    prefill: dict[str, float]
    decode: dict[str, float]
    input_bits: int | None = None
    wide_rows: int = Wide.least_rows

    @property
    def wide(self) -> Wide:
        """How many rows at a time are multiplied fastest."""
        return Wide(_product(self.prefill["bfloat16"]), self.wide_rows)

    def said(self, name: str) -> str:
        """What was measured, in a sentence for the user."""
        return (
            f"{name} measured at prefill {self.prefill[name]:.1f}x, decode {self.decode[name]:.1f}x"
            " the speed of float32 on this CPU"
        )


def measured(threads: int, cache: StartCache | None) -> Speeds:
    """What `measure` gave at an earlier start on such a machine, or gives now."""
    if cache is None:
        return measure(threads)
    key = f"{cpu_name()}, {threads} threads, torch {torch.__version__}, {MEASURED}"
    return Speeds(**cache.recalled(key, lambda: asdict(measure(threads))))


@once
@torch.inference_mode()
def measure(threads: int) -> Speeds:
    """How fast this CPU multiplies in each form, tried once in a process; takes a second or two."""
    torch.set_num_threads(threads)
    # Enough weights that decoding reads them from memory and not from a cache.
    weights = [torch.randn(3 * _PROBE_WIDTH, _PROBE_WIDTH) for _ in range(_PROBE_WEIGHTS)]
    halves = [weight.bfloat16() for weight in weights]
    times_s = {
        "float32": _time([partial(F.linear, weight=weight) for weight in weights], torch.float32),
        "bfloat16": _time([partial(F.linear, weight=half) for half in halves], torch.bfloat16),
    }
    gain = times_s["float32"][0] / times_s["bfloat16"][0]
    coded = [Int8Linear(weight, None, Wide(_product(gain))) for weight in weights]
    times_s["int8"] = _time(coded, torch.float32)
    input_bits = None
    bits = next((bits for bits, form in INPUT_FORMS.items() if form.is_exact()), None)
    if bits is not None:
        product, apart = INPUT_FORMS[bits].product, torch.arange(_PROBE_OUTLIERS)
        times = _time([product([one], apart) for one in coded], torch.float32)
        # Several answers at a time gain most, which is not measured here.
        if times[0] < times_s["int8"][0] and times[1] < 1.1 * times_s["int8"][1]:
            input_bits, times_s["int8"] = bits, times
    wide_rows = _wide_rows(coded[0])
    del coded
    packed = [Int4Linear(weight, None) for weight in weights]
    times_s["int4"] = _time(packed, torch.float32)
    prefill, decode = (
        {name: times_s["float32"][i] / spent_s[i] for name, spent_s in times_s.items()}
        for i in (0, 1)
    )
    return Speeds(prefill, decode, input_bits, wide_rows)


def _product(bfloat16_gain: float) -> torch.dtype:
    """What prefill multiplies in where bfloat16 is so many times as fast as float32."""
    return torch.bfloat16 if bfloat16_gain > 1.1 else torch.float32


def _wide_rows(layer: Int8Linear) -> int:
    """From how many rows on this layer is faster with widened weights: 17, 33 or 65."""
    rows, wide = Wide.least_rows, layer.wide
    while rows < _MOST_NARROW_ROWS:
        x = torch.randn(2 * rows - 2, _PROBE_WIDTH)
        spent_s = []
        for least in (len(x) + 1, 1):
            layer.wide = replace(wide, least_rows=least)
            with multiplying(len(x)):
                spent_s.append(_best_s(lambda: layer(x)))  # noqa: B023 - used at once
        if spent_s[1] < spent_s[0]:
            break
        rows = len(x) + 1
    layer.wide = wide
    return rows


def _time(layers: Sequence[Callable[[Tensor], Tensor]], dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of one layer over a small picture's rows, and of all over one row; the best runs."""
    times_s = []
    for rows, used in ((_PREFILL_ROWS, layers[:1]), (1, layers)):
        x = torch.randn(rows, _PROBE_WIDTH).to(dtype)
        with multiplying(rows):
            times_s.append(_best_s(lambda: [layer(x) for layer in used]))  # noqa: B023 - used at once
    return times_s[0], times_s[1]


def _best_s(run: Callable[[], object]) -> float:
    best_s = float("inf")
    for _ in range(4):
        start_s = time.perf_counter()
        run()
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s
