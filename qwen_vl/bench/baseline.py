"""Plain `generate` and the engine over one model in memory: what the benchmark compares.

The model is a given one, or one of the `shapes` with random weights. Knows nothing of how results
are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, GenerationConfig
from transformers.generation.streamers import BaseStreamer

from qwen_vl.bench.shapes import Shape
from qwen_vl.config import Settings
from qwen_vl.engine.local.engine import LocalEngine
from qwen_vl.engine.model import checkpoint, machine
from qwen_vl.engine.model.load import LoadedModel, choose_for, load
from qwen_vl.engine.model.machine import release_memory
from qwen_vl.engine.model.prompt import PromptBuilder
from qwen_vl.engine.model.quantize import is_rounded, quantize, round_layer
from qwen_vl.engine.model.samples import to_pack
from qwen_vl.errors import ModelUnavailable
from qwen_vl.families import FAMILIES
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Message

TRIM_BYTES = 200e6  # of weights that were drawn and rounded; then their memory is given back
PICTURE_PIXELS = {"shortest_edge": 256**2, "longest_edge": 4096**2}  # as in Qwen3-VL
SURE = 1e4  # a logit that no other one reaches


@dataclass(frozen=True)
class Subject:
    """The model under test; `load_s` is what it took to load (random weights: to draw)."""

    loaded: LoadedModel
    name: str
    precision: str
    load_s: float


def plain_settings(settings: Settings) -> Settings:
    """What plain `generate` runs in: float32 on a CPU, the engine's own type elsewhere."""
    if machine.choose(settings, tiny=True).device == "cpu":
        return replace(settings, dtype="float32", quantize="none")
    return replace(settings, quantize="none")


def named(settings: Settings) -> Subject:
    """The model that `settings` names. Raises ModelUnavailable."""
    found = checkpoint.find(settings, lambda *_: None)
    choice = choose_for(found, settings)
    start_s = time.perf_counter()
    loaded = load(found, choice, lambda *_: None)
    to_pack(loaded, choice, None, None).run()
    return Subject(loaded, found.model_id, _name(choice), time.perf_counter() - start_s)


def random_weights(shape: Shape, settings: Settings) -> Subject:
    """A shape with random weights and the bundled model's tokenizer.

    Raises ModelUnavailable for what this machine cannot do, and for 4bit: that is read from files.
    """
    choice = machine.choose(settings)
    if choice.quantize == "4bit":
        raise ModelUnavailable("--quantize 4bit needs a model from files: name one with --model.")
    device = torch.device("cuda" if choice.device == "auto" else choice.device)
    torch.set_num_threads(choice.threads)
    folder = checkpoint.BUNDLED_FOLDER
    if not checkpoint.complete(folder):
        raise ModelUnavailable(f"The tokenizer of the bundled model is missing from {folder}.")
    ids = AutoConfig.from_pretrained(folder)
    config = shape.config(
        image_token_id=ids.image_token_id,
        video_token_id=ids.video_token_id,
        vision_start_token_id=ids.vision_start_token_id,
        vision_end_token_id=ids.vision_end_token_id,
    )
    rounded = choice.quantize in ("int8", "int4")
    start_s = time.perf_counter()
    torch.manual_seed(0)
    if rounded:
        model = _rounded_while_drawn(shape.model_class, config, choice)
    else:
        with device:  # drawn where they are needed: a CPU takes a minute for two billion
            model = shape.model_class._from_config(config, dtype=choice.dtype)
    load_s = time.perf_counter() - start_s
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", size=PICTURE_PIXELS)
    family = FAMILIES[config.model_type]
    loaded = LoadedModel(
        family=family,
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        prompts=PromptBuilder(tokenizer, family, processor, config.image_token_id),
        image_token_id=config.image_token_id,
        end_ids=frozenset(),
        device=device,
    )
    to_pack(loaded, choice, None, None).run()
    return Subject(loaded, f"{shape.name} shape, random weights", _name(choice), load_s)


def _rounded_while_drawn(model_class: Any, config: Any, choice: machine.Choice) -> Any:
    """Rounds each layer as soon as it is drawn, as the app does while it reads a checkpoint."""
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=torch.bfloat16)
    drawn_bytes = 0
    for path in [path for path, _ in model.named_modules()]:  # a list of modules would keep them
        module = model.get_submodule(path)
        if module is model.get_output_embeddings():
            continue  # tied: it has no weights of its own
        module.to_empty(device="cpu", recurse=False)
        model._init_weights(module)
        if is_rounded(path, module):
            round_layer(model, path, choice.quantize, choice.wide, None)
            drawn_bytes += module.weight.nbytes
        if drawn_bytes > TRIM_BYTES:
            drawn_bytes = 0
            release_memory()
    model.tie_weights()
    quantize(model, choice.quantize, choice.wide)  # what is left
    release_memory()
    return model


