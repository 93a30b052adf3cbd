"""What `grounding` promises: places are found in every form of answer."""

from __future__ import annotations

import json

import pytest

from qwen_vl.ui.grounding import Box, Point, find, names_places, parse

CAR = Box(100, 200, 300, 400, "car")
DOG = Box(500, 500, 600, 900, "dog")
EYE = Point(250, 750, "eye")
CAR_JSON = '{"bbox_2d": [100, 200, 300, 400], "label": "car"}'
DOG_JSON = '{"bbox_2d": [500, 500, 600, 900], "label": "dog"}'
EYE_JSON = '{"point_2d": [250, 750], "label": "eye"}'


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        (f"```json\n[\n\t{CAR_JSON},\n\t{DOG_JSON}\n]\n```", [CAR, DOG]),
        (f"[{CAR_JSON},{EYE_JSON}]", [CAR, EYE]),
        (CAR_JSON, [CAR]),
        (f"Here: [{CAR_JSON}] and also [{DOG_JSON}]. Anything else {{you}} need?", [CAR, DOG]),
        (f'{{"objects": [{CAR_JSON}], "points": {{"first": {EYE_JSON}}}}}', [CAR, EYE]),
        ('{"label": "car", "color": "red", "bbox_2d": [100.0, "200", 300, 4e2], "n": null}', [CAR]),
        (
            '{"label": "car", "bbox_2d": [[100,200,300,400], [1,2,3,4]]}',
            [CAR, Box(1, 2, 3, 4, "car")],
        ),
        ("{'bbox_2d': [100, 200, 300, 400], 'label': 'car'}", [CAR]),
        ('{"bbox_2d": [1, 2, 3, 4], "text_content": "a {brace}"}', [Box(1, 2, 3, 4, "a {brace}")]),
        ('{"bbox_2d": [1, 2, 3, 4]}', [Box(1, 2, 3, 4)]),
        (f"[{CAR_JSON}, {CAR_JSON}, {DOG_JSON}]", [CAR, DOG]),  # a model that repeats itself
        (
            '<h2 class="title" data-bbox="1 2 3 4">T</h2><p data-bbox="5 6 7 8">',
            [Box(1, 2, 3, 4, "title"), Box(5, 6, 7, 8, "p")],
        ),
        ("# T\n<!-- Image (115, 270, 475, 495) -->\ntext", [Box(115, 270, 475, 495, "Image")]),
        ("", []),
        ("There is nothing to see, [1, 2, 3, 4] {and} so on.", []),
    ],
)
def test_forms_of_answers(text, marks):
    assert parse(text) == marks


def test_every_beginning_of_an_answer():
    """While it streams, marks only come, never go or move; a label may come a moment later."""
    text = f"Sure!\n```json\n[{CAR_JSON}, {EYE_JSON}, {DOG_JSON}]\n```\nDone."
    places = [(100, 200, 300, 400), (250, 750), (500, 500, 600, 900)]
    before = 0
    for end in range(len(text) + 1):
        found = [
            (m.x, m.y) if isinstance(m, Point) else (m.x1, m.y1, m.x2, m.y2)
            for m in parse(text[:end])
        ]
        assert found == places[: len(found)]
        assert len(found) >= before
        before = len(found)
    assert parse(text) == [CAR, EYE, DOG]


def test_several_boxes_of_one_label_while_they_arrive():
    assert parse('{"label": "car", "bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10') == [
        Box(1, 2, 3, 4, "car"),
        Box(5, 6, 7, 8, "car"),
    ]


def test_cut_off_at_the_last_label():
    assert parse(f'[{CAR_JSON}, {{"bbox_2d": [500, 500, 600, 900], "label": "do') == [
        CAR,
        Box(500, 500, 600, 900),
    ]


@pytest.mark.parametrize(
    ("numbers", "box"),
    [
        ([-5, 0, 1200, 999], Box(0, 0, 1000, 999)),
        ([300, 400, 100, 200], Box(100, 200, 300, 400)),
        ([300, 200, 100, 400], Box(100, 200, 300, 400)),
    ],
)
def test_places_are_put_right(numbers, box):
    assert parse(json.dumps({"bbox_2d": numbers})) == [box]


@pytest.mark.parametrize(
    "value",
    ["[1, 2, 3]", "[]", "[1, 2, 3, NaN]", "[1, 2, Infinity, 4]", '[1, 2, 3, "x"]', "null", '"1 2"',
     "[true, 1, 2, 3]", "[1, 2, 3, {}]", "[1, 2, 3, 1" + "0" * 400 + "]", "[[1], [[]]]"],
)  # fmt: skip
def test_what_is_no_place_is_left_out(value):
    assert parse(f'[{{"bbox_2d": {value}, "label": "x"}}, {CAR_JSON}]') == [CAR]


def test_pixels_of_the_resized_picture():
    text = '[{"bbox_2d": [64, 32, 320, 240], "label": "car"}, {"point_2d": [640, 480]}]'
    assert parse(text, "pixels", (640, 480)) == [
        Box(100, pytest.approx(32 / 0.48), 500, 500, "car"),
        Point(1000, 1000),
    ]
    with pytest.raises(ValueError, match="size_px"):
        parse(text, "pixels")


@pytest.mark.parametrize(
    "text",
    ['{"a":' * 4_000, "[" * 20_000, '{"bbox_2d":[' * 1_500, "<p " * 6_000, "__import__('os')"],
)
def test_hostile_text_finds_nothing_and_breaks_nothing(text):
    assert parse(text) == []


def test_the_number_of_a_picture_next_to_a_place():
    text = '[{"image": 2, "bbox_2d": [1, 2, 3, 4]}, {"image": 1, "points": [{"point_2d": [5, 6]}]}]'
    assert parse(text) == [Box(1, 2, 3, 4, picture=2), Point(5, 6, picture=1)]


def test_places_are_found_with_where_they_stand():
    text = f"one {CAR_JSON} two {EYE_JSON}"
    assert find(text) == [(text.index(CAR_JSON), CAR), (text.index(EYE_JSON), EYE)]


def test_line_breaks_do_not_reach_a_label():
    assert parse('{"bbox_2d": [1, 2, 3, 4], "label": "two\\nlines\\t"}')[0].label == "two lines"


@pytest.mark.parametrize("text", [CAR_JSON, EYE_JSON, '<p data-bbox="1 2 3 4">'])
def test_texts_with_places_are_told_from_others(text):
    assert names_places(text)
    assert not names_places("no places, only [1, 2, 3, 4]")
