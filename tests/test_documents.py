"""Pages of PDFs: what is on them, how they are chosen, and documents that mean harm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.pdf_files import PROTECTED, endless, pdf
from support.pictures import as_uri
from support.scripted_engine import ScriptedEngine
from test_api import CHAT, asking, assert_error, serving

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, NotFound, TooLarge, UnsupportedMedia, UserError
from qwen_vl.media.documents import as_ranges, read_pages

SETTINGS = Settings()
CODES = {400: "bad_request", 413: "too_large", 415: "unsupported_media", 422: "unsupported"}


def ink(image: Image.Image) -> float:
    """The share of dark pixels."""
    return float((np.asarray(image.convert("L")) < 128).mean())


def test_pages_become_pictures_of_150_dpi_with_what_is_written_on_them() -> None:
    document = read_pages(pdf(3), SETTINGS)
    assert document.page_count == 3
    assert [page.number for page in document.pages] == [1, 2, 3]
    images = [page.picture.decode() for page in document.pages]
    assert {image.size for image in images} == {(1240, 1755)}
    assert {image.getpixel((2, 2)) for image in images} == {(255, 255, 255)}
    assert all(ink(image) > 0.01 for image in images)
    assert len({image.tobytes() for image in images}) == 3


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        ("", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("1-3, 7", [1, 2, 3, 7]),
        ("12 , 2", [12, 2]),
        ("2，2–4", [2, 3, 4]),
    ],
)
def test_pages_are_chosen_as_people_write_them(chosen: str, numbers: list[int]) -> None:
    document = read_pages(pdf(12, size=(60, 60)), SETTINGS, chosen)
    assert document.page_count == 12
    assert [page.number for page in document.pages] == numbers


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("all", "Pages are written as in 1-3, 7."),
        ("1-", "Pages are written as in 1-3, 7."),
        ("13", "There is no such page: the document has 12."),
        ("3-2", "There is no such page"),
        ("0", "There is no such page"),
        ("1-9", "At most 8 pages of a document are taken at once."),
        ("1,2,3,4,5,6,7,8,9", "At most 8 pages"),
    ],
)
def test_other_choices_are_refused_in_words(chosen: str, words: str) -> None:
    with pytest.raises((BadRequest, TooLarge), match=words):
        read_pages(pdf(12, size=(60, 60)), SETTINGS, chosen)


def test_ranges_are_written_as_they_are_read() -> None:
    assert as_ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert as_ranges([4]) == "4"


def test_a_large_sheet_is_scaled_down() -> None:
    (page,) = read_pages(pdf(size=(2384, 3370)), SETTINGS).pages  # A0
    width, height = page.picture.size
    assert 7_000_000 < width * height <= 8_010_000
    assert width / height == pytest.approx(2384 / 3370, rel=1e-3)
    (page,) = read_pages(pdf(), replace(SETTINGS, max_image_megapixels=1)).pages
    assert 900_000 < page.picture.size[0] * page.picture.size[1] < 1_000_000


NO_PAGES = pdf(0)
CUT = pdf(3)[:200]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (PROTECTED, BadRequest, "protected by a password"),
        (b"%PDF-1.7\nnothing more", BadRequest, "damaged"),
        (CUT, BadRequest, "damaged|no pages"),
        (NO_PAGES, BadRequest, "no pages|damaged"),
        (b"", BadRequest, "empty"),
        (b"PK\3\4 a letter", UnsupportedMedia, "Send a PDF"),
        (pdf(size=(20_000, 20_000)), TooLarge, "more than 5 metres"),
        (pdf(size=(10_000, 20)), BadRequest, "at most 200 times as long as wide"),
    ],
    ids=["protected", "broken", "cut", "no pages", "empty", "no PDF", "huge", "ribbon"],
)
def test_what_cannot_be_read_is_refused_in_words(
    data: bytes, error: type[UserError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_pages(data, SETTINGS)


def test_an_endless_document_ends_in_time_and_the_next_one_is_read() -> None:
    ends = "takes longer than 1 seconds|needs more memory"  # whichever it reaches first
    with pytest.raises(TooLarge, match=ends):
        read_pages(endless(), replace(SETTINGS, max_extract_seconds=1))
    assert read_pages(pdf(), SETTINGS).page_count == 1


def test_files_are_bounded_and_may_be_gone(tmp_path: Path) -> None:
    (tmp_path / "long.pdf").write_bytes(pdf(2) + bytes(100_000))
    with pytest.raises(TooLarge, match=r"larger than 0\.05 MB"):
        read_pages(tmp_path / "long.pdf", replace(SETTINGS, max_document_mb=0.05))
    with pytest.raises(NotFound, match="Add it again"):
        read_pages(tmp_path / "gone.pdf", SETTINGS)
    assert len(read_pages(tmp_path / "long.pdf", SETTINGS).pages) == 2


def as_file(data: bytes, **more: Any) -> dict[str, Any]:
    file = {"filename": "report.pdf", "file_data": as_uri(data, "application/pdf")}
    return {"type": "file", "file": file, **more}


def test_the_api_takes_documents_as_openai_does() -> None:
    engine = ScriptedEngine("a")
    question = {"type": "text", "text": "What does it say?"}
    with serving(engine, SETTINGS) as client:
        for part in (as_file(pdf(3)), as_file(pdf(12, size=(60, 60)), pages="2-3, 12")):
            response = client.post(CHAT, json=asking([part, question]))
            assert response.status_code == 200, response.text
    first, second = (request[0][0] for request in engine.requests)
    assert [part.image.size for part in first.images] == [(1240, 1755)] * 3
    assert len(second.images) == 3
    assert second.text == "What does it say?"


@pytest.mark.parametrize(
    ("part", "status"),
    [
        ({"type": "file"}, 400),
        ({"type": "file", "file": {"file_id": "file-1"}}, 422),
        ({"type": "file", "file": {"file_data": "https://example.com/a.pdf"}}, 400),
        (as_file(b"no document"), 415),
        (as_file(PROTECTED), 400),
        (as_file(pdf(3), pages="9"), 400),
        (as_file(pdf(3), pages=2), 400),
        (as_file(pdf(3) + bytes(300_000)), 413),
    ],
)
def test_the_api_refuses_bad_documents_in_words(part: dict[str, Any], status: int) -> None:
    with serving(ScriptedEngine("a"), Settings(max_document_mb=0.25)) as client:
        response = client.post(CHAT, json=asking([part, {"type": "text", "text": "Hi"}]))
    assert response.status_code == status, response.text
    assert_error(response.json(), CODES[status])
