"""What the page says while an answer has no words yet: its place, what is read, how long it takes.

Knows how far a request is, and words; knows nothing of engines.
"""

from __future__ import annotations

from qwen_vl.schema import Standing
from qwen_vl.ui.strings import say

LONG_S = 3.0  # what takes less is over before it is read
LONG_MIN = 2  # from then on nobody counts seconds


def duration(seconds: float, lang: str) -> str:
    """About how long something takes: whole seconds, or minutes."""
    minutes = round(seconds / 60)
    if minutes >= LONG_MIN:
        return say("minutes", lang, n=minutes)
    return say("seconds", lang, n=max(1, round(seconds)))


def waiting_words(standing: Standing | None, waited_s: float, lang: str) -> str:
    """One line; `standing` is None where the engine does not tell how far it is."""
    seconds = f"{waited_s:.0f}"
    if standing is None or (not standing.place and not standing.done and not standing.picture):
        return say("wait_first", lang, seconds=seconds)
    if standing.place:
        return say("wait_place", lang, n=standing.place, seconds=seconds)
    percent = int(100 * standing.done)
    words = say("wait_prompt", lang, percent=percent)
    if standing.picture:
        n, of_all = standing.picture, standing.pictures
        words = say("wait_picture", lang, n=n, all=of_all, percent=percent)
    if standing.left_s is not None and standing.left_s >= LONG_S:
        words += say("wait_left", lang, time=duration(standing.left_s, lang))
    return words
