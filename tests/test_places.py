"""What `places` promises: a place is shown on its picture, or the page asks which that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.places import places_told

from qwen_vl.families import FAMILIES
from qwen_vl.schema import ImagePart, Message, TextPart
from qwen_vl.ui.mentions import mentions, only_mention
from qwen_vl.ui.places import Places
from qwen_vl.ui.regions import Region

QWEN3, QWEN2_5 = FAMILIES["qwen3_vl"], FAMILIES["qwen2_5_vl"]
CAR = '{"bbox_2d": [100, 200, 300, 400], "label": "car"}'
SIZES = [(560, 280), (280, 560), (64, 48)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


def asked(question: str, pictures: int) -> Message:
    images = [ImagePart(Image.new("RGB", size, "red")) for size in SIZES[:pictures]]
    return Message("user", (*images, TextPart(question)))


def said(text: str = "") -> Message:
    return Message("assistant", (TextPart(text),))


def told(messages: list[Message], answer: str, family: Any = QWEN3) -> dict[str, Any]:
    (turn,) = Places(messages, family, 1280).turns(answer, True, "en")
    return places_told(turn)


def numbers(messages: list[Message], answer: str) -> list[int] | str:
    """The numbers of the pictures with places; "asked" where the page asks."""
    shown = told(messages, answer)
    return "asked" if shown["asked"] else [one["number"] for one in shown["pictures"]]


@pytest.mark.parametrize(
    ("messages", "answer", "where"),
    [
        ([asked("where?", 1)], CAR, [1]),
        ([asked("where is it in picture 1?", 2)], CAR, [1]),
        ([asked("the diamond in the second image, please", 2)], CAR, [2]),
        ([asked("第一张图里的菱形在哪里？", 2)], CAR, [1]),
        ([asked("where?", 2)], f"In image 2 there is one: {CAR}", [2]),
        ([asked("where?", 2)], f"Picture 1: {CAR} Picture 2: {CAR[:-1]}, \"n\": 1}}", [1]),
        ([asked("where?", 3)], '[{"image": 3, "bbox_2d": [1, 2, 3, 4]}]', [3]),
        ([asked("where?", 2)], '[{"image_index": 0, "point_2d": [1, 2]}]', [1]),
        ([asked("both", 2)], '[{"bbox_2d": [1, 2, 3, 4], "label": "cat (image 1)"}, '
         '{"bbox_2d": [1, 2, 3, 9], "label": "cat (image 2)"}]', [1, 2]),
        ([asked("first", 1), said(), asked("where?", 1)], CAR, [2]),
        ([asked("first", 1), said(), asked("where in picture 1?", 1)], CAR, [1]),
        ([asked("one", 1), said(), asked("where in picture 2?", 2)], CAR, [3]),
        ([asked("where?", 2)], CAR, "asked"),
        ([asked("picture 1 or picture 2?", 2)], CAR, "asked"),
        ([asked("one", 1), said(), asked("two", 1), said(), asked("cat?", 0)], CAR, "asked"),
    ],
)  # fmt: skip
def test_the_picture_that_is_meant(messages: list[Message], answer: str, where: Any) -> None:
    assert numbers(messages, answer) == where


def test_when_it_is_asked_all_pictures_are_there_to_choose_from() -> None:
    shown = told([asked("where?", 2)], CAR)
    assert [one["number"] for one in shown["pictures"]] == [1, 2]
    assert [len(one["marks"]) for one in shown["pictures"]] == [1, 1]


def test_the_answer_is_asked_about_at_its_end_and_not_before() -> None:
    places = Places([asked("where?", 2)], QWEN3, 1280)
    assert places.turns(CAR, False, "en") == []
    assert len(places.turns(CAR, True, "en")) == 1


def test_places_come_one_by_one_while_an_answer_is_written() -> None:
    places = Places([asked("where?", 1)], QWEN3, 1280)
    answer = f"```json\n[{CAR}, {CAR.replace('100', '50')}]\n```"
    counts = []
    for end in range(len(answer)):
        turns = places.turns(answer[:end], False, "en")
        counts.append(len(places_told(turns[0])["pictures"][0]["marks"]) if turns else 0)
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2}


def test_pixels_of_the_resized_picture_become_thousandths_of_the_very_one() -> None:
    messages = [asked("in picture 2", 2)]
    answer = '{"bbox_2d": [28, 56, 140, 280], "label": "car"}'
    (shown,) = told(messages, answer, QWEN2_5)["pictures"]
    assert (shown["width"], shown["height"]) == SIZES[1]
    assert shown["marks"][0]["at"] == [100, 100, 500, 500]


def test_the_browser_gets_the_picture_as_the_model_saw_it() -> None:
    (shown,) = told([asked("where?", 1)], CAR)["pictures"]
    with Image.open(shown["path"]) as image:
        assert image.size == SIZES[0]
        assert image.getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=3)


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        (CAR, "places"),
        ('<h1 data-bbox="1 2 3 4">Title</h1>', "html"),
        ("# Title\n<!-- Image (1, 2, 3, 4) -->", "markdown"),
    ],
)
def test_documents_are_told_apart(answer: str, form: str) -> None:
    shown = told([asked("qwenvl", 1)], answer)
    assert shown["form"] == form
    assert shown.get("html") == (answer if form == "html" else None)


def test_nothing_that_a_model_writes_ends_the_fence_or_becomes_a_tag() -> None:
    label = "```\n<img src=x onerror=alert(1)> `"
    answer = json.dumps({"bbox_2d": [1, 2, 3, 4], "label": label})
    (turn,) = Places([asked("where?", 1)], QWEN3, 1280).turns(answer, True, "en")
    assert "<img" not in turn["content"][0]["text"]
    assert places_told(turn)["pictures"][0]["marks"][0]["label"] == " ".join(label.split())


@pytest.mark.parametrize(
    ("text", "count", "named"),
    [
        ("Image 2 and then picture 1", 2, [2, 1]),
        ("the last photo", 3, [3]),
        ("图2里有什么？最后一张图呢？", 3, [2, 3]),
        ("第三张", 3, [3]),
        ("picture 4", 3, []),
        ("There are 3 pictures; 4 shapes; 图中有4个图形", 5, []),
    ],
)
def test_mentions_of_pictures(text: str, count: int, named: list[int]) -> None:
    assert [number for _, number in mentions(text, count)] == named
    assert only_mention(text, count) == (named[0] if len(named) == 1 else None)


def test_a_drawn_region_is_asked_about_as_the_model_counts() -> None:
    region = Region.model_validate_json('{"picture": 2, "at": [100, 100, 500, 500]}')
    assert "[100, 100, 500, 500]" in region.words(SIZES[1], QWEN3, 1280, "en")
    assert "[28, 56, 140, 280]" in region.words(SIZES[1], QWEN2_5, 1280, "en")
    assert only_mention(region.words(SIZES[1], QWEN3, 1280, "zh"), 3) == 2