def _name(choice: machine.Choice) -> str:
    return f"{choice.precision}, {choice.threads} threads"


class SubjectEngine(LocalEngine):
    """The local engine over the subject that `find` gives. No token ends its answers.

    The model is loaded on the inference thread, as in the app. OpenMP keeps a team of workers for
    every thread that ever computed in parallel. With two teams alive, workers sleep between
    products, and every decode step of a 2B model took a third longer.
    """

    def __init__(self, find: Callable[[Settings], Subject], settings: Settings) -> None:
        self._find = find
        self.subject: Subject | None = None  # once it is loaded, until it is closed
        self.forward_s = 0.0  # spent in the model's own forward so far
        self._dictated: Sequence[int] = ()
        self._dictated_from = 0
        super().__init__(settings)

    def _load(self) -> None:
        self.subject = self._find(self._settings)
        loaded = replace(self.subject.loaded, end_ids=frozenset())
        loaded.model.register_forward_pre_hook(self._forward_begins)
        loaded.model.register_forward_hook(self._forward_ends, with_kwargs=True)
        self._use(loaded)
        self._status = replace(self._status, state="ready", model_id=self.subject.name)

    def _forward_begins(self, *_: Any) -> None:
        self._began_s = time.perf_counter()

    def _forward_ends(self, _: Any, __: Any, inputs: dict[str, Any], output: Any) -> None:
        self.forward_s += time.perf_counter() - self._began_s
        if not self._dictated:
            return
        positions = inputs["position_ids"]  # [4, rows, tokens], the plain index first, or without 4
        index = positions[0] if positions.ndim == 3 else positions
        rows = index[:, -output.logits.shape[1] :].tolist()
        for logits, places in zip(output.logits, rows, strict=True):
            for scores, place in zip(logits, places, strict=True):
                at = place + 1 - self._dictated_from
                if 0 <= at < len(self._dictated):
                    scores[self._dictated[at]] = SURE

    def dictate(self, answer: Sequence[int], prompt_tokens: int = 0) -> None:
        """From now on these tokens follow every prompt of so many tokens; none: the model's own."""
        self._dictated, self._dictated_from = answer, prompt_tokens

    def draft(self, draft: str) -> None:
        """Sets `--draft` for the answers that come next."""
        self._settings = replace(self._settings, draft=draft)

    def close(self) -> None:
        """Ends the engine and lets go of the model."""
        super().close()
        self.subject = None


class _Clock(BaseStreamer):
    """Notes when `generate` hands over the prompt and then each token."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times_s.append(time.perf_counter())

    def end(self) -> None:
        pass


@torch.inference_mode()
def generate(
    subject: Subject, messages: Sequence[Message], new_tokens: int, max_image_tokens: int
) -> tuple[float, float]:
    """(seconds to the first token, seconds in all) of transformers' own `generate`, greedily.

    Exactly `new_tokens` of them, from messages to tokens, as an app on plain transformers would do
    it: nothing is reused.
    """
    loaded = subject.loaded
    start_s = time.perf_counter()
    prompt = loaded.prompts.build(messages, SamplingParams(max_image_tokens=max_image_tokens))
    ids = torch.tensor([prompt.token_ids], device=loaded.device)
    inputs: dict[str, torch.Tensor] = {}
    if prompt.pictures:
        reader = loaded.prompts.reader
        assert reader is not None
        patches = [reader.patches(reader.pixels(picture)) for picture in prompt.pictures]
        inputs["pixel_values"] = torch.cat(patches)
        inputs["image_grid_thw"] = torch.cat([p.grid_thw for p in prompt.pictures])
    if loaded.image_token_id is not None:
        inputs["mm_token_type_ids"] = ids.eq(loaded.image_token_id).int()
    clock = _Clock()
    loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(
            do_sample=False, max_new_tokens=new_tokens, min_new_tokens=new_tokens, pad_token_id=0
        ),
        streamer=clock,
        **{name: value.to(loaded.device) for name, value in inputs.items()},
    )
    return clock.times_s[1] - start_s, clock.times_s[-1] - start_s
