"""Conversations as the model sees them: token ids, what is trained, MRoPE positions, patches.

Knows the prompt format and the processor's resizing. Knows nothing of what is asked or drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import reading
from dialogues import Sample
from gist import GIST, gists
from network import MAX_PIXELS, MERGE, MIN_PIXELS, PATCH_PX
from PIL import Image
from sources import Spot, spots
from tokenizers import Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from turns import Turn

CELL_PX = PATCH_PX * MERGE


@dataclass(frozen=True)
class Encoded:
    """One conversation. `positions` is [3, T]; `trained[i]` says that token i is to be learnt.

    `sources[i]` is the place of the visual token that token i tells of, -1 for none, and `gists[i]`
    [len(GIST)] what it is asked about the picture that it ends or the shape at its place.
    `pixels[i]` is uint8 [H, W, 3] of a picture after resizing, `labels[i]` what lies under its
    visual tokens and `starts[i]` the place of its first visual token.
    """

    task: str
    ids: np.ndarray
    trained: np.ndarray
    positions: np.ndarray
    sources: np.ndarray
    gists: np.ndarray
    pixels: tuple[np.ndarray, ...]
    labels: tuple[reading.TokenLabels, ...]
    starts: tuple[int, ...]


def resize(image: Image.Image, least_px: int = MIN_PIXELS) -> np.ndarray:
    """uint8 [H, W, 3] with sides that are multiples of 32, as the image processor does it.

    `least_px` is the least area: whoever asks may want frames smaller than the processor does.
    """
    height, width = smart_resize(image.height, image.width, CELL_PX, least_px, MAX_PIXELS)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


class Encoder:
    """Turns samples into `Encoded`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.control = {
            name: tokenizer.token_to_id(f"<|{name}|>")
            for name in ("im_start", "im_end", "vision_start", "vision_end", "image_pad")
        }

    def _text(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def __call__(self, sample: Sample, least_px: int = MIN_PIXELS) -> Encoded:
        """The whole conversation, answers included; `least_px` as of `resize`."""
        control = self.control
        pixels = tuple(resize(image, least_px) for image in sample.images)
        ids: list[int] = []
        trained: list[bool] = []
        sources: list[int] = []
        rows: list[np.ndarray] = []  # parts of the positions, each [3, n]
        starts: list[int] = []
        next_position = 0

        def add(new: list[int], learn: bool = False, told: list[int] | None = None) -> None:
            nonlocal next_position
            ids.extend(new)
            trained.extend([learn] * len(new))
            sources.extend(told or [-1] * len(new))
            steps = np.arange(next_position, next_position + len(new))
            rows.append(np.tile(steps, (3, 1)))
            next_position += len(new)

        def add_image(index: int) -> None:
            nonlocal next_position
            height, width = (side // CELL_PX for side in pixels[index].shape[:2])
            starts.append(len(ids))
            ids.extend([control["image_pad"]] * (height * width))
            trained.extend([False] * (height * width))
            sources.extend([-1] * (height * width))
            grid = np.mgrid[:1, :height, :width].reshape(3, -1)
            rows.append(grid + next_position)
            next_position += max(height, width)

        def tell(turn: Turn) -> None:
            """The answer of a turn and its end, with the visual token that each token tells of."""
            encoding = self.tokenizer.encode(turn.answer, add_special_tokens=False)
            where = spots(sample, turn)
            told = []
            for first, last in encoding.offsets:
                spot = next((spot for spot in where[first:last] if spot), None)
                told.append(-1 if spot is None else token_at(spot))
            add([*encoding.ids, control["im_end"]], learn=True, told=[*told, -1])

        def token_at(spot: Spot) -> int:
            cells = tuple(side // CELL_PX for side in pixels[spot.image].shape[:2])
            cell = reading.cell_of(spot.x, spot.y, sample.images[spot.image].size, cells)
            return starts[spot.image] + cell[0] * cells[1] + cell[1] if cell else -1

        turns = iter(sample.turns)
        for message in sample.messages:
            add([control["im_start"]])
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            pending = message["role"] + "\n"
            if message["role"] == "assistant":
                add(self._text(pending))
                tell(next(turns))
                add(self._text("\n"))
                continue
            for part in parts:
                if part["type"] == "text":
                    pending += part["text"]
                    continue
                add([*self._text(pending), control["vision_start"]])
                add_image(len(starts))
                add([control["vision_end"]])
                pending = ""
            add([*self._text(pending), control["im_end"], *self._text("\n")])
        asked = np.zeros((len(ids), len(GIST)), dtype=np.int64)
        said = gists(sample.shown, [image.size for image in sample.images])
        for i, (start, gist) in enumerate(zip(starts, said, strict=True)):
            height, width = (side // CELL_PX for side in pixels[i].shape[:2])
            asked[start + height * width] = gist.whole
            for mark, labels in gist.parts:
                asked[token_at(Spot(i, mark.x, mark.y_centre))] = labels
        labels = tuple(
            reading.token_labels(
                list(shown), image.size, (array.shape[0] // CELL_PX, array.shape[1] // CELL_PX)
            )
            for image, shown, array in zip(sample.images, sample.shown, pixels, strict=True)
        )
        return Encoded(
            sample.task,
            np.array(ids),
            np.array(trained),
            np.concatenate(rows, axis=1),
            np.array(sources),
            asked,
            pixels,
            labels,
            tuple(starts),
        )
