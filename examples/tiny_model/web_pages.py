"""Pages of HTML and CSS that say the same kinds of things as the other drawers' pictures.

Knows tags and styles, and which element prints what. Where the print lies, only a browser knows
(`web_hand.py`). Knows nothing of questions or of tokens.
"""

from __future__ import annotations

import html
import random
from dataclasses import dataclass, field

import words
from documents import LABELS, Chart, Screen
from reading import Note, two_colours
from wide_documents import (
    MORE_LABELS,
    SMALL_PRINT,
    THINGS,
    accent,
    bar_note,
    money,
    some_chart,
    some_customer,
    some_fields,
    some_names,
    toned,
)

# Those that the system lacks fall back to its own sans or serif.
FAMILIES = (
    "DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "DejaVu Sans Condensed", "Liberation Sans",
    "Liberation Serif", "Liberation Mono", "Liberation Sans Narrow", "Roboto", "Open Sans", "Lato",
    "Noto Sans", "Noto Serif", "Ubuntu", "Inter", "Carlito", "Caladea", "sans-serif", "serif",
    "monospace", "system-ui",
)  # fmt: skip
SMALLEST_PX, LARGEST_PX = 12, 48
RGB = tuple[int, int, int]


def css(rgb: RGB) -> str:
    """A colour as CSS writes it."""
    return f"rgb({rgb[0]},{rgb[1]},{rgb[2]})"


@dataclass
class WebPage:
    """A page in the making: its style, its markup, and the notes of what its elements print.

    The element with `data-n="3"` prints what `notes[3]` describes; those with `data-box` are the
    buttons and fields of a screen.
    """

    rng: random.Random
    px: int
    ground: RGB
    ink: RGB
    style: str
    markup: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def printed(self, text: str, note: Note, style: str = "", tag: str = "span") -> str:
        """An element that prints `text` on one line."""
        self.notes.append(note)
        number = len(self.notes) - 1
        return f'<{tag} data-n="{number}" style="{style}">{html.escape(text)}</{tag}>'

    def html(self) -> str:
        """The whole document."""
        return (
            "<!doctype html><style>*{box-sizing:border-box;margin:0}"
            "html,body{overflow:hidden}[data-n]{white-space:pre}"
            f"#page{{display:inline-flex;flex-direction:column;{self.style}}}</style>"
            f'<div id="page"><div id="content">{"".join(self.markup)}</div></div>'
        )


def some_page(rng: random.Random, most_px: int) -> WebPage:
    """An empty page: font, weight, size, colours, room, and how it is lit."""
    ground, ink = two_colours(rng)
    if rng.random() < 0.4:
        ground, ink = (255, 255, 255), (rng.randint(0, 60),) * 3
    elif rng.random() < 0.2:  # a dark theme
        ground, ink = (rng.randint(12, 45),) * 3, (rng.randint(205, 255),) * 3
    px = round(SMALLEST_PX * (most_px / SMALLEST_PX) ** rng.random())
    paper = css(ground)
    if rng.random() < 0.15:
        other = css(toned(rng, ground, 8, 30))
        paper = f"linear-gradient({rng.randrange(360)}deg,{paper},{other})"
    styles = [
        f"font-family:'{rng.choice(FAMILIES)}',sans-serif",
        f"font-size:{px}px",
        f"font-weight:{rng.choice((300, 400, 400, 400, 500, 600, 700))}",
        f"line-height:{rng.uniform(1.15, 1.8):.2f}",
        f"background:{paper}",
        f"color:{css(ink)}",
        f"padding:{rng.randint(6, 20)}px {rng.randint(8, 24)}px",
        f"align-items:{rng.choice(('flex-start', 'flex-start', 'center'))}",
        f"justify-content:{rng.choice(('flex-start', 'center', 'flex-end'))}",
    ]
    if rng.random() < 0.15:
        styles.append("font-style:italic")
    if rng.random() < 0.15:
        styles.append(f"letter-spacing:{rng.uniform(-0.02, 0.08):.3f}em")
    if rng.random() < 0.15:
        styles.append(f"border:{rng.randint(1, 3)}px solid {css(toned(rng, ground, 40, 160))}")
    return WebPage(rng, px, ground, ink, ";".join(styles))


