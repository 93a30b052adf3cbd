"""Rounds the weights of a checkpoint while transformers reads them, one tensor at a time.

Or takes weights that were rounded before, as the model's own. transformers asks a quantizer what to
do with each tensor; this is one. What is rounded, and how, is for `quantize`. Knows nothing of
where files lie.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qwen_vl.engine.model.int4 import Importance
from qwen_vl.engine.model.quantize import Wide, is_rounded, quantize, round_layer
from qwen_vl.heap import release_pages, trim_heap

_METHOD = "qwen_vl"
_TRIM_BYTES = 64e6


class Outdated(Exception):
    """Weights that were rounded for other layers than those of today."""


@register_quantization_config(_METHOD)
class Rounding(QuantizationConfigMixin):
    """How to load: `scheme`, `wide` and `importance` are for `quantize`.

    `stored` is the safetensors file that `from_pretrained` is going to read if that holds rounded
    weights. `failure` is what went wrong on the way, as transformers only says that something did.
    """

    def __init__(
        self,
        scheme: str,
        wide: Wide,
        stored: Path | None = None,
        importance: Importance | None = None,
        **_: Any,
    ) -> None:
        self.quant_method = _METHOD  # type: ignore[assignment]
        self.scheme = scheme
        self.wide = wide
        self.stored = stored
        self.importance = importance
        self.failure: MemoryError | RuntimeError | None = None
        self.read_bytes = 0  # since memory was last given back


@register_quantizer(_METHOD)
class _Quantizer(HfQuantizer):
    quantization_config: Rounding

    def param_needs_quantization(self, model: Any, param_name: str, **more: Any) -> bool:
        """Not for tied ones: only transformers knows in the end what they are tied to."""
        path, _, name = param_name.rpartition(".")
        if self.quantization_config.stored or name != "weight":
            return False
        is_tied = param_name in model.all_tied_weights_keys
        return not is_tied and is_rounded(path, model.get_submodule(path))

    def get_quantize_ops(self) -> ConversionOps:
        return _Round(self.quantization_config)  # one for each tensor

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        """The model has its shape by now, and no weights: all of it is on the meta device."""
        how = self.quantization_config
        if how.stored:
            quantize(model, how.scheme, how.wide)
            model.all_tied_weights_keys = {}  # each has weights of its own now
            _check(model.state_dict(), how.stored)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        how = self.quantization_config
        if not how.stored:
            # What is left: tied, or not rounded.
            quantize(model, how.scheme, how.wide, how.importance)
        self.remove_quantization_config(model)  # a model like any other from now on
        return model

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


class _Round(ConversionOps):
    """Puts a rounded layer in the place of the linear layer whose weight has just been read."""

    def __init__(self, how: Rounding) -> None:
        self._how = how

    def convert(  # type: ignore[override]
        self,
        input_dict: dict[str, Any],
        *,
        model: Any,
        missing_keys: set[str],
        **_: Any,
    ) -> dict[str, Tensor]:
        """Takes {name in the model: its tensor, perhaps in a list}; leaves nothing to be set."""
        for name, read in input_dict.items():
            weight = read[0] if isinstance(read, list) else read
            path = name.rpartition(".")[0]
            linear = model.get_submodule(path)
            if weight.shape != linear.weight.shape:
                raise ValueError(f"{name} is {list(weight.shape)}, not {list(linear.weight.shape)}")
            linear.weight = nn.Parameter(weight, requires_grad=False)
            try:
                how = self._how
                round_layer(model, path, how.scheme, how.wide, how.importance)
            except (MemoryError, RuntimeError) as error:
                self._how.failure = error
                raise
            missing_keys.discard(name)
            release_pages(weight.data_ptr(), weight.nbytes)  # of the file: they count as ours
            self._how.read_bytes += weight.nbytes
        if self._how.read_bytes > _TRIM_BYTES:  # what rounding took lies between what is kept
            self._how.read_bytes = 0
            trim_heap()
        return {}


def _check(wanted: dict[str, Tensor], stored: Path) -> None:
    """Raises Outdated unless the file holds exactly these tensors."""
    with safe_open(stored, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        held = {name: (tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
    named = {name: (tuple(one.shape), _NAMES.get(one.dtype)) for name, one in wanted.items()}
    if held != named:
        raise Outdated(_differences(held.items(), named.items()))


_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
}


def _differences(held: Iterable[Any], named: Iterable[Any]) -> str:
    different = sorted(name for name, _ in set(held) ^ set(named))
    return f"{len(set(different))} tensors differ, {different[0]} for one"
