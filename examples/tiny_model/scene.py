"""Scenes of coloured shapes: what is where, and its pixels.

Knows shapes, colours and a 3 x 3 grid of places. Knows nothing of questions or of tokens.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from looks import Look, make_look, paint
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
# The same colours as web pages, plotting libraries and painters have them.
HUES = {
    "red": ((255, 0, 0), (220, 30, 35), (200, 0, 0), (231, 76, 60), (214, 39, 40), (239, 68, 68)),
    "orange": ((255, 165, 0), (255, 127, 14), (245, 140, 20), (255, 140, 0), (230, 126, 34)),
    "yellow": ((255, 255, 0), (250, 220, 40), (241, 196, 15), (255, 235, 59), (255, 215, 0)),
    "green": (
        (0, 128, 0), (0, 255, 0), (44, 160, 44), (46, 204, 113), (76, 175, 80), (0, 100, 0),
        (30, 150, 60), (34, 139, 34), (50, 205, 50),
    ),
    "blue": (
        (0, 0, 255), (31, 119, 180), (52, 152, 219), (33, 150, 243), (35, 80, 220), (30, 64, 175),
        (65, 105, 225), (30, 144, 255),
    ),
    "purple": ((128, 0, 128), (148, 103, 189), (155, 89, 182), (156, 39, 176), (135, 45, 165)),
    "black": ((0, 0, 0), (15, 15, 15), (40, 40, 40)),
    "white": ((255, 255, 255), (245, 245, 245)),
}  # fmt: skip
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
    turn: float = 0.0  # degrees, clockwise
    stretch: float = 1.0  # height of a triangle or width of a diamond, as a factor
    inner: float = 0.42  # inner radius of a star, as a share of the outer


@dataclass(frozen=True)
class Scene:
    """Shapes in reading order on a plain ground."""

    shapes: tuple[Shape, ...]
    ground: tuple[int, int, int]
    banned: frozenset[str]  # colours that would be lost on this ground
    look: Look | None = None  # how another hand than the first draws it


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
    if scene.look:
        return place_shape(rng, scene, kind, colour, cell)
    size = rng.uniform(0.5, 0.86)
    shift = (rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06))
    return Shape(kind, colour, cell, size, shift, tinted(rng, colour))


def place_shape(
    rng: random.Random, scene: Scene, kind: str, colour: str, cell: tuple[int, int]
) -> Shape:
    """A shape of any size in its cell: inside the picture, hardly over the others."""
    far = 100.0
    rgb = rng.choice(HUES[colour])
    while sum((a - b) ** 2 for a, b in zip(rgb, scene.ground, strict=True)) ** 0.5 < far:
        rgb, far = rng.choice(HUES[colour]), far - 5
    rgb = tuple(min(255, max(0, part + rng.randint(-8, 8))) for part in rgb)
    size = 0.26 * (1.75 / 0.26) ** (rng.random() ** 0.8)
    if cell != (1, 1):
        size = min(size, 1.55)
    while True:
        reach = size * 0.52 - 0.5  # of the shape into the next cell, as a share of a cell
        shift = tuple(
            min(max(rng.uniform(-0.32, 0.32), reach if at == 0 else -1), -reach if at == 2 else 1)
            for at in (cell[1], cell[0])
        )
        gaps = (
            max(abs(cell[1] + shift[0] - other.cell[1] - other.shift[0]),
                abs(cell[0] + shift[1] - other.cell[0] - other.shift[1]))
            - (size + other.size) * 0.46
            for other in scene.shapes
        )  # fmt: skip
        if size < 0.3 or all(gap > 0 for gap in gaps):
            break
        size *= 0.93
    most = {"square": 14.0, "diamond": 10.0, "triangle": 25.0, "star": 36.0}.get(kind, 0.0)
    turn = rng.uniform(-most, most) if rng.random() < 0.35 else 0.0
    if kind == "triangle" and rng.random() < 0.15:
        turn += 180.0
    stretch = {"triangle": rng.uniform(0.85, 1.0), "diamond": rng.uniform(0.75, 1.25)}
    inner = rng.uniform(0.36, 0.52)
    return Shape(kind, colour, cell, size, shift, rgb, turn, stretch.get(kind, 1.0), inner)


def with_shapes(scene: Scene, shapes: list[Shape]) -> Scene:
    """The scene with these shapes, in reading order."""
    return replace(scene, shapes=tuple(sorted(shapes, key=lambda shape: shape.cell)))


def make_scene(rng: random.Random, count: int, wide: bool = False) -> Scene:
    """A scene of `count` shapes that all look different; `wide` for another hand than the first."""
    ground, banned = rng.choice(GROUNDS)
    look = None
    if wide:
        look = make_look(rng)
        if rng.random() < 0.6:
            ground, banned = tuple(rng.randint(212, 255) for _ in range(3)), {"white"}
            if rng.random() < 0.25:
                ground, banned = tuple(rng.randint(0, 45) for _ in range(3)), {"black", "blue"}
    scene = Scene((), ground, frozenset(banned), look)
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
        points = [(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)]
    elif shape.kind == "triangle":
        low, high = r * 0.85 * shape.stretch, r * shape.stretch
        points = [(x, y - high), (x + r, y + low), (x - r, y + low)]
    elif shape.kind == "diamond":
        half = r * 0.8 * shape.stretch
        points = [(x, y - r), (x + half, y), (x, y + r), (x - half, y)]
    else:
        points = []
        for i in range(10):
            reach = r if i % 2 == 0 else r * shape.inner
            angle = math.pi * (i / 5 - 0.5)
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    if shape.turn:
        cos, sin = math.cos(math.radians(shape.turn)), math.sin(math.radians(shape.turn))
        points = [
            (x + (px - x) * cos - (py - y) * sin, y + (px - x) * sin + (py - y) * cos)
            for px, py in points
        ]
    return "polygon", points


def draw_scene(scene: Scene, width: int, height: int) -> Image.Image:
    """The scene as an RGB picture."""
    if scene.look:
        parts = [(*outline(shape, width, height), shape.rgb) for shape in scene.shapes]
        return paint(scene.look, scene.ground, parts, width, height)
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