def text_page(rng: random.Random) -> tuple[WebPage, list[str]]:
    """1 to 6 lines: a heading, plain lines, a list or a card."""
    page = some_page(rng, LARGEST_PX)
    count = rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6))
    texts = []
    for _ in range(count):
        text = words.item(rng)
        while rng.random() < 0.5 and len(text) < 26:
            text = f"{text} {words.item(rng)}"
        # Wide letters are 0.8 of the size; a page is 512 pixels wide at most.
        texts.append(text[: min(30, max(6, int(430 / (page.px * 0.7))))].strip())
    align = rng.choice(("left", "left", "center", "right"))
    bullet = rng.choice(("disc", "square", "none")) if rng.random() < 0.2 else ""
    card = toned(rng, page.ground, 6, 24) if rng.random() < 0.25 else None
    box = (
        f"background:{css(card)};border-radius:{rng.randint(0, 12)}px;padding:10px" if card else ""
    )
    page.markup.append(f'<div style="text-align:{align};{box}">')
    for i, text in enumerate(texts):
        style = []
        if not i and rng.random() < 0.3:
            size = min(LARGEST_PX, round(page.px * rng.uniform(1.1, 1.5)))
            style += [f"font-size:{size}px", "font-weight:700"]
        if rng.random() < 0.12:
            style.append(f"color:{css(accent(rng, page.ground))}")
        if rng.random() < 0.12:
            style.append(f"font-family:'{rng.choice(FAMILIES)}'")
        if rng.random() < 0.06:
            style.append("text-decoration:underline")
        line = page.printed(text, Note("line", i + 1, count), ";".join(style))
        item = f"display:list-item;list-style:{bullet} inside" if bullet else ""
        page.markup.append(f'<div style="{item}">{line}</div>')
    page.markup.append("</div>")
    return page, texts


def invoice_page(rng: random.Random) -> tuple[WebPage, dict[str, str]]:
    """An invoice or a receipt: letterhead, fields beside or under their labels, goods, a footer."""
    page = some_page(rng, 26)
    sign, fields = some_fields(rng)
    colon = rng.choice((":", ":", ""))
    labels = {key: rng.choice((*LABELS[key], *MORE_LABELS[key])).strip() + colon for key in fields}
    muted = css(toned(rng, page.ground, 110, 170))
    label_style = rng.choice(("font-weight:700", "font-weight:400", f"color:{muted}"))
    value_style = rng.choice(("", "", "font-weight:700"))
    rule = f"border-bottom:1px {rng.choice(('solid', 'dashed'))} {muted}"
    heading = rng.choice(("INVOICE", "Invoice", "RECEIPT", some_customer(rng), ""))
    if heading:
        size = round(page.px * rng.uniform(1.0, 1.7))
        place = rng.choice(("left", "center", "right"))
        band = rule if rng.random() < 0.4 else ""
        shown = page.printed(heading, Note("heading"), f"font-size:{size}px;font-weight:700")
        page.markup.append(f'<div style="text-align:{place};{band}">{shown}</div>')
    layout = rng.choice(("beside", "beside", "apart", "above", "columns"))
    goods = rng.choice((1, 2, 3)) if rng.random() < 0.45 else 0
    split = len(fields) - rng.choice((1, 1, 2)) if goods else len(fields)
    gap = round(page.px * rng.uniform(0.4, 1.6))
    lined = rule if rng.random() < 0.25 else ""

    def row(key: str) -> str:
        label = page.printed(labels[key], Note("label"), label_style)
        value = page.printed(fields[key], Note(key), value_style)
        if layout == "above":
            return f'<div style="{lined}"><div>{label}</div><div>{value}</div></div>'
        between = "justify-content:space-between;" if layout == "apart" else ""
        return f'<div style="display:flex;gap:{gap}px;{between}{lined}">{label}{value}</div>'

    keys = list(fields)
    grid = f"display:grid;grid-template-columns:auto auto;column-gap:{gap}px"
    columns = layout == "columns" and not goods
    page.markup.append(f'<div style="{grid if columns else ""}">')
    page.markup += [row(key) for key in keys[:split]]
    page.markup.append("</div>")
    if goods:
        page.markup.append(f'<table style="width:100%;border-collapse:collapse;margin:{gap}px 0">')
        for _ in range(goods):
            name = page.printed(rng.choice(THINGS), Note("heading"))
            price = page.printed(money(rng, sign, 3), Note("heading"))
            cells = f'<td style="padding-right:{gap}px">{name}<td style="text-align:right">{price}'
            page.markup.append(f'<tr style="{rule}">{cells}')
        page.markup.append("</table>")
        page.markup += [row(key) for key in keys[split:]]
    if rng.random() < 0.3:
        small = max(SMALLEST_PX, round(page.px * 0.8))
        shown = page.printed(rng.choice(SMALL_PRINT), Note("heading"), f"font-size:{small}px")
        page.markup.append(f"<div>{shown}</div>")
    return page, fields


