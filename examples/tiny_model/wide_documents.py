"""Printed pictures as other hands make them: many fonts, sizes, layouts and colours.

The same kinds of facts as `documents`, printed like web pages, forms and plotting libraries print
them. Knows layouts and where every printed line lies. Knows nothing of questions or of tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import words
from documents import (
    BUTTONS,
    FIELDS,
    GROUPS,
    LABELS,
    SCREENS,
    SERIES,
    TITLES,
    Chart,
    Printer,
    Screen,
    font_px,
    share,
    trend_of,
)
from fonts import font_names, load_font
from looks import ground_pixels
from PIL import Image
from reading import CELL_PX, Line, Note, two_colours

SMALLEST_PX, LARGEST_PX = 14, 42
MOST_SIDE = 512
MORE_LABELS = {
    "invoice_no": ("Invoice number", "Invoice No.", "Invoice ID", "No.", "Invoice nr"),
    "date": ("Invoice Date", "Issue date", "Date issued", "Date of issue"),
    "due_date": ("Due Date", "Payment due", "Due by"),
    "customer": ("Bill To", "Billed to", "Sold to", "To", "Customer name"),
    "tax": ("Sales tax", "VAT 19%", "Tax 10%", "Tax (20%)"),
    "total": ("Total due", "Amount", "Balance due", "TOTAL DUE", "Sum", "Grand Total"),
}
THINGS = (
    "Widget", "Cable", "Paper", "Desk lamp", "Consulting", "Hosting", "Coffee", "Delivery",
    "Printer", "Support", "Design", "Keyboard", "Service fee", "Book",
)  # fmt: skip
SMALL_PRINT = (
    "Thank you!", "Thank you for your business", "Page 1 of 1", "Paid by card", "www.shop.com",
    "12 High Street", "Phone 555-0142", "Net 30", "info@shop.com",
)  # fmt: skip
COMPANY_ENDS = ("Ltd", "Inc", "GmbH", "Corp", "LLC", "Co", "Group", "Labs")
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
MORE_BUTTONS = (
    "Continue", "Confirm", "Register", "Sign up", "Log in", "Remove", "Update", "Download", "Pay",
    "Buy now", "Accept", "Decline", "Skip", "Finish", "Create", "Copy",
)  # fmt: skip
MORE_FIELDS = (
    "First name", "Last name", "Subject", "Company", "Zip code", "E-mail", "User name", "Comment",
    "Amount", "State", "Website", "Birthday",
)  # fmt: skip


@dataclass(frozen=True)
class Print:
    """What one hand prints with."""

    font: str
    bold: str
    px: int

    def width(self, text: str) -> float:
        return load_font(self.font, self.px).getlength(text)

    def bold_width(self, text: str) -> float:
        return load_font(self.bold, self.px).getlength(text)


def some_print(rng: random.Random, most: int = 32) -> Print:
    """A font, perhaps another for labels, and a size."""
    names = font_names(wide=True)
    font = rng.choice(names)
    family = font.split("-")[0].split(".")[0]
    same = [name for name in names if name.startswith(family)]
    return Print(font, rng.choice((font, rng.choice(same))), font_px(rng, SMALLEST_PX, most))


def sides(rng: random.Random, need_w: float, need_h: float) -> tuple[int, int]:
    """A picture that holds so many pixels, tight or with room to spare, not longer than 2:1."""
    room = rng.choice((1.0, 1.0, 1.15, 1.5, rng.uniform(1, 2.2)))
    width = max(160, round(need_w), min(MOST_SIDE, round(need_w * room)))
    height = max(128, round(need_h), min(MOST_SIDE, round(need_h * room)))
    return max(width, (height + 1) // 2), max(height, (width + 1) // 2)


def some_printer(rng: random.Random, size: tuple[int, int]) -> tuple[Printer, tuple, tuple]:
    """A ground, mostly plain and often white, its colour and an ink."""
    ground, ink = two_colours(rng)
    if rng.random() < 0.4:
        ground, ink = (255, 255, 255), (rng.randint(0, 60),) * 3
    printer = Printer(size, ground)
    if rng.random() < 0.2:
        kind = rng.choice(("gradient", "noise", "clouds"))
        printer.image.paste(ground_pixels(kind, ground, *size, rng.getrandbits(32)))
    if rng.random() < 0.15:
        printer.draw.rectangle((2, 2, size[0] - 3, size[1] - 3), outline=ink)
    return printer, ground, ink


def toned(rng: random.Random, ground: tuple, least: int, most: int) -> tuple:
    """The ground, darker where it is light and lighter where it is dark, by some levels."""
    step = rng.randint(least, most) * (-1 if sum(ground) > 380 else 1)
    return tuple(min(255, max(0, part + step)) for part in ground)


def accent(rng: random.Random, ground: tuple) -> tuple:
    """A strong colour that shows on the ground."""
    while True:
        found = tuple(rng.randint(0, 255) for _ in range(3))
        if abs(sum(found) - sum(ground)) > 240:
            return found


def draw_text(rng: random.Random, ease: float = 0.0) -> tuple[Printer, list[str]]:
    """1 to 5 lines, perhaps of different sizes and colours. `ease` changes nothing."""
    hands = [some_print(rng, LARGEST_PX)]
    texts: list[str] = []
    prints: list[Print] = []
    for i in range(rng.choice((1, 1, 2, 2, 3, 3, 4, 5))):
        if rng.random() < 0.25:
            hands.append(some_print(rng, LARGEST_PX))
        hand = hands[0] if i and rng.random() < 0.5 else hands[-1]
        text = words.item(rng)
        while rng.random() < 0.5 and len(text) < 26:
            text = f"{text} {words.item(rng)}"
        while hand.width(text) > MOST_SIDE - 30 or len(text) > 30:
            text = text[:-1].strip()
        texts.append(text)
        prints.append(hand)
    pitch = rng.uniform(1.15, 1.9)
    need_w = max(hand.width(text) for hand, text in zip(prints, texts, strict=True)) + 20
    heights = [max(hand.px * pitch, hand.px + 3) for hand in prints]
    while sum(heights) > MOST_SIDE - 20:
        texts.pop()
        prints.pop()
        heights.pop()
    size = sides(rng, need_w, sum(heights) + 16)
    printer, ground, ink = some_printer(rng, size)
    y = rng.uniform(8, max(8.0, size[1] - sum(heights) - 8))
    align = rng.choice(("left", "left", "left", "centre", "right"))
    left = rng.choice((10.0, rng.uniform(6, max(6.0, size[0] - need_w + 6))))
    if left + need_w > size[0] + 10:
        left = 8.0
    for i, (text, hand, height) in enumerate(zip(texts, prints, heights, strict=True)):
        width = hand.width(text)
        x = {"left": left, "centre": (size[0] - width) / 2, "right": size[0] - width - 8}[align]
        colour = accent(rng, ground) if rng.random() < 0.15 else ink
        printer.line(text, hand.font, hand.px, x, y + height / 2, colour,
                     Note("line", i + 1, len(texts)))  # fmt: skip
        y += height
    return printer, texts


def some_date(rng: random.Random) -> str:
    """A date without a time of day."""
    year, month, day = rng.randint(1990, 2035), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice((
        f"{year}-{month:02d}-{day:02d}",
        f"{year}-{month:02d}-{day:02d}",
        f"{day:02d}/{month:02d}/{year}",
        f"{day:02d}.{month:02d}.{year}",
        f"{day} {MONTHS[month - 1]} {year}",
        f"{MONTHS[month - 1]} {day}, {year}",
    ))  # fmt: skip


def money(rng: random.Random, sign: str, most: int) -> str:
    """An amount with its sign before it; thousands grouped or not."""
    whole = rng.randrange(10 ** rng.randint(1, most))
    return f"{sign}{f'{whole:,}' if rng.random() < 0.6 else whole}.{rng.randrange(100):02d}"


def some_code(rng: random.Random) -> str:
    """An invoice number."""
    year, serial = rng.randint(2015, 2032), rng.randrange(10 ** rng.randint(2, 5))
    return rng.choice((
        words.code(rng), words.code(rng), f"INV-{serial:04d}", f"INV-{year}-{serial:03d}",
        f"{year}-{serial:03d}", f"{serial:05d}", f"INV{serial:05d}",
    ))  # fmt: skip


def some_customer(rng: random.Random) -> str:
    """A person or a company."""
    kind = rng.random()
    if kind < 0.3:
        return words.person(rng)
    if kind < 0.6:
        return f"{words.made_up(rng).title()} {words.made_up(rng).title()}"
    named = " ".join(rng.choice(words.COMMON).title() for _ in range(rng.choice((1, 1, 2))))
    first = rng.choice((named, rng.choice(words.LAST), "Acme", "Globex"))
    return f"{first} {rng.choice(COMPANY_ENDS)}"


def some_fields(rng: random.Random) -> tuple[str, dict[str, str]]:
    """A currency's sign, and what stands in the fields of an invoice."""
    sign = rng.choice("$$€")
    fields = {
        "invoice_no": some_code(rng),
        "date": some_date(rng),
        "due_date": some_date(rng),
        "customer": some_customer(rng),
        "tax": money(rng, sign, 2),
        "total": money(rng, sign, 5),
    }
    for key in ("due_date", "tax"):
        if rng.random() < 0.6:
            del fields[key]
    return sign, fields


