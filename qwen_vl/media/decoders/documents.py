"""One untrusted PDF -> pictures of its pages: RGB, upright, bounded. Runs in a worker.

Knows PDFium, and how pages are chosen ("1-3, 7"). Whatever a document wants to do besides being
looked at (scripts, links, attached files) does not happen. Fonts that it does not bring along are
replaced by PDFium's own: no file can be opened here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pypdfium2 as pdfium
from pypdfium2 import raw

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge
from qwen_vl.media.limits import check_size

POINTS_PER_INCH = 72
DPI = 150  # small print of 6 points is some 12 px high: models read it
MAX_PAGE_PIXELS = 8_000_000  # larger sheets than A2 get fewer dpi
MAX_PAGE_POINTS = 14_400  # PDF's own limit without a unit of its own: 200 inches, 5 m
_RANGE = re.compile(r"(\d{1,9})(?:\s*[-–—~]\s*(\d{1,9}))?", re.ASCII)
_PROTECTED = (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY)
Message = tuple[dict[str, Any], bytes]


def read(data: bytes, request: dict[str, Any], settings: Settings) -> Iterator[Message]:
    """`request` has the pages that were `chosen`, as a person writes it; "" are the first ones.

    Yields {"page_count": n}, then for each page {"page": number, "size": [width, height]} in px
    with its pixels, RGB.
    """
    document = _open(data)
    count = len(document)
    numbers = page_numbers(request["chosen"], count, settings.max_document_pages)
    yield {"page_count": count}, b""
    for number in numbers:
        yield _page(document, number, settings)


def page_numbers(chosen: str, count: int, most: int) -> list[int]:
    """ "1-3, 7" -> [1, 2, 3, 7], in this order, each once; "" is the first `most` of `count`.

    Raises BadRequest (written in another way, no such page) and TooLarge (more than `most`).
    """
    if not chosen.strip():
        return list(range(1, min(count, most) + 1))
    numbers: dict[int, None] = {}
    for piece in re.split(r"[,;，、；]", chosen):
        if not (found := _RANGE.fullmatch(piece.strip())):
            raise BadRequest("Pages are written as in 1-3, 7.")
        first, last = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= last <= count:
            raise BadRequest(f"There is no such page: the document has {count}.")
        if last - first >= most or len(numbers) > most:
            break
        numbers |= dict.fromkeys(range(first, last + 1))
    else:
        if len(numbers) <= most:
            return list(numbers)
    raise TooLarge(f"At most {most} pages of a document are taken at once. Choose fewer.")


def _open(data: bytes) -> pdfium.PdfDocument:
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if error.err_code in _PROTECTED:
            raise BadRequest(
                "The document is protected by a password. Send a copy without one."
            ) from None
        raise BadRequest(_DAMAGED) from None
    if not len(document):
        raise BadRequest("The document has no pages. Send another one.")
    document.init_forms()  # what was filled in is shown
    return document


def _page(document: pdfium.PdfDocument, number: int, settings: Settings) -> Message:
    try:
        page = document[number - 1]
    except pdfium.PdfiumError:
        raise BadRequest(_DAMAGED) from None
    width, height = page.get_size()
    if max(width, height) > MAX_PAGE_POINTS:
        raise TooLarge(f"Page {number} of the document is more than 5 metres long. Leave it out.")
    most_pixels = min(MAX_PAGE_PIXELS, settings.max_image_megapixels * 990_000)  # sides round up
    scale = min(DPI / POINTS_PER_INCH, (most_pixels / max(1.0, width * height)) ** 0.5)
    check_size(round(width * scale), round(height * scale), settings, "page")
    try:
        bitmap = page.render(scale=scale, rev_byteorder=True)
    except pdfium.PdfiumError:
        raise BadRequest(_DAMAGED) from None
    picture = bitmap.to_pil().convert("RGB")
    page.close()
    return {"page": number, "size": picture.size}, picture.tobytes()


_DAMAGED = "The document is damaged and cannot be read. Save it as PDF again and send the new file."