def chart_page(rng: random.Random) -> tuple[WebPage, Chart]:
    """Bars of boxes, upright or across, as web pages draw them."""
    page = some_page(rng, 24)
    chart = some_chart(rng)
    count, length = len(chart.labels), rng.randint(90, 190)
    colours = [css(accent(rng, page.ground)) for _ in range(count)]
    if rng.random() < 0.6:
        colours = colours[:1] * count
    most = max(chart.values) * rng.uniform(1.0, 1.15)
    if chart.title:
        size = round(page.px * rng.uniform(1.0, 1.3))
        title = page.printed(chart.title, Note("title"), f"font-size:{size}px;font-weight:600")
        page.markup.append(
            f'<div style="text-align:{rng.choice(("left", "center"))}">{title}</div>'
        )
    across = rng.random() < 0.25
    thick, gap = rng.randint(14, 44), rng.randint(4, 18)
    corner, axis = rng.choice((0, 0, 3, 8)), f"1px solid {css(toned(rng, page.ground, 90, 190))}"
    grid = ""
    if rng.random() < 0.35:
        pale, step = css(toned(rng, page.ground, 20, 50)), length / rng.randint(3, 6)
        grid = (f"background:repeating-linear-gradient({90 if across else 0}deg,{pale} 0 1px,"
                f"transparent 1px {step:.1f}px)")  # fmt: skip
    cells = []
    for i, (label, value) in enumerate(zip(chart.labels, chart.values, strict=True)):
        far = max(1.0, length * value / most)
        name = page.printed(label, bar_note(chart, i))
        number = ""
        if chart.values_printed:
            number = page.printed(str(value), Note("value", i + 1, count), "line-height:1.2")
        if across:
            bar = f"width:{far:.1f}px;height:{thick}px;border-radius:0 {corner}px {corner}px 0"
            bar = f'<div style="flex:none;background:{colours[i]};{bar}"></div>'
            cells.append(
                f'<div style="text-align:right">{name}</div><div style="display:flex;'
                f'align-items:center;gap:4px;width:max-content">{bar}{number}</div>'
            )
            continue
        bar = f"height:{far:.1f}px;width:{thick}px;border-radius:{corner}px {corner}px 0 0"
        bar = f'<div style="flex:none;background:{colours[i]};{bar}"></div>'
        cells.append(
            f'<div style="display:flex;flex-direction:column;align-items:center">'
            f'<div style="height:{length + page.px * 1.3:.0f}px;display:flex;'
            f"flex-direction:column;justify-content:flex-end;align-items:center;width:100%;"
            f'border-bottom:{axis};padding:0 {gap / 2:.0f}px">{number}{bar}</div>{name}</div>'
        )
    if across:
        around = f"display:grid;grid-template-columns:auto auto;gap:{gap}px 6px;{grid}"
    else:
        around = f"display:flex;align-items:flex-end;column-gap:{page.px // 3}px;{grid}"
    if not across and rng.random() < 0.4:
        around += f";border-left:{axis}"
    page.markup.append(f'<div style="{around}">{"".join(cells)}</div>')
    return page, chart


def screen_page(rng: random.Random) -> tuple[WebPage, Screen]:
    """An app's form or dialogue. The boxes come from the browser, which lays it out."""
    page = some_page(rng, 24)
    title, fields, buttons = some_names(rng)
    size = round(page.px * rng.uniform(1.0, 1.5))
    heading = page.printed(title, Note("title"), f"font-size:{size}px;font-weight:600")
    strip = toned(rng, page.ground, 10, 40)
    bar = f"background:{css(strip)};padding:4px 8px;" if rng.random() < 0.4 else ""
    page.markup.append(f'<div style="{bar}margin-bottom:{page.px // 2}px">{heading}</div>')
    corner, edge = rng.choice((0, 3, 8, 16)), css(toned(rng, page.ground, 60, 180))
    wide, high = rng.randint(120, 300), round(page.px * rng.uniform(1.4, 2.0))
    paper = css(toned(rng, page.ground, 0, 22))
    for i, name in enumerate(fields):
        label = page.printed(name, Note("field", i, len(fields)))
        box = f"width:{wide}px;height:{high}px;border:1px solid {edge};border-radius:{corner}px"
        page.markup.append(
            f'<div style="margin-bottom:{page.px // 2}px"><div>{label}</div>'
            f'<div data-box="{name}" style="{box};background:{paper}"></div></div>'
        )
    main = accent(rng, page.ground)
    light = (255, 255, 255) if sum(main) < 380 else (0, 0, 0)
    row = rng.choice(("row", "row", "column"))
    page.markup.append(
        f'<div style="display:flex;flex-direction:{row};gap:{rng.randint(5, 16)}px;'
        f'align-items:flex-start;justify-content:{rng.choice(("start", "center", "end"))}">'
    )
    for i, name in enumerate(buttons):
        hollow = rng.random() < (0.15 if not i else 0.35)
        look = (
            f"border:1px solid {css(page.ink)}"
            if hollow
            else f"background:{css(main)};border:1px solid {css(main)};color:{css(light)}"
        )
        pad = f"{round(page.px * rng.uniform(0.15, 0.5))}px {round(page.px * 0.8)}px"
        label = page.printed(name, Note("button", i, len(buttons)))
        page.markup.append(
            f'<div data-box="{name}" style="{look};padding:{pad};border-radius:{corner}px">'
            f"{label}</div>"
        )
    page.markup.append("</div>")
    nowhere: list[int] = []
    return page, Screen(title, dict.fromkeys(buttons, nowhere), dict.fromkeys(fields, nowhere))


PAGES = {
    "text": text_page,
    "invoice": invoice_page,
    "chart": chart_page,
    "screen": screen_page,
}
