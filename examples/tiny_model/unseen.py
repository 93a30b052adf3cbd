"""Pictures for evaluation only, drawn by Cairo: nothing that training sees is drawn by it.

Its shapes, layouts, words and choices are its own too. It needs cairocffi and the Cairo library.
Knows how to draw facts with Cairo. Knows nothing of training.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import cairocffi as cairo
import numpy as np
import scene as scenes
from clips import Clip, make_clip
from dialogues import Sample, conversation
from documents import Chart, Screen
from PIL import Image
from scene import Scene, Shape
from turns import (
    Asker,
    Turn,
    chart_turns,
    clip_turns,
    invoice_turns,
    locate_turns,
    scene_turns,
    screen_turns,
    text_turns,
)

FAMILIES = ("Liberation Sans", "Liberation Serif", "DejaVu Sans", "DejaVu Serif")
RGB = tuple[float, float, float]
PAINTS: dict[str, RGB] = {
    "red": (0.85, 0.1, 0.1),
    "orange": (1.0, 0.55, 0.05),
    "yellow": (1.0, 0.88, 0.1),
    "green": (0.1, 0.6, 0.25),
    "blue": (0.12, 0.35, 0.85),
    "purple": (0.5, 0.15, 0.65),
    "black": (0.05, 0.05, 0.05),
}
PAPERS: tuple[RGB, ...] = ((1, 1, 1), (0.97, 0.96, 0.92), (0.9, 0.94, 0.98), (0.93, 0.93, 0.93))
INKS: tuple[RGB, ...] = ((0, 0, 0), (0.13, 0.13, 0.2), (0.2, 0.1, 0.05), (0.05, 0.2, 0.35))
SENTENCES = (
    "Fresh bread every day", "Room 214", "No parking", "Opening hours", "Mon to Fri 9:00",
    "Sale ends Sunday", "Gate B12", "Total distance 42 km", "Please ring twice", "Version 3.1.4",
    "Flight LH 438", "Batch 2291-A", "Keep dry", "Made in Norway", "Serves 4 people",
    "Platform 7", "50% off", "Wet paint", "Lost and found", "Ticket 0815", "Best before 06/2027",
)  # fmt: skip
CUSTOMERS = ("Maria Keller", "Northwind Traders", "Tom Brandt", "Blue Harbor Ltd", "Ines Duarte",
             "Peak Outdoors", "Olaf Lind", "Green Valley Farm")  # fmt: skip
CATEGORIES = (
    ("Oslo", "Rome", "Paris", "Lima", "Cairo"), ("Gold", "Silver", "Bronze"),
    ("Cats", "Dogs", "Birds", "Fish"), ("2017", "2018", "2019", "2020"),
    ("Week 1", "Week 2", "Week 3"), ("Shirts", "Shoes", "Hats", "Coats"),
)  # fmt: skip


class Canvas:
    """A Cairo surface of white or tinted paper."""

    def __init__(self, rng: random.Random, width: int, height: int) -> None:
        self.size = (width, height)
        self.surface = cairo.ImageSurface(cairo.FORMAT_RGB24, width, height)
        self.pen = cairo.Context(self.surface)
        self.ink = rng.choice(INKS)
        self.fill(rng.choice(PAPERS))
        self.pen.paint()

    def fill(self, rgb: RGB) -> None:
        """The colour of what comes next."""
        self.pen.set_source_rgb(*rgb)

    def font(self, family: str, px: float, bold: bool = False) -> None:
        """The font of what is written next."""
        weight = cairo.FONT_WEIGHT_BOLD if bold else cairo.FONT_WEIGHT_NORMAL
        self.pen.select_font_face(family, cairo.FONT_SLANT_NORMAL, weight)
        self.pen.set_font_size(px)

    def width(self, text: str) -> float:
        """How far the text moves the pen, in pixels."""
        return self.pen.text_extents(text)[4]

    def write(self, text: str, x: float, baseline: float, rgb: RGB | None = None) -> None:
        """Text from `x` on."""
        self.fill(rgb or self.ink)
        self.pen.move_to(x, baseline)
        self.pen.show_text(text)

    def box(self, x: float, y: float, width: float, height: float, rgb: RGB) -> None:
        """A filled rectangle."""
        self.fill(rgb)
        self.pen.rectangle(x, y, width, height)
        self.pen.fill()

    def image(self) -> Image.Image:
        """The pixels."""
        width, height = self.size
        stride = self.surface.get_stride()
        raw = np.frombuffer(self.surface.get_data(), np.uint8).reshape(height, stride // 4, 4)
        return Image.fromarray(raw[:, :width, 2::-1].copy())


def some_scene(rng: random.Random, count: int) -> Scene:
    """Shapes near the middles of their cells, 0.4 to 1.0 of a cell's side."""
    shapes: list[Shape] = []
    for cell in rng.sample(scenes.CELLS, count):
        look = next(
            look
            for look in iter(lambda: (rng.choice(scenes.SHAPES), rng.choice(list(PAINTS))), None)
            if look not in {(shape.kind, shape.colour) for shape in shapes}
        )
        size = rng.uniform(0.4, 1.0)
        shift = (rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15))
        limit = max(0.0, 0.5 - size / 2)
        shift = (min(limit, max(-limit, shift[0])), min(limit, max(-limit, shift[1])))
        shapes.append(Shape(*look, cell, size, shift, (0, 0, 0)))
    return Scene(tuple(sorted(shapes, key=lambda shape: shape.cell)), (255, 255, 255),
                 frozenset({"white"}))  # fmt: skip


