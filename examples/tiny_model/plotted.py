"""Bar charts drawn by Matplotlib. Training needs it; the model and its evaluation do not.

Knows Matplotlib and where it puts its print. Knows nothing of questions or of tokens.
"""

from __future__ import annotations

import random

import numpy as np
from documents import Chart, Printer
from PIL import Image
from reading import Note
from wide_documents import accent, bar_note, some_chart

try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
except ImportError:  # training then does without these charts
    pyplot = None

STYLES = ("default", "default", "classic", "ggplot", "bmh", "dark_background", "fivethirtyeight",
          "seaborn-v0_8-whitegrid", "seaborn-v0_8-darkgrid", "Solarize_Light2")  # fmt: skip
# Matplotlib brings these three along, by the names that Pillow knows them by.
FAMILIES = {
    "DejaVu Sans": ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    "DejaVu Serif": ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
    "DejaVu Sans Mono": ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
}
PALETTES = ("tab10", "Set2", "Pastel1", "viridis", "Dark2", "Paired")


def draw_chart(rng: random.Random, ease: float = 0.0) -> tuple[Printer, Chart]:
    """A bar chart with any of Matplotlib's looks. `ease` changes nothing."""
    chart = some_chart(rng)
    family = rng.choice(list(FAMILIES))
    px, dpi = rng.randint(13, 20), 100
    across = rng.random() < 0.2
    settings = {
        "font.family": family,
        "font.size": px * 72 / dpi,
        "axes.titlesize": px * 72 / dpi * rng.choice((1.0, 1.2)),
        "xtick.labelsize": px * 72 / dpi,
        "ytick.labelsize": px * 72 / dpi,
    }
    with pyplot.style.context([rng.choice(STYLES), settings]):
        wide = max(2.4, 0.011 * px * sum(map(len, chart.labels)) * 0.75 + 1.0)
        if across:
            wide = rng.uniform(2.6, 4.2)
        figure = pyplot.figure(
            figsize=(min(5.1, wide * rng.uniform(1, 1.4)), rng.uniform(2.0, 3.6)), dpi=dpi
        )
        axes = figure.add_subplot()
        try:
            return _draw(rng, figure, axes, chart, across, family), chart
        finally:
            pyplot.close(figure)


def _draw(rng: random.Random, figure, axes, chart: Chart, across: bool, family: str) -> Printer:
    count = len(chart.labels)
    thick = rng.uniform(0.4, 0.9)
    colours: object = None
    how = rng.random()
    if how < 0.35:
        colours = list(pyplot.get_cmap(rng.choice(PALETTES))(np.linspace(0, 0.9, count)))
    elif how < 0.65:
        colours = [tuple(part / 255 for part in accent(rng, (128, 128, 128)))] * count
    edge = {"edgecolor": "black"} if rng.random() < 0.2 else {}
    draw = axes.barh if across else axes.bar
    bars = draw(chart.labels, chart.values, thick, color=colours, **edge)
    if across:
        axes.invert_yaxis()  # the first on top, as it is read
    values = []
    if chart.values_printed:
        kind = "center" if colours is None and rng.random() < 0.4 else "edge"
        values = axes.bar_label(bars, label_type=kind, padding=2)
        axes.margins(**{"x" if across else "y": 0.18})
    if chart.title:
        axes.set_title(chart.title)
    if rng.random() < 0.4:
        axes.grid(axis="x" if across else "y", alpha=rng.uniform(0.3, 1))
        axes.set_axisbelow(True)
    if rng.random() < 0.4:
        axes.spines[["top", "right"]].set_visible(False)
    if rng.random() < 0.3:
        (axes.set_xticks if across else axes.set_yticks)([])
    figure.tight_layout(pad=0.6)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    printer = Printer((pixels.shape[1], pixels.shape[0]), (255, 255, 255))
    printer.image.paste(Image.fromarray(pixels))
    names = axes.get_yticklabels() if across else axes.get_xticklabels()
    numbers = axes.get_xticklabels() if across else axes.get_yticklabels()

    def note(text, role: Note) -> None:
        box = text.get_window_extent()
        inside = box.y0 < pixels.shape[0] and 0 <= box.x0 < pixels.shape[1]
        if text.get_text() and inside:
            size = round(text.get_fontsize() * figure.dpi / 72)
            font = FAMILIES[family][text.get_fontweight() in ("bold", 700)]
            middle = pixels.shape[0] - (box.y0 + box.y1) / 2
            printer.note(text.get_text(), font, size, box.x0, middle, role)

    for i, text in enumerate(names):
        note(text, bar_note(chart, i))
    for i, text in enumerate(values):
        note(text, Note("value", i + 1, count))
    low, high = axes.get_xlim() if across else axes.get_ylim()
    for text in numbers:
        # A minus sign or a power of ten is not among the characters to learn.
        shows = low <= text.get_position()[0 if across else 1] <= high
        if shows and text.get_text().replace(".", "").isdigit():
            note(text, Note("heading"))
    note(axes.title, Note("title"))
    return printer
