"""Which of several pictures a text speaks of, in English and Chinese. Knows words only."""

from __future__ import annotations

import re
from collections.abc import Iterator

_ORDINALS = {
    **{word: n for n, word in enumerate("first second third fourth fifth sixth".split(), 1)},
    **{digit: n for n, digit in enumerate("一二三四五六七八九十", 1)},
    "两": 2,
    "last": 0,
    "最后": 0,
}
_NOUN = r"(?:picture|image|photo|figure|fig\.?|page)"
_MENTION = re.compile(
    rf"\b{_NOUN}\s*(?:no\.?|number|#)?\s*(?P<after>\d{{1,3}})\b"
    rf"|\b(?P<word>first|second|third|fourth|fifth|sixth|last|\d{{1,3}}(?=st|nd|rd|th))"
    rf"(?:st|nd|rd|th)?\s+{_NOUN}\b"
    r"|第\s*(?P<zh>\d{1,3}|[一二三四五六七八九十])\s*[张幅页个]"
    r"|(?P<final>最后)一?[张幅页]"
    r"|图[片像]?\s*(?P<figure>\d{1,3}|[一二三四五六七八九十](?![个种类张]))",
    re.IGNORECASE,
)


def mentions(text: str, count: int) -> Iterator[tuple[int, int]]:
    """(index in the text, number of the picture, 1..count) of each mention of one of `count`."""
    for match in _MENTION.finditer(text):
        name = next(group for group in match.groups() if group).lower()
        number = int(name) if name.isdecimal() else _ORDINALS[name] or count
        if 1 <= number <= count:
            yield match.start(), number


def only_mention(text: str, count: int) -> int | None:
    """The number of the picture that the text speaks of; None for none and for several."""
    named = {number for _, number in mentions(text, count)}
    return named.pop() if len(named) == 1 else None