def draw_invoice(rng: random.Random, ease: float = 0.0) -> tuple[Printer, dict[str, str]]:
    """Fields among other print: letterheads, goods and their prices. `ease` changes nothing."""
    sign, fields = some_fields(rng)
    hand = some_print(rng, 26)
    colon = rng.choice((":", ":", ""))
    labels = {key: rng.choice((*LABELS[key], *MORE_LABELS[key])).strip() + colon for key in fields}
    layout = rng.choice(("beside", "beside", "column", "column", "apart", "above"))
    goods = []
    if rng.random() < 0.45:
        for _ in range(rng.choice((1, 2, 3))):
            goods.append((rng.choice(THINGS), money(rng, sign, 3)))
    heading = rng.choice(("INVOICE", "Invoice", "RECEIPT", some_customer(rng), ""))
    footer = rng.choice(SMALL_PRINT) if rng.random() < 0.3 else ""
    head = Print(hand.font, hand.bold, round(hand.px * rng.uniform(1.0, 1.6)))
    gap = hand.px * rng.uniform(0.4, 1.4)
    label_w = max(hand.bold_width(label) for label in labels.values())
    value_w = max(hand.bold_width(value) for value in fields.values())
    value_w = max(value_w, *(hand.width(value) for value in fields.values()))
    need_w = max(label_w, value_w) if layout == "above" else label_w + gap + value_w
    goods_w = max([hand.width(f"{name} {price}") + gap for name, price in goods] or [0])
    need_w = max(need_w, goods_w, head.bold_width(heading), hand.width(footer)) + 24
    pitch = hand.px * rng.uniform(1.25, 1.9)
    rows = len(fields) * (2 if layout == "above" else 1) + len(goods) + (1.2 if footer else 0)
    need_h = pitch * (rows + (0.4 if goods else 0)) + (head.px * 1.7 if heading else 0) + 16
    if need_w > MOST_SIDE or need_h > MOST_SIDE:
        return draw_invoice(rng)
    size = sides(rng, need_w, need_h)
    printer, ground, ink = some_printer(rng, size)
    left = rng.choice((12.0, rng.uniform(8, max(8.0, size[0] - need_w + 4))))
    if left + need_w > size[0] + 12:
        left = 10.0
    right = min(size[0] - 10.0, left + (need_w - 20) * rng.uniform(1, 1.5))
    y = rng.uniform(6, max(6.0, size[1] - need_h + 6))
    if heading:
        band, colour = head.px * 1.5, ink
        if rng.random() < 0.3:
            fill = accent(rng, ground)
            printer.draw.rectangle((0, y - 4, size[0], y + band - 2), fill=fill)
            colour = (255, 255, 255) if sum(fill) < 380 else (0, 0, 0)
        elif rng.random() < 0.3:
            colour = accent(rng, ground)
        x = left if rng.random() < 0.7 else (size[0] - head.bold_width(heading)) / 2
        printer.line(heading, head.bold, head.px, x, y + band / 2 - 3, colour, Note("heading"))
        y += head.px * 1.7
    ruled = rng.random() < 0.3
    goods_at = rng.choice((len(fields) - 1, len(fields)))
    faint = toned(rng, ink, 0, 60) if rng.random() < 0.3 else ink
    for i, (key, value) in enumerate([*fields.items(), ("", "")]):
        if i == goods_at and goods:
            y += pitch * 0.2
            printer.draw.line((left, y, right, y), fill=ink)
            for name, price in goods:
                middle = y + pitch / 2
                printer.line(name, hand.font, hand.px, left, middle, ink, Note("heading"))
                x = right - hand.width(price)
                printer.line(price, hand.font, hand.px, x, middle, ink, Note("heading"))
                y += pitch
            printer.draw.line((left, y, right, y), fill=ink)
            y += pitch * 0.2
        if not key:
            break
        middle, font = y + pitch / 2, hand.font
        if key == "total" and rng.random() < 0.3:
            font = hand.bold
        printer.line(labels[key], hand.bold, hand.px, left, middle, faint, Note("label"))
        if layout == "above":
            y += pitch
            x, middle = left, y + pitch / 2
        elif layout == "apart":
            x = right - load_font(font, hand.px).getlength(value)
        else:
            shift = label_w if layout == "column" else hand.bold_width(labels[key])
            x = left + shift + gap
        printer.line(value, font, hand.px, x, middle, ink, Note(key))
        y += pitch
        if ruled:
            printer.draw.line((left, y, right, y), fill=toned(rng, ground, 25, 60))
    if footer:
        printer.line(footer, hand.font, hand.px, left, y + pitch * 0.6, ink, Note("heading"))
    return printer, fields