def draw_scene(rng: random.Random, shown: Scene, width: int, height: int) -> Image.Image:
    """The scene in Cairo's antialiasing, sometimes with outlines or soft fills."""
    canvas = Canvas(rng, width, height)
    pen, outlined, soft = canvas.pen, rng.random() < 0.4, rng.random() < 0.3
    for shape in shown.shapes:
        how, points = scenes.outline(shape, width, height)
        if how == "ellipse":
            (left, top), (right, bottom) = points
            pen.arc((left + right) / 2, (top + bottom) / 2, (right - left) / 2, 0, 2 * math.pi)
        else:
            pen.move_to(*points[0])
            for point in points[1:]:
                pen.line_to(*point)
            pen.close_path()
        paint = PAINTS[shape.colour]
        canvas.fill(paint)
        if soft:
            ys = [y for _, y in points]
            gradient = cairo.LinearGradient(0, min(ys), 0, max(ys))
            gradient.add_color_stop_rgb(0, *(min(1.0, part + 0.12) for part in paint))
            gradient.add_color_stop_rgb(1, *paint)
            pen.set_source(gradient)
        pen.fill_preserve()
        if outlined:
            canvas.fill((0.1, 0.1, 0.1))
            pen.set_line_width(1.5)
            pen.stroke()
        pen.new_path()
    return canvas.image()


def scene_picture(
    rng: random.Random, ask: Asker, asked: Callable[..., Iterator[Turn]]
) -> tuple[Image.Image, Iterator[Turn]]:
    """One to four shapes, and questions about them."""
    shown = some_scene(rng, rng.randint(1, 4))
    width, height = rng.choice(((256, 256), (320, 240), (300, 200), (224, 224)))
    image = draw_scene(rng, shown, width, height)
    turns = asked(ask, shown, (width, height)) if asked is locate_turns else asked(ask, shown)
    return image, turns


def text_picture(rng: random.Random, ask: Asker) -> tuple[Image.Image, Iterator[Turn]]:
    """One to four lines of 16 to 40 pixels."""
    px = rng.uniform(16, 40)
    texts = rng.sample(SENTENCES, rng.randint(1, 4))
    canvas = Canvas(rng, 440, round(px * 1.5 * len(texts) + 30))
    family, bold = rng.choice(FAMILIES), rng.random() < 0.3
    canvas.font(family, px, bold)
    while max(canvas.width(text) for text in texts) > 410:
        px *= 0.9
        canvas.font(family, max(16, px), bold)
    y = 12 + px
    for text in texts:
        canvas.write(text, 16, y)
        y += px * 1.5
    return canvas.image(), text_turns(ask, texts)


def invoice_picture(rng: random.Random, ask: Asker) -> tuple[Image.Image, Iterator[Turn]]:
    """A letterhead, the four fields and two goods."""
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(2018, 2030)
    fields = {
        "invoice_no": f"{rng.choice(('R', 'INV', 'F'))}-{rng.randint(1000, 99999)}",
        "date": rng.choice((f"{year}-{month:02d}-{day:02d}", f"{day:02d}.{month:02d}.{year}")),
        "customer": rng.choice(CUSTOMERS),
        "total": f"${rng.randint(10, 4999)}.{rng.randint(0, 99):02d}",
    }
    names = {
        "invoice_no": rng.choice(("Invoice No:", "Invoice #:", "Invoice number:")),
        "date": rng.choice(("Date:", "Invoice date:")),
        "customer": rng.choice(("Customer:", "Bill to:")),
        "total": rng.choice(("Total:", "Amount due:", "Total due:")),
    }
    canvas, family, px = Canvas(rng, 420, 330), rng.choice(FAMILIES), rng.randint(17, 22)
    canvas.box(0, 0, 420, 46, rng.choice(tuple(PAINTS.values())[3:]))
    canvas.font(family, 26, True)
    canvas.write("INVOICE", 18, 33, (1, 1, 1))
    canvas.font(family, px)
    y, across = 80.0, rng.choice((190.0, 215.0))
    for key in ("invoice_no", "date", "customer"):
        canvas.write(names[key], 18, y)
        canvas.write(fields[key], across, y)
        y += px * 1.6
    for goods in rng.sample(("Chair", "Lamp", "Repair", "Paint", "Shelf"), 2):
        canvas.box(18, y - px, 384, 1, canvas.ink)
        price = f"{rng.randint(1, 300)}.00"
        canvas.write(goods, 18, y + 2)
        canvas.write(price, 400 - canvas.width(price), y + 2)
        y += px * 1.6
    canvas.font(family, px, True)
    canvas.write(names["total"], 18, y + 6)
    canvas.write(fields["total"], across, y + 6)
    return canvas.image(), invoice_turns(ask, fields)


