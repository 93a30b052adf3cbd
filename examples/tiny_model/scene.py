"""Scenes of coloured shapes: what is where, and its pixels.

Knows shapes, colours and a 3 x 3 grid of places. Knows nothing of questions or of tokens.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "diamond")
COLOURS = {
    "red": (220, 30, 35),
    "orange": (245, 140, 20),
    "yellow": (250, 220, 40),
    "green": (30, 150, 60),
    "blue": (35, 80, 220),
    "purple": (135, 45, 165),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}
# A ground and the colours that would be lost on it.
GROUNDS = (
    ((255, 255, 255), {"white"}),
    ((255, 255, 255), {"white"}),
    ((240, 238, 230), {"white"}),
    ((205, 208, 212), {"white"}),
    ((190, 215, 240), {"white"}),
    ((205, 232, 205), {"white"}),
    ((130, 130, 135), set()),
    ((28, 30, 36), {"black"}),
    ((0, 0, 0), {"black"}),
    ((22, 32, 70), {"black", "blue", "purple"}),
)
CELLS = tuple((row, col) for row in range(3) for col in range(3))


@dataclass(frozen=True)
class Shape:
    """One shape. `cell` is (row, column) of the 3 x 3 grid; the rest says how it is drawn.

    `size` is its extent as a share of the cell's shorter side, `shift` the offset of its middle
    from the cell's middle as a share of the cell's sides, and `rgb` its exact colour.
    """

    kind: str
    colour: str
    cell: tuple[int, int]
    size: float
    shift: tuple[float, float]
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """Shapes in reading order on a plain ground."""

    shapes: tuple[Shape, ...]
    ground: tuple[int, int, int]
    banned: frozenset[str]  # colours that would be lost on this ground


def tinted(rng: random.Random, colour: str) -> tuple[int, int, int]:
    """The colour with a little variation."""
    return tuple(min(255, max(0, part + rng.randint(-12, 12))) for part in COLOURS[colour])


def new_shape(rng: random.Random, scene: Scene, cell: tuple[int, int] | None = None) -> Shape:
    """A shape that fits: free cell, a look (kind and colour) that the scene does not have yet."""
    taken = {shape.cell for shape in scene.shapes}
    looks = {(shape.kind, shape.colour) for shape in scene.shapes}
    cell = cell or rng.choice([free for free in CELLS if free not in taken])
    colours = [colour for colour in COLOURS if colour not in scene.banned]
    while True:
        kind, colour = rng.choice(SHAPES), rng.choice(colours)
        if (kind, colour) not in looks:
            break
    size = rng.uniform(0.5, 0.86)
    shift = (rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06))
    return Shape(kind, colour, cell, size, shift, tinted(rng, colour))


def with_shapes(scene: Scene, shapes: list[Shape]) -> Scene:
    """The scene with these shapes, in reading order."""
    return replace(scene, shapes=tuple(sorted(shapes, key=lambda shape: shape.cell)))


def make_scene(rng: random.Random, count: int) -> Scene:
    """A scene of `count` shapes that all look different."""
    ground, banned = rng.choice(GROUNDS)
    scene = Scene((), ground, frozenset(banned))
    for _ in range(count):
        scene = with_shapes(scene, [*scene.shapes, new_shape(rng, scene)])
    return scene


def outline(shape: Shape, width: int, height: int) -> tuple[str, list[tuple[float, float]]]:
    """How to draw it: "ellipse" with two corners, or "polygon" with its points, in pixels."""
    row, col = shape.cell
    cell_w, cell_h = width / 3, height / 3
    x = (col + 0.5 + shape.shift[0]) * cell_w
    y = (row + 0.5 + shape.shift[1]) * cell_h
    r = shape.size * min(cell_w, cell_h) / 2
    if shape.kind == "circle":
        return "ellipse", [(x - r, y - r), (x + r, y + r)]
    if shape.kind == "square":
        s = r * 0.92
        return "polygon", [(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)]
    if shape.kind == "triangle":
        return "polygon", [(x, y - r), (x + r, y + r * 0.85), (x - r, y + r * 0.85)]
    if shape.kind == "diamond":
        return "polygon", [(x, y - r), (x + r * 0.8, y), (x, y + r), (x - r * 0.8, y)]
    points = []
    for i in range(10):
        reach = r if i % 2 == 0 else r * 0.42
        angle = math.pi * (i / 5 - 0.5)
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return "polygon", points


def draw_scene(scene: Scene, width: int, height: int) -> Image.Image:
    """The scene as an RGB picture."""
    image = Image.new("RGB", (width, height), scene.ground)
    draw = ImageDraw.Draw(image)
    for shape in scene.shapes:
        how, points = outline(shape, width, height)
        getattr(draw, how)(points, fill=shape.rgb)
    return image


def box_1000(shape: Shape, width: int, height: int) -> list[int]:
    """[x1, y1, x2, y2] of its pixels, 0 to 1000 of the picture's sides."""
    _, points = outline(shape, width, height)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    box = (min(xs) / width, min(ys) / height, max(xs) / width, max(ys) / height)
    return [min(1000, max(0, round(part * 1000))) for part in box]
