"""Text of models, users and servers -> what the page may render, and back.

The page renders Markdown in the browser, with a parser of its own. No `<` that could begin a tag
reaches it, in code or outside of it, so no two parsers have to agree on what is code: an invisible
letter stands behind it. By the HTML standard a tag begins with `<` and a letter, `/`, `!` or `?`
right behind it; with anything else there it is text, in every parser. Knows nothing of Gradio; its
sanitizer stays on behind this, and the page's script takes the letter out of what is copied.
"""

from __future__ import annotations

import re
from html import escape

INVISIBLE = "\u2060"  # word joiner: takes no room, and no font draws it
_OPENING = re.compile(r"<(?![ \n\d<=|-])")  # code and formulas keep the harmless ones: a < b, <=
_MARKDOWN = re.compile(r"[\\`*_\[\]<>&!~$|#]")


def to_page(text: str) -> str:
    """Markdown whose tags are shown, not rendered."""
    return _OPENING.sub("<" + INVISIBLE, text)


def from_page(text: str) -> str:
    """The inverse of `to_page`: what was written."""
    return text.replace("<" + INVISIBLE, "<")


def plain(text: str) -> str:
    """Text that is shown as it is where the page renders Markdown, such as a model's id."""
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", text)


def toast(text: str) -> str:
    """Text that is shown as it is where Gradio renders HTML, as in its toasts."""
    return escape(text)