def some_chart(rng: random.Random) -> Chart:
    """2 to 7 bars; the highest and the lowest stand out a little at least."""
    count = rng.choice((2, 3, 3, 4, 4, 5, 5, 6, 7))
    kind = rng.random()
    if kind < 0.25:
        series = rng.choice([names for names in SERIES if len(names) >= count])
        start = rng.randint(0, len(series) - count)
        labels = tuple(series[start : start + count])
    elif kind < 0.7:
        # From a list of words the model learns the list, and calls Cairo "Cake".
        found: dict[str, None] = {}
        while len(found) < count:
            found[words.label(rng)] = None
        labels = tuple(found)
    elif kind < 0.85:
        labels = tuple(rng.sample(sorted({name for group in GROUPS for name in group}), count))
    else:
        labels = tuple(rng.sample(sorted({word.title() for word in words.COMMON}), count))
    most = rng.choice((10, 20, 50, 100, 100, 500, 1000))
    while True:
        values = [rng.randint(max(1, most // 20), most) for _ in range(count)]
        ranks = sorted(values)
        tight = min(ranks[-1] - ranks[-2], ranks[1] - ranks[0]) < most * 0.05
        if not tight and len(set(values)) == count:
            break
    trend = rng.random()
    if trend < 0.45:
        values.sort(reverse=trend < 0.22)
    title = rng.choice(TITLES) if rng.random() < 0.5 else ""
    if title and rng.random() < 0.4:
        title = f"{title} {rng.choice(('2023', '2024', 'by month', 'per item', '(k$)'))}"
    return Chart(labels, tuple(values), title, rng.random() < 0.5)


def bar_note(chart: Chart, i: int) -> Note:
    """What the label of bar `i` is."""
    role = {max(chart.values): "highest", min(chart.values): "lowest"}
    return Note(role.get(chart.values[i], "bar"), i + 1, len(chart.values),
                trend=trend_of(chart.values))  # fmt: skip


def draw_chart(rng: random.Random, ease: float = 0.0) -> tuple[Printer, Chart]:
    """Bars with axes, grids and values as plotting libraries have them. `ease` changes nothing."""
    chart = some_chart(rng)
    count = len(chart.labels)
    hand = some_print(rng, 24)
    across = rng.random() < 0.2
    ticks = rng.random() < 0.5
    grid = rng.random() < 0.35
    inside = chart.values_printed and rng.random() < 0.2
    px = hand.px
    label_w = max(hand.width(label) for label in chart.labels)
    value_w = hand.width(str(max(chart.values)))
    step = next(
        s for s in (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500) if s * 5 >= max(chart.values)
    )
    top_value = max(chart.values) * rng.uniform(1.03, 1.2)
    title_h = px * 1.9 if chart.title else px * 0.5
    if across:
        left = label_w + px * 0.8 + 6
        need_w = left + 110 + value_w
        need_h = title_h + count * px * rng.uniform(1.5, 2.3) + (px * 1.6 if ticks else 8)
    else:
        left = value_w + px * 0.8 + 4 if ticks else 8.0
        need_w = left + count * (max(label_w, value_w if chart.values_printed else 0) + px * 0.7)
        need_h = title_h + 100 + px * 1.6
    need_w = max(need_w, hand.width(chart.title) + 16, 150)
    if need_w > MOST_SIDE or need_h > MOST_SIDE:
        return draw_chart(rng)
    size = sides(rng, need_w, need_h)
    printer, ground, ink = some_printer(rng, size)
    draw = printer.draw
    if chart.title:
        printer.centred(chart.title, hand.bold, px, size[0] / 2, px * 0.95, ink, Note("title"))
    colours = [accent(rng, ground) for _ in range(count)]
    if rng.random() < 0.6:
        colours = colours[:1] * count
    thick = rng.uniform(0.45, 0.9)
    pale = toned(rng, ground, 20, 50)
    right = size[0] - 8.0
    bottom = size[1] - (px * 1.6 if ticks or not across else 8.0)
    head = px * 1.25 if chart.values_printed and not inside else 0
    top = title_h + (0 if across else head)
    length = (right - value_w - 8 - left) if across else bottom - top
    for value in range(0, round(top_value) + 1, step):
        far = length * value / top_value
        if grid:
            line = (left + far, title_h, left + far, bottom) if across else (
                left, bottom - far, right, bottom - far
            )  # fmt: skip
            draw.line(line, fill=pale)
        if ticks and across:
            printer.centred(str(value), hand.font, px, left + far, bottom + px * 0.8, ink,
                            Note("heading"))  # fmt: skip
        elif ticks:
            x = left - 5 - hand.width(str(value))
            if bottom - far > px * 0.6:
                printer.line(str(value), hand.font, px, x, bottom - far, ink, Note("heading"))
    for i, (label, value) in enumerate(zip(chart.labels, chart.values, strict=True)):
        far = max(1.0, length * value / top_value)
        slot = ((bottom - title_h) if across else (right - left)) / count
        half = slot * thick / 2
        inner = (255, 255, 255) if sum(colours[i]) < 380 else (0, 0, 0)
        noted = Note("value", i + 1, count)
        if across:
            y = title_h + slot * (i + 0.5)
            draw.rectangle((left, y - half, left + far, y + half), fill=colours[i])
            x = left - 5 - hand.width(label)
            printer.line(label, hand.font, px, x, y, ink, bar_note(chart, i))
            if chart.values_printed:
                fits = inside and far > value_w + 8
                x = left + far - hand.width(str(value)) - 4 if fits else left + far + 4
                printer.line(str(value), hand.font, px, x, y, inner if fits else ink, noted)
        else:
            x = left + slot * (i + 0.5)
            draw.rectangle((x - half, bottom - far, x + half, bottom), fill=colours[i])
            printer.centred(label, hand.font, px, x, bottom + px * 0.85, ink, bar_note(chart, i))
            if chart.values_printed:
                fits = inside and far > px * 1.3 and half * 2 > value_w
                y = bottom - far + (px * 0.7 if fits else -px * 0.65)
                printer.centred(str(value), hand.font, px, x, y, inner if fits else ink, noted)
    draw.line((left, bottom, right, bottom), fill=ink)
    if rng.random() < 0.6:
        draw.line((left, title_h, left, bottom), fill=ink)
    return printer, chart


def some_names(rng: random.Random) -> tuple[str, list[str], list[str]]:
    """A screen's title, its fields and its buttons; a quarter of the names are made up."""
    title = rng.choice((*SCREENS, "Welcome", "Create account", "Payment", "Log in", "Search"))
    fields = rng.sample((*FIELDS, *MORE_FIELDS), rng.choice((0, 1, 1, 2, 2, 3)))
    buttons = rng.sample((*BUTTONS, *MORE_BUTTONS), rng.choice((1, 1, 2, 2, 3)))
    taken = {title, *fields, *buttons}
    for names in (fields, buttons):
        for i in range(len(names)):
            made = words.made_up(rng).title()
            if made not in taken and rng.random() < 0.25:
                names[i] = made
                taken.add(made)
    return title, fields, buttons


def draw_screen(rng: random.Random, ease: float = 0.0) -> tuple[Printer, Screen]:
    """Forms and dialogues as web pages have them. `ease` changes nothing."""
    title, field_names, button_names = some_names(rng)
    hand = some_print(rng, 24)
    px, pad = hand.px, hand.px * rng.uniform(0.5, 1.2)
    head = Print(hand.font, hand.bold, round(px * rng.uniform(1.0, 1.5)))
    widths = [hand.width(name) + 2 * pad for name in button_names]
    between = px * rng.uniform(0.3, 0.9)
    row_w = sum(widths) + between * (len(widths) - 1)
    stacked = rng.random() < 0.25 or row_w > MOST_SIDE - 28
    row_w = max(widths) if stacked else row_w
    box_h, button_h = px * rng.uniform(1.4, 1.9), px * rng.uniform(1.5, 2.1)
    field_h, step = px * 1.4 + box_h + px * 0.5, button_h + px * 0.5
    need_w = max(row_w, head.bold_width(title), px * 9,
                 *(hand.width(name) for name in field_names), 100) + 28  # fmt: skip
    need_h = head.px * 2 + field_h * len(field_names) + step * (len(widths) if stacked else 1) + 20
    if need_w > MOST_SIDE or need_h > MOST_SIDE:
        return draw_screen(rng)
    size = sides(rng, need_w, need_h)
    printer, ground, ink = some_printer(rng, size)
    if rng.random() < 0.5:
        strip = accent(rng, ground) if rng.random() < 0.4 else toned(rng, ground, 15, 50)
        printer.draw.rectangle((0, 0, size[0], head.px * 1.9), fill=strip)
        over = ink if abs(sum(strip) - sum(ink)) > 240 else ground
    else:
        over = ink
    left = rng.choice((14.0, max(14.0, (size[0] - need_w) / 2 + 14)))
    x = left if rng.random() < 0.7 else (size[0] - head.bold_width(title)) / 2
    printer.line(title, head.bold, head.px, x, head.px * 0.95, over, Note("title"))
    y = head.px * 2 + rng.random() * max(0.0, size[1] - need_h) / 2
    field_w = min(size[0] - left - 10, max((need_w - 28) * rng.uniform(0.9, 1.3), px * 7))
    paper = toned(rng, ground, -20, 30)
    rounded = rng.choice((0.0, 0.15, 0.3)) * px
    fields, buttons = {}, {}
    for name in field_names:
        box = (left, y + px * 1.4, left + field_w, y + px * 1.4 + box_h)
        printer.draw.rounded_rectangle(
            box, rounded, fill=paper, outline=toned(rng, ground, 60, 200)
        )
        fields[name] = share(box, size)
        note = Note("field", len(fields), len(field_names), tuple(fields[name]))
        printer.line(name, hand.font, px, left, y + px * 0.7, ink, note)
        y += field_h
    y += rng.random() * max(0.0, size[1] - y - step * (len(widths) if stacked else 1) - 8) / 2
    x = left if rng.random() < 0.6 else max(left, size[0] - row_w - 14)
    full = stacked and rng.random() < 0.4
    main, curve = accent(rng, ground), rng.choice((0.0, 0.2, 0.35, 0.5)) * button_h
    for i, (name, width) in enumerate(zip(button_names, widths, strict=True)):
        width = min(field_w, size[0] - x - 10) if full else width
        box = (x, y, x + width, y + button_h)
        hollow = rng.random() < 0.2 or (i and rng.random() < 0.3)
        label = ink if hollow else (255, 255, 255) if sum(main) < 380 else (0, 0, 0)
        printer.draw.rounded_rectangle(
            box, curve, fill=None if hollow else main, outline=ink if hollow else main
        )
        buttons[name] = share(box, size)
        note = Note("button", len(buttons), len(button_names), tuple(buttons[name]))
        printer.centred(name, hand.font, px, x + width / 2, y + button_h / 2, label, note)
        if stacked:
            y += step
        else:
            x += width + between
    return printer, Screen(title, buttons, fields)


def wide_page(
    rng: random.Random, cells: tuple[int, int], most_px: int
) -> tuple[Image.Image, list[Line]]:
    """A page full of print in many fonts, for a picture resized to `cells` of 32 x 32 pixels.

    Font sizes end at `most_px`.
    """
    rows, cols = cells
    width = cols * CELL_PX + rng.randint(-15, 15)
    height = rows * CELL_PX + rng.randint(-15, 15)
    printer, ground, ink = some_printer(rng, (width, height))
    y, hand = float(rng.randint(0, 12)), some_print(rng, most_px)
    while True:
        if rng.random() < 0.4:
            hand = some_print(rng, most_px)
        pitch = hand.px * rng.uniform(1.15, 1.6)
        if y + pitch > height:
            return printer.image, printer.lines
        x = float(rng.randint(0, 20))
        while x < width - hand.px:
            text = words.item(rng) if rng.random() < 0.85 else words.scramble(rng)
            while text and x + hand.width(text) > width:
                text = text[:-1].rstrip()
            if not text:
                break
            colour = accent(rng, ground) if rng.random() < 0.1 else ink
            printer.line(text, hand.font, hand.px, x, y + pitch / 2, colour, Note("line"))
            x += hand.width(text) + hand.px * rng.choice((0.3, 0.5, 0.8, 2.0))
        y += pitch
