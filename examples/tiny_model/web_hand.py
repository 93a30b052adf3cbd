"""Pictures drawn by a browser: pages of HTML and CSS, and where each of their characters lies.

Training needs the browser only while pictures are drawn ahead (`draw.py`). Knows the browser.
Knows nothing of what the pages say.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from documents import Screen, share
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from reading import Line
from shards import Facts
from web_pages import PAGES, WebPage
from wide_documents import MOST_SIDE, sides

FLAGS = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--font-render-hinting=none")

# Each printed element's characters with their middles, and each box, in CSS pixels.
_MEASURE = """() => {
  const rect = (r) => [r.left, r.top, r.right, r.bottom];
  const prints = [...document.querySelectorAll('[data-n]')].map((element) => {
    const node = element.firstChild, range = document.createRange(), chars = [];
    for (let i = 0; i < node.length; i++) {
      range.setStart(node, i); range.setEnd(node, i + 1);
      chars.push(rect(range.getBoundingClientRect()));
    }
    const px = parseFloat(getComputedStyle(element).fontSize);
    return {n: +element.dataset.n, text: node.data, px, chars};
  });
  const boxes = [...document.querySelectorAll('[data-box]')].map(
    (element) => [element.dataset.box, rect(element.getBoundingClientRect())]);
  return {prints, boxes, size: rect(document.getElementById('page').getBoundingClientRect())};
}"""
_RESIZE = """([width, height]) => Object.assign(
  document.getElementById('page').style, {width: width + 'px', height: height + 'px'})"""


class WebHand:
    """A browser's page on which pictures are drawn, one after the other."""

    def __init__(self, tab: Page) -> None:
        self._tab = tab

    def draw(self, task: str, rng: random.Random) -> tuple[Image.Image, tuple[Line, ...], Facts]:
        """A picture of the task, what is printed where, and its facts.

        Pages that grow too large, or whose print is cut off or overlaps, are drawn anew.
        """
        while True:
            page, facts = PAGES[task](rng)
            drawn = self._draw(rng, page)
            if drawn is None:
                continue
            image, lines, boxes = drawn
            if isinstance(facts, Screen):
                facts = Screen(
                    facts.title,
                    {name: boxes[name] for name in facts.buttons},
                    {name: boxes[name] for name in facts.fields},
                )
            return image, lines, facts

    def _draw(
        self, rng: random.Random, page: WebPage
    ) -> tuple[Image.Image, tuple[Line, ...], dict[str, list[int]]] | None:
        self._tab.set_content(page.html())
        _, _, need_w, need_h = self._tab.evaluate(_MEASURE)["size"]
        width, height = size = sides(rng, need_w, need_h)
        if max(size) > MOST_SIDE:
            return None
        self._tab.evaluate(_RESIZE, size)
        found = self._tab.evaluate(_MEASURE)
        rects = [_around(part["chars"]) for part in found["prints"]]
        if any(
            left < 0 or top < -1 or right > width or bottom > height + 1
            for left, top, right, bottom in rects
        ) or _overlap(rects):
            return None
        boxes = {name: share(tuple(box), size) for name, box in found["boxes"]}
        lines = []
        for part, rect in zip(found["prints"], rects, strict=True):
            note = page.notes[part["n"]]
            if note.role in ("field", "button"):
                note = replace(note, box=tuple(boxes[part["text"]]))
            middles = tuple(round((char[0] + char[2]) / 2, 2) for char in part["chars"])
            middle = round((rect[1] + rect[3]) / 2, 2)
            lines.append(Line(part["text"], "", round(part["px"]), rect[0], middle, note, middles))
        clip = {"x": 0, "y": 0, "width": width, "height": height}
        shot = self._tab.screenshot(clip=clip)
        return Image.open(io.BytesIO(shot)).convert("RGB"), tuple(lines), boxes


def _around(chars: list[list[float]]) -> tuple[float, float, float, float]:
    lefts, tops, rights, bottoms = zip(*chars, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _overlap(rects: list[tuple[float, float, float, float]]) -> bool:
    # Line boxes of tight lines may touch; three tenths of a line are no accident.
    for i, one in enumerate(rects):
        for two in rects[:i]:
            across = min(one[2], two[2]) - max(one[0], two[0])
            down = min(one[3], two[3]) - max(one[1], two[1])
            if across > 1 and down > 0.3 * min(one[3] - one[1], two[3] - two[1]):
                return True
    return False


@contextmanager
def web_hand(chromium: str) -> Iterator[WebHand]:
    """A browser started from the executable `chromium`, closed at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        tab = browser.new_page(viewport={"width": 2 * MOST_SIDE, "height": 2 * MOST_SIDE})
        yield WebHand(tab)
        browser.close()