def chart_picture(rng: random.Random, ask: Asker) -> tuple[Image.Image, Iterator[Turn]]:
    """Bars with their values above them, or an axis."""
    labels = rng.choice(CATEGORIES)
    count = len(labels)
    values = tuple(rng.sample(range(2, 21), count))
    while min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) < 2:
        values = tuple(rng.sample(range(2, 21), count))
    printed, family = rng.random() < 0.6, rng.choice(FAMILIES)
    canvas = Canvas(rng, 380, 260)
    paints = rng.sample(list(PAINTS.values()), count)
    if rng.random() < 0.5:
        paints = paints[:1] * count
    canvas.font(family, 18, True)
    title = rng.choice(("", "Results", "Members", "Goals"))
    canvas.write(title, 190 - canvas.width(title) / 2, 22)
    canvas.font(family, 15)
    slot = 330 / count
    if not printed:
        for value in (0, 5, 10, 15, 20):
            canvas.write(str(value), 10, 225 - value * 8.5 + 5)
            canvas.box(36, 225 - value * 8.5, 334, 1, (0.8, 0.8, 0.8))
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        middle, top = 40 + slot * (i + 0.5), 225 - value * 8.5
        canvas.box(middle - slot * 0.3, top, slot * 0.6, 225 - top, paints[i])
        canvas.write(label, middle - canvas.width(label) / 2, 246)
        if printed:
            canvas.write(str(value), middle - canvas.width(str(value)) / 2, top - 5)
    canvas.box(36, 225, 336, 1.5, canvas.ink)
    return canvas.image(), chart_turns(ask, Chart(labels, values, title, printed))


def screen_picture(rng: random.Random, ask: Asker) -> tuple[Image.Image, Iterator[Turn]]:
    """A dialogue with fields and two buttons."""
    canvas, family = Canvas(rng, 340, 260), rng.choice(FAMILIES)
    title = rng.choice(("Sign in", "New account", "Address book", "Payment"))
    canvas.font(family, 24, True)
    canvas.write(title, 20, 36)
    canvas.font(family, 17)
    fields: dict[str, list[int]] = {}
    y = 62.0
    for label in rng.sample(("Name", "Email", "Password", "Phone", "Town"), rng.randint(1, 2)):
        canvas.write(label, 20, y + 12)
        canvas.fill((0.5, 0.5, 0.5))
        canvas.pen.rectangle(20.5, y + 20.5, 290, 30)
        canvas.pen.stroke()
        fields[label] = [round(20 / 0.34), round((y + 20) / 0.26), round(311 / 0.34),
                         round((y + 51) / 0.26)]  # fmt: skip
        y += 68
    buttons: dict[str, list[int]] = {}
    x, paint = 20.0, rng.choice(tuple(PAINTS.values())[3:6])
    for label in rng.sample(("OK", "Cancel", "Save", "Send", "Help", "Delete"), 2):
        width = canvas.width(label) + 36
        canvas.box(x, y + 4, width, 34, paint)
        canvas.write(label, x + 18, y + 27, (1, 1, 1))
        buttons[label] = [round(x / 0.34), round((y + 4) / 0.26), round((x + width) / 0.34),
                          round((y + 38) / 0.26)]  # fmt: skip
        x += width + 14
    return canvas.image(), screen_turns(ask, Screen(title, buttons, fields))


def clip_pictures(rng: random.Random, ask: Asker) -> tuple[list[Image.Image], Clip]:
    """Three to six frames."""
    while True:
        clip = make_clip(rng, rng.randint(3, 6))
        colours = {shape.colour for shown in clip.scenes for shape in shown.shapes}
        if colours <= set(PAINTS) and any(clip.events):
            break
    hand = rng.getrandbits(32)
    size = rng.choice(((192, 144), (160, 160)))
    return [draw_scene(random.Random(hand), shown, *size) for shown in clip.scenes], clip


def make_unseen(task: str, seed: int, lang: str) -> Sample:
    """A conversation of two turns about a picture by Cairo; the same arguments give the same."""
    rng = random.Random(f"unseen {task} {seed}")
    ask = Asker(rng, lang)
    times_s = None
    if task == "clip":
        images, clip = clip_pictures(rng, ask)
        times_s, stream = clip.times_s, clip_turns(ask, clip)
    elif task in ("scene", "locate"):
        image, stream = scene_picture(rng, ask, scene_turns if task == "scene" else locate_turns)
        images = [image]
    else:
        picture = {
            "text": text_picture,
            "invoice": invoice_picture,
            "chart": chart_picture,
            "screen": screen_picture,
        }[task]
        image, stream = picture(rng, ask)
        images = [image]
    turns = [next(stream)]
    while len(turns) < 2:
        turn = next(stream)
        if turn.question != turns[0].question:
            turns.append(turn)
    messages = conversation(rng, task, images, times_s, turns)
    return Sample(task, lang, tuple(images), ((),) * len(images), times_s, tuple(turns),
                  tuple(messages))  # fmt: skip
