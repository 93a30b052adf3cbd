"""A picture's size -> the visual tokens it costs; its pixels -> the patches that the model reads.

Does in three steps what the checkpoint's image processor does in one, to the last bit: counting
needs the size alone, decoding and scaling leave 3 bytes a pixel, and the patches, 8 times as large,
are made for one picture at a time, right before the vision encoder takes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from qwen_vl.errors import BadRequest
from qwen_vl.media.pictures import content_hash
from qwen_vl.schema import ImagePart, Undecoded, frames_of


@dataclass(frozen=True)
class Picture:
    """One picture of a prompt: counted, and not decoded. `grid` is (rows, columns) of patches."""

    source: Image.Image | Undecoded
    grid: tuple[int, int]
    tokens: int  # of one picture, or of a pair of frames
    pixel_bytes: int  # of what `PictureReader.pixels` gives

    @property
    def grid_thw(self) -> torch.Tensor:
        """[1, 3] int64: one moment in time, rows, columns."""
        return torch.tensor([[1, *self.grid]])

    @cached_property
    def key(self) -> str:
        """Equal for equal pixels of equal size before scaling."""
        source = self.source
        return content_hash(source) if isinstance(source, Image.Image) else source.key

    @property
    def content_key(self) -> str:
        """Equal for what the model sees alike: equal-size pictures have equal token ids."""
        return f"{self.key}:{self.grid}"


class PictureReader:
    """The arithmetic of one checkpoint's image processor, of the Qwen2-VL kind."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._patch_px = int(processor.patch_size)
        self._merge = int(processor.merge_size)
        self._times = int(processor.temporal_patch_size)
        self._tables = _tables(processor)

    @property
    def most_tokens(self) -> int:
        """Visual tokens of one picture that the checkpoint reads, at most."""
        return int(self._processor.size["longest_edge"]) // (self._patch_px * self._merge) ** 2

    def count(self, part: ImagePart, max_image_tokens: int) -> Picture:
        """Looks at the size alone. Raises BadRequest for over 200 times as long as wide.

        Unlike the processor, which may give a few more to a small picture, it keeps to the most,
        unless the picture is so long that its other side has one token left.
        """
        side_px = self._patch_px * self._merge  # of one visual token
        limits = self._processor.size
        largest = min(max_image_tokens * side_px**2, int(limits["longest_edge"]))
        least = min(int(limits["shortest_edge"]), largest)
        width, height = part.size
        try:
            height_px, width_px = smart_resize(height, width, side_px, least, largest)
            if height_px * width_px > largest:  # enlarged to the least, and rounded up
                more = math.isqrt(largest // (height * width)) + 1
                height_px, width_px = smart_resize(
                    *(more * height, more * width, side_px, least, largest)
                )
        except ValueError as error:
            raise BadRequest(f"This picture cannot be read by the model: {error}") from error
        return Picture(
            part.source,
            (height_px // self._patch_px, width_px // self._patch_px),
            height_px * width_px // side_px**2,
            height_px * width_px * 3 * len(frames_of(part)),
        )

    def pixels(self, picture: Picture) -> np.ndarray:
        """Decodes and scales -> uint8 [height, width, 3], or 6 for the colours of a pair of frames.

        Raises what `Undecoded.decode` raises.
        """
        rows, columns = picture.grid
        size_px = (columns * self._patch_px, rows * self._patch_px)
        scaled = [
            np.asarray(frame.image.convert("RGB").resize(size_px, self._processor.resample))
            for frame in frames_of(ImagePart(picture.source))
        ]
        return scaled[0] if len(scaled) == 1 else np.concatenate(scaled, axis=2)

    def patches(self, pixels: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[patches, patch values] of `pixels`: the processor's `pixel_values`.

        A patch spans two moments: those of a pair of frames, or twice the same picture.
        """
        height, width, channels = pixels.shape
        colours, moments = len(self._tables), channels // len(self._tables)
        patch, merge = self._patch_px, self._merge
        band = patch * merge  # rows of pixels under one row of visual tokens
        columns = width // band
        # The four patches of a visual token lie together; within a patch, colour by colour.
        shape = (columns, merge, merge, colours, self._times, patch, patch)
        out = torch.empty((height // band, *shape), dtype=dtype)
        values = np.empty((channels, band, width), dtype=np.float32)
        row = np.empty(shape, dtype=np.float32)
        for number, top in enumerate(range(0, height, band)):
            for channel in range(channels):
                byte = pixels[top : top + band, :, channel]
                table = self._tables[channel % colours]
                np.take(table, byte, out=values[channel], mode="clip")  # "raise" would copy
            parts = values.reshape(moments, colours, merge, patch, columns, merge, patch)
            row[:] = parts.transpose(4, 2, 5, 1, 0, 3, 6)
            out[number] = torch.from_numpy(row)
        return out.reshape(-1, colours * self._times * patch**2)


def _tables(processor: Any) -> np.ndarray:
    """[colours, 256] float32: what the processor makes of every byte, by its own arithmetic."""
    all_bytes = np.tile(np.arange(256, dtype=np.uint8), (3, 1, 1))  # [colours, 1, 256]
    values = processor.rescale(all_bytes, processor.rescale_factor)
    values = processor.normalize(values, processor.image_mean, processor.image_std)
    return np.ascontiguousarray(values[:, 0], dtype=np.float32)
