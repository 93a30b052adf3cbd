"""Printed pictures: plain text, invoices, bar charts and app screens, with what they say.

Knows layouts and where every printed line lies. Knows nothing of questions or of tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import words
from fonts import font_names, load_font
from PIL import Image, ImageDraw
from reading import Line, Note, two_colours

MIN_SIDE, MAX_SIDE = 160, 512
SMALLEST_PX = 24
LABELS = {
    "invoice_no": ("Invoice No", "Invoice #", "Invoice", "Inv. No.", "Number", "INVOICE NO"),
    "date": ("Date", "Invoice date", "DATE", "Issued"),
    "due_date": ("Due date", "Due", "Pay by", "DUE DATE"),
    "customer": ("Customer", "Bill to", "Client", "Name", "CUSTOMER"),
    "tax": ("Tax", "VAT", "TAX"),
    "total": ("Total", "Amount due", "TOTAL", "Grand total", "To pay"),
}
SERIES = (
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    ("Q1", "Q2", "Q3", "Q4"),
    ("2019", "2020", "2021", "2022", "2023", "2024", "2025"),
    ("A", "B", "C", "D", "E", "F"),
)
GROUPS = (
    ("Apple", "Pear", "Plum", "Fig", "Kiwi", "Lemon"),
    ("Red", "Blue", "Green", "Gray"),
    ("North", "South", "East", "West"),
    ("Tea", "Milk", "Juice", "Water", "Cola"),
)
TITLES = ("Sales", "Visitors", "Orders", "Rain", "Units sold", "Revenue", "Traffic", "Score")
BUTTONS = (
    "Save Cancel OK Send Delete Edit Back Next Login Submit Search Close Help Share Print Open Add "
    "Yes No Retry Apply Reset Upload Start Stop"
).split()
FIELDS = (
    "Name Email Password Phone City Address Title Message Age Date Country Username Street Note"
).split()
SCREENS = (
    "Sign in", "Settings", "Profile", "Contact", "New order", "Checkout", "Account", "Feedback",
)  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A bar chart: labels and values from left to right, all values different."""

    labels: tuple[str, ...]
    values: tuple[int, ...]
    title: str
    values_printed: bool


@dataclass(frozen=True)
class Screen:
    """An app screen; boxes are [x1, y1, x2, y2] in 0-1000, from top left to bottom right."""

    title: str
    buttons: dict[str, list[int]]
    fields: dict[str, list[int]]


class Printer:
    """Draws lines of text and remembers them."""

    def __init__(self, size: tuple[int, int], ground: tuple[int, int, int]) -> None:
        self.image = Image.new("RGB", size, ground)
        self.draw = ImageDraw.Draw(self.image)
        self.lines: list[Line] = []

    def line(
        self,
        text: str,
        font: str,
        px: int,
        x: float,
        y_centre: float,
        ink: tuple[int, int, int],
        note: Note,
    ) -> None:
        """Print `text` with its left edge at `x` and its middle at `y_centre`."""
        self.draw.text((x, y_centre), text, font=load_font(font, px), fill=ink, anchor="lm")
        self.note(text, font, px, x, y_centre, note)

    def note(self, text: str, font: str, px: int, x: float, y_centre: float, note: Note) -> None:
        """Remember `text` that is printed there already."""
        self.lines.append(Line(text, font, px, x, y_centre, note))

    def centred(
        self,
        text: str,
        font: str,
        px: int,
        x: float,
        y_centre: float,
        ink: tuple[int, int, int],
        note: Note,
    ) -> None:
        """Print `text` with its middle at (`x`, `y_centre`)."""
        width = load_font(font, px).getlength(text)
        self.line(text, font, px, x - width / 2, y_centre, ink, note)


def side(rng: random.Random, least: float = 0) -> int:
    """A picture's side in pixels, more often small than large."""
    low = max(MIN_SIDE, round(least))
    return low + int((MAX_SIDE - low) * rng.random() ** 2.5 * 0.8)


