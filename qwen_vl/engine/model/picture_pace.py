"""How long a picture takes to be read on this machine, measured at the first start.

The layers take as long as there are tokens; the attention of the vision encoder, and that of the
text, takes their square. Two pictures tell both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from qwen_vl.config import MIN_IMAGE_TOKENS, USUAL_IMAGE_TOKENS, Settings
from qwen_vl.engine.model.checkpoint import Checkpoint
from qwen_vl.engine.model.cpu import cpu_name
from qwen_vl.engine.model.load import LoadedModel
from qwen_vl.engine.model.machine import Choice
from qwen_vl.engine.model.rounded import entry_name
from qwen_vl.engine.model.samples import read
from qwen_vl.schema import ImagePart, TextPart
from qwen_vl.start_cache import StartCache

FIRST_WORD_S = 10.0  # for as long people wait
FORMAT = "1"  # of what is measured; a new one where it changes
_SIDES_PX = (256, 512)  # 64 and 256 visual tokens of Qwen3-VL
_QUICK_BYTES = 100e6  # of weights: a model this small reads any picture at once


@dataclass(frozen=True)
class PicturePace:
    """A picture of n visual tokens and a short question take n * token_s + n^2 * square_s."""

    token_s: float
    square_s: float

    def seconds(self, tokens: int) -> float:
        """Until the first word."""
        return tokens * self.token_s + tokens**2 * self.square_s

    def tokens_within(self, seconds: float, most: int) -> int:
        """The most visual tokens that are read in this time, 1 to `most`."""
        fitting = (n for n in range(most, 1, -1) if self.seconds(n) <= seconds)
        return next(fitting, 1)


def pace_of(times_s: dict[int, float]) -> PicturePace:
    """From the seconds that two pictures took, by their visual tokens. None is negative."""
    (few, few_s), (many, many_s) = sorted(times_s.items())
    square_s = max(0.0, (many_s / many - few_s / few) / (many - few))
    return PicturePace(max(0.0, many_s / many - square_s * many), square_s)


def recalled(
    loaded: LoadedModel,
    choice: Choice,
    checkpoint: Checkpoint,
    cache: StartCache | None,
    settle: Callable[[], None],
) -> PicturePace | None:
    """As an earlier start has measured it, or measured now, after `settle`.

    None where no picture takes long: on a GPU, with a small model, and where a model takes none.
    """
    is_quick = loaded.device.type != "cpu" or loaded.weight_bytes < _QUICK_BYTES
    if is_quick or not loaded.accepts_images:
        return None

    def measured() -> dict[str, float]:
        settle()
        return asdict(measure(loaded))

    if cache is None:
        return PicturePace(**measured())
    key = (
        f"pictures {FORMAT} of {entry_name(checkpoint, choice.precision)}, {cpu_name()}, "
        f"{choice.threads} threads, {choice.input_bits} bits"
    )
    return PicturePace(**cache.recalled(key, measured))


def measure(loaded: LoadedModel) -> PicturePace:
    """Reads three small pictures; takes seconds with a model of some billion weights."""
    times_s: dict[int, float] = {}
    for side_px in (_SIDES_PX[0], *_SIDES_PX):  # the first one pays for what is done but once
        noise = np.random.default_rng(side_px).integers(0, 255, (side_px, side_px, 3), np.uint8)
        start_s = time.perf_counter()
        tokens = read(loaded, ImagePart(Image.fromarray(noise)), TextPart("What is this?"))
        times_s[tokens] = time.perf_counter() - start_s
    return pace_of(times_s)


@dataclass(frozen=True)
class Detail:
    """How many visual tokens a picture gets where nobody says; `said` is for the user."""

    tokens: int
    said: str = ""


def choose(
    settings: Settings,
    loaded: LoadedModel,
    choice: Choice,
    checkpoint: Checkpoint,
    cache: StartCache | None,
    settle: Callable[[], None] = lambda: None,
) -> Detail:
    """What `--image-tokens` says; for "auto" as many as are read in FIRST_WORD_S here.

    `settle` returns when the layers are as they stay: what is measured is kept for later starts.
    """
    pace = None
    if settings.image_tokens == "auto":
        pace = recalled(loaded, choice, checkpoint, cache, settle)
    if pace is None:
        return Detail(settings.image_tokens_or(USUAL_IMAGE_TOKENS))
    most = pace.tokens_within(FIRST_WORD_S, USUAL_IMAGE_TOKENS)
    tokens = max(MIN_IMAGE_TOKENS, settings.image_tokens_or(most))
    first_word = f"{pace.seconds(tokens):.0f} s to the first word"
    return Detail(tokens, f", {tokens} visual tokens per picture ({first_word})")
