"""A checkpoint folder -> a model in memory, with the facts about its family that the engine needs.

Knows transformers and the supported families; knows nothing of hubs, requests or batches.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from qwen_vl.config import Settings
from qwen_vl.engine.model import (
    delta_rule,
    float_products,
    lean_layers,
    patch_product,
    thinking,
)
from qwen_vl.engine.model.checkpoint import BUNDLED_FOLDER, Checkpoint, Report
from qwen_vl.engine.model.int4 import Importance
from qwen_vl.engine.model.layers import LayerKind, layer_kinds, state_values, token_values
from qwen_vl.engine.model.machine import Choice, choose, is_out_of_memory
from qwen_vl.engine.model.progress import reporting
from qwen_vl.engine.model.prompt import Prompt, PromptBuilder
from qwen_vl.engine.model.rounded import load_rounded
from qwen_vl.errors import ModelUnavailable
from qwen_vl.families import BUNDLED, FAMILIES, family_of
from qwen_vl.heap import share_heap
from qwen_vl.schema import Family
from qwen_vl.start_cache import StartCache

TINY_BYTES = 100e6  # of weights
SMALL_PASS = 2**31  # tokens times bytes of weights: about 10 ms on one core


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and what the engine must know about it."""

    family: Family
    model: Any
    tokenizer: Any
    prompts: PromptBuilder
    image_token_id: int | None  # None: text only
    end_ids: frozenset[int]
    device: torch.device  # where inputs go

    @property
    def accepts_images(self) -> bool:
        return self.family.sees_pictures

    @property
    def vocabulary_size(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def most_image_tokens(self) -> int | None:
        """Of one picture; None for text only."""
        reader = self.prompts.reader
        return None if reader is None else reader.most_tokens

    @property
    def context_tokens(self) -> int | None:
        """Tokens of prompt and answer that the checkpoint was made for, as far as it says so."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @cached_property
    def token_bytes(self) -> int:
        """What the keys and values of one token take, in all layers."""
        return token_values(self.model.config.get_text_config()) * int(self.model.dtype.itemsize)

    @cached_property
    def snapshot_bytes(self) -> int:
        """What the states of one sequence take in recurrent layers, which keep them in float32."""
        return 4 * state_values(self.model.config.get_text_config())

    @cached_property
    def layer_kinds(self) -> list[LayerKind]:
        return layer_kinds(self.model.config.get_text_config())

    @cached_property
    def is_recurrent(self) -> bool:
        """Whether some layers keep states that hold after one token only."""
        return any(kind.is_recurrent for kind in self.layer_kinds)

    @cached_property
    def copies_midway(self) -> bool:
        """Whether a pass can copy the states of recurrent layers after any of its tokens."""
        recurrent = [kind for kind in self.layer_kinds if kind.is_recurrent]
        has_one = all(kind.states == 1 for kind in recurrent)
        return has_one and delta_rule.layers_here(self.model) == len(recurrent) > 0

    @cached_property
    def weight_bytes(self) -> int:
        packed = (getattr(module, "packed_bytes", 0) for module in self.model.modules())
        return int(self.model.get_memory_footprint()) + sum(packed)

    def forward(self, tokens: int, **inputs: Any) -> Any:
        """The model's forward pass over `tokens` tokens.

        A small pass of a tiny model runs on one thread. A team of threads waits in every layer for
        its slowest member, and while a clip is being decoded one member has no core. Any pass of a
        larger model reads its weights for longer than that.
        """
        with self.multiplying(tokens):
            return self._forward(tokens, inputs)

    def multiplying(self, rows: int) -> AbstractContextManager[None]:
        """How float32 is multiplied in a pass over so many rows."""
        on_cpu = self.device.type == "cpu"
        return float_products.multiplying(rows) if on_cpu else nullcontext()

    def _forward(self, tokens: int, inputs: dict[str, Any]) -> Any:
        is_tiny = self.device.type == "cpu" and self.weight_bytes < TINY_BYTES
        small = is_tiny and tokens * self.weight_bytes < SMALL_PASS
        if not small:
            return self.model(**inputs)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self.model(**inputs)
        finally:
            torch.set_num_threads(threads)

    def positions(self, prompt: Prompt) -> torch.Tensor:
        """Position ids of a prompt: [1, tokens] for text models, else [4, 1, tokens].

        Row 0 is the plain index, rows 1 to 3 are MRoPE's time, height and width. They are always
        computed here and passed on, because the model keeps its own in one attribute that all
        conversations share (`rope_deltas`).
        """
        index = torch.arange(len(prompt.token_ids)).unsqueeze(0)
        if self.image_token_id is None:
            return index
        token_ids = torch.tensor([prompt.token_ids])
        grids = torch.cat([p.grid_thw for p in prompt.pictures]) if prompt.pictures else None
        mrope, _ = self.model.model.get_rope_index(
            token_ids,
            mm_token_type_ids=token_ids.eq(self.image_token_id).int(),
            image_grid_thw=grids,
        )
        return torch.cat([index.unsqueeze(0), mrope])


def load(
    checkpoint: Checkpoint,
    choice: Choice,
    report: Report,
    cache: StartCache | None = None,
    judge: Callable[[], Importance] | None = None,
) -> LoadedModel:
    """Reads config, tokenizer and weights. Raises ModelUnavailable with the cause.

    Rounded weights are taken from `cache`, or kept there; `judge` is for `load_rounded`.
    """
    torch.set_num_threads(choice.threads)
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True)
        if config.model_type not in FAMILIES:
            raise ModelUnavailable(
                f"{checkpoint.model_id} is a {config.model_type!r} model, not a Qwen chat model "
                f"that runs here ({', '.join(FAMILIES)})."
            )
        has_vision = FAMILIES[config.model_type].sees_pictures
        tokenizer = _tokenizer(checkpoint)
        family = _family(checkpoint, config.model_type, tokenizer)
        image_processor = _image_processor(checkpoint) if has_vision else None
        model = _weights(checkpoint, choice, has_vision, cache, report, judge)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelUnavailable(
            f"{checkpoint.model_id} cannot be loaded, its files look damaged or incomplete "
            f"({error}). Download it again."
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        gc.collect()
        raise _out_of_memory(checkpoint) from error
    image_token_id = config.image_token_id if has_vision else None
    return LoadedModel(
        family=family,
        model=model,
        tokenizer=tokenizer,
        prompts=PromptBuilder(tokenizer, family, image_processor, image_token_id),
        image_token_id=image_token_id,
        end_ids=_end_ids(model, tokenizer),
        device=_input_device(model),
    )


def compute_here(loaded: LoadedModel) -> None:
    """Lets a CPU compute in this project's own ways what they are known to make faster.

    Not where weights lie elsewhere until a layer's own forward is called.
    """
    if all(weight.device.type == "cpu" for weight in loaded.model.parameters()):
        for part in (delta_rule, lean_layers, patch_product):
            part.use_on_cpu(loaded.model)
        share_heap()  # one layer's buffers serve the next; an engine has done so already
        float_products.is_faster()  # tried now, while nobody waits for an answer


def _tokenizer(checkpoint: Checkpoint) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    beside = checkpoint.folder / "chat_template.json"  # where older processors keep it
    if not tokenizer.chat_template and beside.is_file():
        tokenizer.chat_template = json.loads(beside.read_text())["chat_template"]
    if not tokenizer.chat_template:
        raise ModelUnavailable(
            f"{checkpoint.model_id} has no chat template: use the Instruct or Chat variant."
        )
    tokenizer.chat_control_tokens = _control_tokens(tokenizer)
    return tokenizer


def _family(checkpoint: Checkpoint, model_type: str, tokenizer: Any) -> Family:
    if checkpoint.folder.resolve() == BUNDLED_FOLDER.resolve():
        return BUNDLED
    return family_of(
        model_type,
        tokenizer.chat_template,
        thinking.opens_thought(thinking.rendered(tokenizer)),
        thinking.efforts_of(tokenizer),
    )


def _control_tokens(tokenizer: Any) -> list[str]:
    """Tokens that text from users never becomes, beside the special ones.

    Tags such as `<think>`, which a template need not name, and what the template does name. Not the
    other added tokens: they are words.
    """
    added = (token.content for token in tokenizer.added_tokens_decoder.values())
    return [
        text
        for text in added
        if (text.startswith("<") and text.endswith(">"))
        or (text in tokenizer.chat_template and not text.isspace())
    ]


def _image_processor(checkpoint: Checkpoint) -> Any:
    # The PIL backend needs no torchvision.
    return AutoImageProcessor.from_pretrained(
        checkpoint.folder, backend="pil", local_files_only=True
    )


def _weights(
    checkpoint: Checkpoint,
    choice: Choice,
    has_vision: bool,
    cache: StartCache | None,
    report: Report,
    judge: Callable[[], Importance] | None,
) -> Any:
    model_class = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    if choice.quantize in ("int8", "int4"):
        return load_rounded(model_class, checkpoint, choice, cache, report, judge).eval()
    options: dict[str, Any] = {
        "dtype": choice.dtype,
        "device_map": "auto" if choice.device == "auto" else {"": choice.device},
    }
    if choice.quantize == "4bit":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=choice.dtype,
        )
    with reporting(report, "Loading weights"):
        model = model_class.from_pretrained(checkpoint.folder, local_files_only=True, **options)
    return model.eval()


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(end for end in (*ends, tokenizer.eos_token_id) if end is not None)


def _input_device(model: Any) -> torch.device:
    device = model.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device  # offloaded: hooks move it


def _out_of_memory(checkpoint: Checkpoint) -> ModelUnavailable:
    return ModelUnavailable(
        f"There is not enough memory for {checkpoint.model_id}: close other programs, or choose a "
        "smaller model with --model."
    )


def choose_for(
    checkpoint: Checkpoint, settings: Settings, cache: StartCache | None = None
) -> Choice:
    """What suits this machine and this checkpoint. Raises ModelUnavailable."""
    folder = checkpoint.folder
    return choose(settings, tiny=is_tiny(folder), has_experts=has_experts(folder), cache=cache)


def is_tiny(folder: Path) -> bool:
    """Whether the weights are so small (under 100 MB) that precision is no question of speed."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) < TINY_BYTES


def has_experts(folder: Path) -> bool:
    """Whether the checkpoint is a mixture of experts; False if its config cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text())
        text = config.get("text_config", config)
        return config["model_type"].endswith("_moe") or bool(text.get("num_experts"))
    except (OSError, ValueError, KeyError, TypeError):
        return False  # loading it says what is wrong