def frame_size(rng: random.Random, ease: float = 0.0) -> tuple[int, int]:
    """Width and height of a picture of any aspect ratio up to 2:1; small ones with ease 1."""
    ratio = rng.choice((1.0, 1.0, 4 / 3, 3 / 2, 16 / 9, 2.0, rng.uniform(1, 2)))
    ratio = 1 + (ratio - 1) * (1 - ease)
    short = round(MIN_SIDE - 32 * ease) + int(200 * (1 - 0.8 * ease) * rng.random() ** 4)
    long = min(MAX_SIDE, round(short * ratio))
    return (long, short) if rng.random() < 0.6 else (short, long)


def fitted(rng: random.Random, need_w: float, need_h: float) -> tuple[int, int]:
    """A picture size that holds `need_w` x `need_h` pixels and is not longer than 2:1."""
    width, height = side(rng, need_w), side(rng, need_h)
    if rng.random() < 0.6:
        width, height = max(MIN_SIDE, round(need_w)), max(MIN_SIDE, round(need_h))
    width = max(width, (height + 1) // 2)
    height = max(height, (width + 1) // 2)
    return min(width, MAX_SIDE), min(height, MAX_SIDE)


def smallest_px(ease: float) -> int:
    """The smallest font: 24 pixels, 26 while it is made easy."""
    return SMALLEST_PX + round(2 * ease)


def font_px(rng: random.Random, smallest: int, largest: int) -> int:
    """A font size, evenly spread on a log scale."""
    return round(smallest * (largest / smallest) ** rng.random())


def draw_text(rng: random.Random, ease: float = 0.0) -> tuple[Printer, list[str]]:
    """1 to 4 printed lines: words, numbers, prices, codes."""
    font, px = rng.choice(font_names()), font_px(rng, smallest_px(ease), 32)
    texts = []
    for _ in range(1 if rng.random() < ease else rng.choice((1, 1, 2, 2, 3, 3, 4))):
        text = words.item(rng)
        while rng.random() < 0.4 - 0.3 * ease:
            longer = f"{text} {words.item(rng)}"
            if load_font(font, px).getlength(longer) > MAX_SIDE - 40 or len(longer) > 24:
                break
            text = longer
        while load_font(font, px).getlength(text) > MAX_SIDE - 24:
            text = text[:-1].strip()
        texts.append(text)
    pitch = px * rng.uniform(1.2, 2.0)
    need_w = max(load_font(font, px).getlength(text) for text in texts) + 16
    size = fitted(rng, need_w, pitch * len(texts) + 12)
    ground, ink = two_colours(rng)
    printer = Printer(size, ground)
    y = rng.uniform(6, max(6.0, size[1] - pitch * len(texts) - 6)) + pitch / 2
    centre = rng.random() < 0.4
    left = rng.uniform(6, max(6.0, size[0] - need_w + 6))
    for i, text in enumerate(texts):
        note = Note("line", i + 1, len(texts))
        if centre:
            printer.centred(text, font, px, size[0] / 2, y, ink, note)
        else:
            printer.line(text, font, px, left, y, ink, note)
        y += pitch
    return printer, texts


def draw_invoice(rng: random.Random, ease: float = 0.0) -> tuple[Printer, dict[str, str]]:
    """Labelled fields. The four main ones are always there, due date and tax sometimes."""
    sign = rng.choice("$$€")
    fields = {
        "invoice_no": words.code(rng),
        "date": words.date(rng),
        "due_date": words.date(rng),
        "customer": words.person(rng),
        "tax": f"{sign}{rng.randrange(100)}.{rng.randrange(100):02d}",
        "total": f"{sign}{rng.randrange(10 ** rng.randint(2, 4))}.{rng.randrange(100):02d}",
    }
    for key in ("due_date", "tax"):
        if rng.random() < 0.6:
            del fields[key]
    while ":" in fields["date"]:
        fields["date"] = words.date(rng)
    while ":" in fields.get("due_date", ""):
        fields["due_date"] = words.date(rng)
    font, px = rng.choice(font_names()), font_px(rng, smallest_px(ease), 28)
    bold = rng.choice(font_names())
    colon = rng.choice((":", ":", ""))
    labels = {key: rng.choice(LABELS[key]) + colon for key in fields}
    measure = load_font(font, px).getlength
    gap = px * rng.uniform(0.5, 1.2)
    columns = rng.random() < 0.5
    label_w = max(load_font(bold, px).getlength(label) for label in labels.values())
    need_w = label_w + gap + max(measure(value) for value in fields.values()) + 20
    pitch = px * rng.uniform(1.35, 1.9)
    heading = rng.choice(("INVOICE", "Invoice", words.word(rng).title() + " Ltd", ""))
    rows = len(fields) + (1.4 if heading else 0)
    size = fitted(rng, need_w, pitch * rows + 16)
    ground, ink = two_colours(rng)
    printer = Printer(size, ground)
    y = rng.uniform(8, max(8.0, size[1] - pitch * rows - 8)) + pitch / 2
    left = rng.uniform(8, max(8.0, size[0] - need_w + 8))
    if heading:
        big = min(round(px * 1.15), round(px * (size[0] - 16 - left) / max(1, measure(heading))))
        printer.line(heading, bold, max(12, big), left, y, ink, Note("heading"))
        y += pitch * 1.4
    for key, value in fields.items():
        printer.line(labels[key], bold, px, left, y, ink, Note("label"))
        width = label_w if columns else load_font(bold, px).getlength(labels[key])
        printer.line(value, font, px, left + width + gap, y, ink, Note(key))
        y += pitch
    return printer, fields


def trend_of(values: tuple[int, ...]) -> str:
    """rising, falling or mixed"""
    if list(values) == sorted(values):
        return "rising"
    return "falling" if list(values) == sorted(values, reverse=True) else "mixed"


def draw_chart(rng: random.Random, ease: float = 0.0) -> tuple[Printer, Chart]:
    """3 to 5 labelled bars with clearly different heights."""
    count = rng.randint(3, 5)
    if rng.random() < 0.6:
        series = rng.choice([names for names in SERIES if len(names) >= count])
        start = rng.randint(0, len(series) - count)
        labels = series[start : start + count]
    else:
        group = rng.choice([names for names in GROUPS if len(names) >= count])
        labels = tuple(rng.sample(group, count))
    steps = rng.sample(range(2, 21), count)
    while min(abs(a - b) for i, a in enumerate(steps) for b in steps[:i]) < 3:
        steps = rng.sample(range(2, 21), count)
    trend = rng.random()
    if trend < 0.3:
        steps.sort()
    elif trend < 0.6:
        steps.sort(reverse=True)
    unit = rng.choice((1, 5, 10))
    values = tuple(step * unit for step in steps)
    font, px = rng.choice(font_names()), font_px(rng, smallest_px(ease), 26)
    slot = max(load_font(font, px).getlength(label) for label in labels) + 8
    title = rng.choice(TITLES) if rng.random() < 0.6 else ""
    printed = rng.random() < 0.5
    top = px * (1.8 if title else 0.4) + (px * 1.2 if printed else 0)
    size = fitted(rng, max(slot * count + 16, 180), top + px * 1.6 + 90)
    ground, ink = two_colours(rng)
    printer = Printer(size, ground)
    if title:
        printer.centred(title, font, px, size[0] / 2, px * 1.1, ink, Note("title"))
    base = size[1] - px * 1.6
    slot = (size[0] - 16) / count
    colours = [tuple(rng.randint(30, 225) for _ in range(3)) for _ in range(count)]
    one_colour = rng.random() < 0.5
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        x = 8 + slot * (i + 0.5)
        half = slot * 0.32
        height = (base - top - 4) * value / (20 * unit)
        fill = colours[0] if one_colour else colours[i]
        printer.draw.rectangle((x - half, base - height, x + half, base), fill=fill)
        role = {max(values): "highest", min(values): "lowest"}.get(value, "bar")
        note = Note(role, i + 1, count, trend=trend_of(values))
        printer.centred(label, font, px, x, base + px * 0.8, ink, note)
        if printed:
            above = base - height - px * 0.65
            printer.centred(str(value), font, px, x, above, ink, Note("value", i + 1, count))
    printer.draw.line((6, base, size[0] - 6, base), fill=ink)
    return printer, Chart(tuple(labels), values, title, printed)


def share(box: tuple[float, ...], size: tuple[int, int]) -> list[int]:
    """A box in pixels as [x1, y1, x2, y2] in 0-1000 of the picture's sides."""
    sides = (size[0], size[1], size[0], size[1])
    shares = (part * 1000 / whole for part, whole in zip(box, sides, strict=True))
    return [min(1000, max(0, round(share))) for share in shares]


def draw_screen(rng: random.Random, ease: float = 0.0) -> tuple[Printer, Screen]:
    """An app screen: a title, fields with their names, a row or a column of buttons."""
    field_names = rng.sample(FIELDS, rng.choice((0, 1, 1, 2, 2, 3)))
    button_names = rng.sample(BUTTONS, rng.choice((1, 2, 2, 3)))
    title = rng.choice(SCREENS)
    font, px = rng.choice(font_names()), font_px(rng, smallest_px(ease), 26)
    measure = load_font(font, px).getlength
    pad = px * 0.6
    button_w = [measure(name) + 2 * pad for name in button_names]
    row_w = sum(button_w) + pad * (len(button_w) - 1)
    stacked = rng.random() < 0.3 or row_w > MAX_SIDE - 24
    row_w = max(button_w) if stacked else row_w
    need_w = max(row_w, measure(title), px * 9, *(measure(name) for name in field_names), 100) + 24
    bar, field_h, button_h = px * 2.0, px * 3.1, px * 2.3
    need_h = bar + field_h * len(field_names) + button_h * (len(button_names) if stacked else 1)
    size = fitted(rng, need_w, need_h + 16)
    ground, ink = two_colours(rng)
    dark = sum(ground) < 380
    printer = Printer(size, ground)
    strip = tuple(min(255, c + 45) if dark else max(0, c - 40) for c in ground)
    printer.draw.rectangle((0, 0, size[0], bar), fill=strip)
    printer.line(title, font, px, 12, bar / 2, ink, Note("title"))
    slack = max(0.0, size[1] - need_h - 16)
    y = bar + 8 + rng.random() * slack / 2
    fields, buttons = {}, {}
    field_w = rng.uniform(0.7, 1.0) * (size[0] - 24)
    for name in field_names:
        box = (12, y + px * 1.4, 12 + field_w, y + px * 2.9)
        paper = (255, 255, 255) if not dark else (60, 62, 70)
        printer.draw.rectangle(box, fill=paper, outline=ink)
        fields[name] = share(box, size)
        note = Note("field", len(fields), len(field_names), tuple(fields[name]))
        printer.line(name, font, px, 12, y + px * 0.7, ink, note)
        y += field_h
    y += rng.random() * slack / 2
    x = rng.uniform(12, max(12.0, size[0] - row_w - 12))
    accent = tuple(rng.randint(20, 120) for _ in range(3))
    accent = accent if not dark else tuple(c + 110 for c in accent)
    label = (255, 255, 255) if not dark else (0, 0, 0)
    for name, width in zip(button_names, button_w, strict=True):
        box = (x, y + px * 0.2, x + width, y + px * 1.9)
        printer.draw.rounded_rectangle(box, px * 0.3, fill=accent)
        buttons[name] = share(box, size)
        note = Note("button", len(buttons), len(button_names), tuple(buttons[name]))
        printer.centred(name, font, px, x + width / 2, y + px * 1.05, label, note)
        if stacked:
            y += button_h
        else:
            x += width + pad
    return printer, Screen(title, buttons, fields)
