"""How different hands paint the same shapes: edges, fills, shadows, grounds, and what cameras do.

Knows pixels. Knows nothing of what the shapes or the print mean.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

RGB = tuple[int, int, int]
ILLEGIBLE_PX = 4.5  # an em size at which nobody reads
GROUND_KINDS = ("plain", "plain", "plain", "gradient", "noise", "clouds", "grid")


@dataclass(frozen=True)
class Look:
    """One hand's way of painting; the same for all frames of a clip.

    `fine` is how many times finer than the picture it is painted: 1 has jagged edges. `edge` is an
    outline's width and `shadow` a shadow's offset, as shares of the picture's shorter side; 0 is
    none. `shade` is how much lighter a fill becomes from top to bottom, in levels of 255; `alpha`
    is the fill's opacity. `seed` is that of the ground's texture.
    """

    fine: int
    edge: float
    edge_rgb: RGB
    shade: int
    alpha: float
    shadow: float
    ground: str
    seed: int


def make_look(rng: random.Random) -> Look:
    """Any of them."""
    dark = rng.random() < 0.7
    grey = rng.randint(0, 70) if dark else rng.randint(200, 255)
    return Look(
        rng.choice((1, 2, 3)),
        rng.uniform(0.006, 0.02) if rng.random() < 0.3 else 0.0,
        (grey, grey, grey),
        rng.randint(-60, 60) if rng.random() < 0.25 else 0,
        rng.uniform(0.75, 1.0) if rng.random() < 0.2 else 1.0,
        rng.uniform(0.008, 0.02) if rng.random() < 0.15 else 0.0,
        rng.choice(GROUND_KINDS),
        rng.getrandbits(32),
    )


def ground_pixels(kind: str, rgb: RGB, width: int, height: int, seed: int) -> Image.Image:
    """A ground around the colour `rgb`."""
    noise = np.random.default_rng(seed)
    flat = np.full((height, width, 3), rgb, dtype=np.float32)
    if kind == "gradient":
        angle = noise.uniform(0, 2 * math.pi)
        ramp = np.linspace(-1, 1, width)[None] * math.cos(angle)
        ramp = ramp + np.linspace(-1, 1, height)[:, None] * math.sin(angle)
        flat += ramp[..., None] * noise.uniform(-22, 22, 3)
    elif kind == "noise":
        flat += noise.normal(0, noise.uniform(2, 12), (height, width, 1))
    elif kind == "clouds":
        coarse = noise.normal(0, 1, (int(noise.integers(3, 12)), int(noise.integers(3, 12))))
        clouds = Image.fromarray(coarse.astype(np.float32))
        clouds = clouds.resize((width, height), Image.Resampling.BICUBIC)
        flat += np.asarray(clouds)[..., None] * noise.uniform(4, 14)
        flat += noise.normal(0, 3, (height, width, 1))
    elif kind == "grid":
        step, shade = int(noise.integers(12, 40)), -18 if sum(rgb) > 380 else 18
        flat[::step] += shade
        flat[:, ::step] += shade
    return Image.fromarray(np.clip(flat, 0, 255).astype(np.uint8))


def paint(
    look: Look,
    ground: RGB,
    parts: list[tuple[str, list[tuple[float, float]], RGB]],
    width: int,
    height: int,
) -> Image.Image:
    """Shapes on their ground; each part is how ("ellipse", "polygon"), its points, its colour."""
    fine = look.fine
    image = ground_pixels(look.ground, ground, width, height, look.seed)
    image = image.resize((width * fine, height * fine), Image.Resampling.NEAREST)
    short = min(width, height)
    for how, points, rgb in parts:
        scaled = [(x * fine, y * fine) for x, y in points]
        mask = Image.new("L", image.size)
        getattr(ImageDraw.Draw(mask), how)(scaled, fill=round(255 * look.alpha))
        if look.shadow:
            off = round(look.shadow * short * fine)
            soft = Image.new("L", image.size)
            soft.paste(mask.point(lambda level: level * 2 // 5), (off, off))
            soft = soft.filter(ImageFilter.BoxBlur(max(1, off // 2)))
            image.paste((20, 20, 25), mask=soft)
        fill: Image.Image | RGB = rgb
        if look.shade:
            steps = np.linspace(0, 1, image.height)[:, None, None] * look.shade
            shaded = np.clip(np.array(rgb) + steps, 0, 255).astype(np.uint8)
            fill = Image.fromarray(np.repeat(shaded, image.width, 1))
        image.paste(fill, (0, 0, *image.size) if isinstance(fill, tuple) else (0, 0), mask)
        if look.edge:
            line = max(1, round(look.edge * short * fine))
            draw = ImageDraw.Draw(image)
            if how == "ellipse":
                draw.ellipse(scaled, outline=look.edge_rgb, width=line)
            else:
                draw.polygon(scaled, outline=look.edge_rgb, width=line)
    return image.resize((width, height), Image.Resampling.BOX) if fine > 1 else image


def illegible(image: Image.Image, print_px: int, rng: random.Random) -> Image.Image:
    """So coarse that print of up to `print_px` pixels cannot be read; the picture's size stays."""
    shrink = rng.uniform(2.5, ILLEGIBLE_PX) / print_px
    coarse = (max(4, round(image.width * shrink)), max(4, round(image.height * shrink)))
    small = image.resize(coarse, Image.Resampling.BOX)
    return small.resize(
        image.size, rng.choice((Image.Resampling.BICUBIC, Image.Resampling.NEAREST))
    )


def make_damage(rng: random.Random) -> Callable[[Image.Image], Image.Image]:
    """What cameras, screenshots and senders do to pictures; often nothing. Sizes stay."""
    kinds = [kind for kind in ("scale", "blur", "light", "noise") if rng.random() < 0.18]
    if rng.random() < 0.4:
        kinds.append("jpeg")
    quality, shrink = rng.randint(40, 95), rng.uniform(0.72, 1.4)
    blur, light, contrast = rng.uniform(0.3, 0.8), rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.2)
    sigma, seed = rng.uniform(2, 9), rng.getrandbits(32)

    def damage(image: Image.Image) -> Image.Image:
        size = image.size
        if "scale" in kinds:
            other = (round(size[0] * shrink), round(size[1] * shrink))
            image = image.resize(other, Image.Resampling.BILINEAR)
            image = image.resize(size, Image.Resampling.BICUBIC)
        if "blur" in kinds:
            image = image.filter(ImageFilter.GaussianBlur(blur))
        if "light" in kinds:
            image = ImageEnhance.Brightness(image).enhance(light)
            image = ImageEnhance.Contrast(image).enhance(contrast)
        if "noise" in kinds:
            grain = np.random.default_rng(seed).normal(0, sigma, (size[1], size[0], 1))
            pixels = np.clip(np.asarray(image) + grain, 0, 255)
            image = Image.fromarray(pixels.astype(np.uint8))
        if "jpeg" in kinds:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality)
            image = Image.open(file).convert("RGB")
        return image

    return damage
