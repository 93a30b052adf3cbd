"""Text of models, users and servers -> what the page may render, and back.

The browser's parser alone decides what is code. So an invisible letter goes wherever text could
turn into something else, in code too. Behind `<` it makes a tag impossible in every parser: by the
HTML standard a tag begins with `<` and, right behind it, a letter, `/`, `!` or `?`. The page's
script takes the letter out of copied text. Gradio's sanitizer stays on behind this. Knows nothing
of Gradio.
"""

from __future__ import annotations

import re
from html import escape

INVISIBLE = "\ufeff"  # takes no room; Markdown's rules for * and _ count it as a space
FORMULA = 2 * INVISIBLE  # inside of both `$` of a formula: a price has none
# A formula in one line: no blank inside of its `$`, and no letter or digit outside; no amounts.
_DOLLARS = re.compile(
    r"(?<![\\$\w])\$(?!\$|\s|[\d.,]+\s+[^\W\d_]{2})((?:[^$\\\n]|\\.)+?)(?<![\s\\])\$(?![$\w])"
)
# Tags; code and formulas keep the harmless "<" (a < b, <=). Links and pictures, and definitions of
# either, that lead anywhere but to a web address, a mail address or a place in the text.
_TAG = re.compile(r"(?<=<)(?![ \n\d<=|-])|(?<=\])(?=[(:](?! ?(?:https?://|mailto:|#)))")
# What would format or quote; not code, which is shown as code.
_FORMAT = re.compile(r"(?<=[<*_\\&$\]])|(?=~)|^(?=[\d\s#>+\-=|*_])", re.MULTILINE)
_MARKDOWN = re.compile(r"[\\`*_\[\]<>&!~$|#]")


def to_page(text: str) -> str:
    """A model's Markdown; its tags and odd links are shown, not rendered."""
    marked = _DOLLARS.sub(rf"${FORMULA}\1{FORMULA}$", from_page(text))
    return _TAG.sub(INVISIBLE, marked)


def as_typed(text: str) -> str:
    """What a user typed, to be shown as it is, except that code looks like code."""
    return _FORMAT.sub(INVISIBLE, from_page(text))


def from_page(text: str) -> str:
    """The text as it was written, from either form, without the invisible letter."""
    return text.replace(INVISIBLE, "")


def plain(text: str) -> str:
    """Text to show as it is, where nobody reads it back, such as a model's id."""
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", text)


def toast(text: str) -> str:
    """Text that is shown as it is where Gradio renders HTML."""
    return escape(text, quote=False)
