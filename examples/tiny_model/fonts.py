"""Fonts and glyph widths for the drawn pictures.

Knows where fonts come from and how wide a character is in them. Knows nothing of what the
pictures show, of questions, or of tokens.
"""

from __future__ import annotations

import functools

from PIL import ImageFont

# DejaVu comes with most Linux systems; Pillow finds fonts by file name. What is missing is skipped.
FONT_FILES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
)
# What other people print with. Training takes those that the system has.
WIDE_FILES = tuple(
    f"{name}.ttf"
    for name in (
        "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansCondensed",
        "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold",
        "LiberationSans-Regular", "LiberationSans-Bold", "LiberationSans-Italic",
        "LiberationSerif-Regular", "LiberationSerif-Bold", "LiberationMono-Regular",
        "LiberationMono-Bold", "LiberationSansNarrow-Regular", "Roboto-Regular", "Roboto-Medium",
        "Roboto-Bold", "Roboto-Light", "RobotoCondensed-Regular", "OpenSans-Regular",
        "OpenSans-Semibold", "Lato-Regular", "Lato-Bold", "Lato-Medium", "Hack-Regular",
        "Carlito-Regular", "Carlito-Bold", "Caladea-Regular", "NotoMono-Regular",
    )
)  # fmt: skip
BUILT_IN = "built-in"  # the font inside Pillow, if the system has none of these

# What may be printed on a picture. Rare marks are left out: every character has to be learnt.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
MARKS = ".,:;-/#$%&@+*()!?'\"=_€"
CHARS = DIGITS + LETTERS + MARKS


@functools.cache
def font_names(wide: bool = False) -> tuple[str, ...]:
    """The names of the fonts that can be loaded here, or else the one inside Pillow."""
    found = []
    for name in WIDE_FILES if wide else FONT_FILES:
        try:
            ImageFont.truetype(name, 16)
        except OSError:
            continue
        found.append(name)
    return tuple(found) or (BUILT_IN,)


@functools.cache
def load_font(name: str, size_px: int) -> ImageFont.FreeTypeFont:
    """The font `name` at an em size of `size_px` pixels."""
    if name == BUILT_IN:
        return ImageFont.load_default(size_px)
    return ImageFont.truetype(name, size_px)


@functools.cache
def char_width(name: str, size_px: int, char: str) -> float:
    """How far one character moves the pen, in pixels (kerning left out)."""
    return load_font(name, size_px).getlength(char)


def char_centres(name: str, size_px: int, text: str) -> list[float]:
    """The x of the middle of each character of `text`, from the start of the line, in pixels."""
    total = load_font(name, size_px).getlength(text)
    widths = [char_width(name, size_px, char) for char in text]
    # Kerning moves glyphs a little: spread the difference evenly, a centre needs no more.
    scale = total / max(1e-6, sum(widths))
    centres, x = [], 0.0
    for width in widths:
        centres.append((x + width / 2) * scale)
        x += width
    return centres
