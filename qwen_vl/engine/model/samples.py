"""Has a model read words, code and a picture, to judge what its layers are given.

Few of them, for they are read at a start. Knows prompts; knows nothing of layers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw

from qwen_vl.config import MOST_IMAGE_TOKENS
from qwen_vl.engine.model.both_sides import Product, judge
from qwen_vl.engine.model.checkpoint import Checkpoint, Report
from qwen_vl.engine.model.input_forms import INPUT_FORMS
from qwen_vl.engine.model.int4 import Importance, mean_squares
from qwen_vl.engine.model.load import LoadedModel, load
from qwen_vl.engine.model.machine import Choice
from qwen_vl.engine.model.packing import Packing
from qwen_vl.engine.model.quantize import Int8Linear
from qwen_vl.engine.model.rounded import entry_name
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import ImagePart, Message, TextPart
from qwen_vl.start_cache import StartCache

FORMAT = "2"  # of what is judged; a new one where it changes
_SIDE_PX = 320  # about a hundred visual tokens
_WORDS = """The ferry leaves at 7:45 and costs 12.50 per person; children under six travel free.
Twice a day it passes the old lighthouse, which was built in 1873 and still works.
请描述这张图片,并用一句话说明价格。这是一个关于轮船和灯塔的故事。
{"invoice": "A-1042", "total": 318.40, "items": [{"name": "rope", "count": 3}]}
def area(width: float, height: float) -> float:
    return width * height  # in square metres
| day | guests |
|---|---|
| Monday | 48 |
"""


def to_pack(
    loaded: LoadedModel, choice: Choice, checkpoint: Checkpoint | None, cache: StartCache | None
) -> Packing:
    """The int8 layers that round what goes into them, too, where this machine gains by it.

    What an earlier start has found out about this checkpoint's inputs is taken from `cache`.
    """
    if choice.input_bits is None:
        return Packing(loaded.model, {}, Product)
    form = INPUT_FORMS[choice.input_bits]

    def found() -> dict[str, list[int]]:
        judged = judge(loaded.model, lambda: read_samples(loaded), form.outliers)
        return {paths: columns.tolist() for paths, columns in judged.items()}

    if cache is None or checkpoint is None:
        columns = found()
    else:
        name = entry_name(checkpoint, choice.quantize)
        columns = cache.recalled(f"inputs {FORMAT}, {choice.input_bits} bits, of {name}", found)
    judgement = {paths: torch.tensor(apart, dtype=torch.int64) for paths, apart in columns.items()}
    return Packing(loaded.model, judgement, form.product)


def importance(checkpoint: Checkpoint, choice: Choice, report: Report) -> Importance:
    """What the inputs of each layer are like, seen in int8: near enough, and it fits into memory.

    Raises ModelUnavailable.
    """
    loaded = load(checkpoint, replace(choice, quantize="int8"), report)
    layers = {
        path: layer for path, layer in loaded.model.named_modules() if isinstance(layer, Int8Linear)
    }
    report("Judging what the layers are given", None)
    return mean_squares(layers, lambda: read_samples(loaded))


def read_samples(loaded: LoadedModel) -> None:
    """Passes a few hundred tokens through the model, in two passes."""
    read(loaded, TextPart(_WORDS))
    if loaded.accepts_images:
        read(loaded, ImagePart(_picture()), TextPart("Describe the image."))


@torch.inference_mode()
def read(loaded: LoadedModel, *parts: TextPart | ImagePart) -> int:
    """Passes a question through the model, in full detail -> its visual tokens."""
    params = SamplingParams(max_image_tokens=MOST_IMAGE_TOKENS)
    prompt = loaded.prompts.build([Message("user", parts)], params)
    ids = torch.tensor([prompt.token_ids])
    inputs: dict[str, torch.Tensor] = {}
    if prompt.pictures:
        assert loaded.prompts.reader is not None
        reader = loaded.prompts.reader
        patches = [reader.patches(reader.pixels(picture)) for picture in prompt.pictures]
        inputs["pixel_values"] = torch.cat(patches)
        inputs["image_grid_thw"] = torch.cat([one.grid_thw for one in prompt.pictures])
    with loaded.multiplying(ids.numel()):
        loaded.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=loaded.positions(prompt),
            use_cache=False,
            logits_to_keep=1,
            **inputs,
        )
    return sum(token == loaded.image_token_id for token in prompt.token_ids)


def _picture() -> Image.Image:
    """Shades, noise, shapes and print."""
    shades = np.linspace(0, 255, _SIDE_PX)
    noise = np.random.default_rng(0).normal(0, 30, (_SIDE_PX, _SIDE_PX, 3))
    plain = np.clip(shades[None, :, None] + noise, 0, 255).astype(np.uint8)
    image = Image.fromarray(plain)
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 20, 150, 120), "white", "black", 3)
    draw.ellipse((180, 150, 300, 290), "orange")
    draw.text((30, 40), "TOTAL 318.40\nThank you", "black", font_size=18)
    return image
