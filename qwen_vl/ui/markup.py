"""Model text <-> Markdown that shows HTML as text instead of rendering it.

Outside of code, a `<` that would begin a tag becomes an entity for the page; `from_page` gives the
model its own words back. Knows nothing of Gradio; its sanitizer stays on behind this.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# Fenced code (the closing fence may not have come yet), then inline code of any number of ticks,
# which ends with its paragraph.
_CODE = re.compile(
    r"(^[ ]{0,3}(?P<fence>`{3,}|~{3,}).*?(?:^[ ]{0,3}(?P=fence)|\Z)"
    r"|(?<![\\`])(?P<tick>`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=tick)(?!`))",
    re.DOTALL | re.MULTILINE,
)
_TAG = re.compile(r"<(?=[a-zA-Z/!?])|&(?=(?:amp;)*lt;)")
_ENTITY = re.compile(r"&lt;(?=[a-zA-Z/!?])|&amp;(?=(?:amp;)*lt;)")


def to_page(text: str) -> str:
    """HTML outside of code becomes visible text."""
    return _outside_code(text, lambda part: _TAG.sub(_escape, part))


def from_page(text: str) -> str:
    """The inverse of `to_page`."""
    return _outside_code(text, lambda part: _ENTITY.sub(_unescape, part))


def _escape(found: re.Match[str]) -> str:
    return "&lt;" if found[0] == "<" else "&amp;"


def _unescape(found: re.Match[str]) -> str:
    return "<" if found[0] == "&lt;" else "&"


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts: list[str] = []
    end = 0
    for code in _CODE.finditer(text):
        parts += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(text[end:])])
