"""Ten pictures of shapes by arithmetic on arrays: no drawing library, hard edges, a vignette."""

# ruff: noqa: E501
import numpy as np
from asked import PICTURES, record
from PIL import Image

Y, X = np.mgrid[0:240, 0:320]
PAINT = {"red": (200, 30, 40), "blue": (40, 80, 210), "green": (30, 150, 60),
         "yellow": (245, 215, 40), "purple": (120, 40, 150), "orange": (240, 130, 20)}  # fmt: skip
PLACES = {"top left": (55, 45), "top": (160, 45), "right": (260, 120), "left": (55, 120),
          "bottom": (160, 195), "bottom right": (262, 195), "center": (160, 120)}  # fmt: skip


def shape(kind: str, where: str, radius: int) -> np.ndarray:
    """The pixels that belong to it."""
    cx, cy = PLACES[where]
    dx, dy = abs(X - cx), abs(Y - cy)
    if kind == "circle":
        return dx**2 + dy**2 <= radius**2
    if kind == "square":
        return np.maximum(dx, dy) <= radius
    if kind == "diamond":
        return dx + dy <= radius
    return (dx * 2 <= Y - cy + radius) & (Y - cy <= radius)  # a triangle


def picture(ground: int, *parts: tuple[str, str, str, int]) -> np.ndarray:
    light = ground - ((X - 160) ** 2 + (Y - 120) ** 2)[..., None] / 2500
    pixels = np.repeat(light, 3, -1)
    for colour, kind, where, radius in parts:
        pixels[shape(kind, where, radius)] = PAINT[colour]
    return np.clip(pixels, 0, 255).astype(np.uint8)


MADE = [
    (picture(250, ("red", "circle", "left", 30)), "naming", "What colour is the circle?", "The circle is red."),
    (picture(235, ("blue", "square", "right", 32)), "naming", "What is at the right?", "A blue square is at the right."),
    (picture(255, ("green", "triangle", "top", 34), ("red", "circle", "bottom", 30)), "counting", "How many shapes are there?", "There are 2 shapes."),
    (picture(245, ("purple", "diamond", "center", 40)), "counting", "How many shapes are there?", "There is 1 shape."),
    (picture(240, ("orange", "circle", "top left", 28), ("blue", "square", "right", 24), ("green", "diamond", "bottom", 34)), "counting", "Count the shapes.", "There are 3 shapes."),
    (picture(250, ("yellow", "square", "bottom right", 26)), "naming", "What is at the bottom right?", "A yellow square is at the bottom right."),
    (picture(255, ("red", "square", "left", 30), ("red", "circle", "right", 30)), "counting", "How many circles are there?", "There is 1 circle."),
    (picture(230, ("blue", "triangle", "top", 36), ("purple", "square", "bottom", 28)), "naming", "What colour is the triangle?", "The triangle is blue."),
    (picture(255, ("green", "circle", "center", 50)), "locate", "Locate the green circle.", '[{"bbox_2d": [344, 292, 659, 713], "label": "green circle"}]'),
    (picture(245, ("red", "square", "top left", 25)), "locate", "Locate the red square.", '[{"bbox_2d": [94, 83, 253, 296], "label": "red square"}]'),
]  # fmt: skip

rows = []
for number, (pixels, row, question, answer) in enumerate(MADE):
    Image.fromarray(pixels).save(PICTURES / f"numpy-{number}.png")
    rows.append((f"numpy-{number}.png", row, question, answer))
record("numpy_arrays", rows)
