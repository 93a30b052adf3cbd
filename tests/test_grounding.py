"""What `grounding` promises: places are found in every form of answer and drawn where they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageFont

from qwen_vl.ui import grounding
from qwen_vl.ui.grounding import Box, Point, draw, parse

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


# Drawing


def canvas(width: int = 200, height: int = 100) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


def touched(image: Image.Image) -> np.ndarray:
    """bool [height, width]: what is no longer white."""
    return (np.asarray(image) != 255).any(axis=2)


def test_drawing_leaves_its_input_alone():
    image = canvas()
    drawn = draw(image, [CAR, EYE])
    assert (np.asarray(image) == 255).all()
    assert (drawn.size, drawn.mode) == (image.size, "RGB")
    assert touched(drawn).any()
    assert not touched(draw(image, [])).any()


@pytest.mark.parametrize("size", [(200, 100), (2000, 1000)])
def test_box_is_drawn_where_it_is(size):
    width, height = size
    drawn = touched(draw(canvas(*size), [Box(250, 200, 750, 800)]))
    rows, columns = np.nonzero(drawn)
    assert columns.min() / width == pytest.approx(0.25, abs=0.01)
    assert columns.max() / width == pytest.approx(0.75, abs=0.01)
    assert rows.min() / height == pytest.approx(0.2, abs=0.02)
    assert rows.max() / height == pytest.approx(0.8, abs=0.02)
    assert not drawn[height // 2, width // 2]  # a frame, not a block


def test_point_is_drawn_where_it_is():
    rows, columns = np.nonzero(touched(draw(canvas(), [Point(250, 500)])))
    assert columns.mean() == pytest.approx(50, abs=1)
    assert rows.mean() == pytest.approx(50, abs=1)


def test_lines_and_labels_grow_with_the_picture():
    marks = [Box(500, 500, 500, 500, "car")]
    small = touched(draw(canvas(400, 400), marks)).sum()
    large = touched(draw(canvas(2000, 2000), marks)).sum()
    assert large > 10 * small


@pytest.mark.parametrize("x", [0, 1000])
@pytest.mark.parametrize("y", [0, 1000])
def test_label_in_a_corner_is_drawn_whole(x, y):
    """As much of it as in the middle of the picture, but for the dot that stands for the box."""
    middle = touched(draw(canvas(), [Box(500, 500, 500, 500, "label")])).sum()
    corner = touched(draw(canvas(), [Box(x, y, x, y, "label")])).sum()
    assert abs(int(middle) - int(corner)) <= 4


def test_label_too_long_for_the_picture_is_cut_short():
    long = touched(draw(canvas(60, 60), [Box(0, 500, 0, 500, "many words " * 10)]))
    assert long.any(axis=0).sum() > 30  # something of it is there


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (12, 12)])
def test_tiny_pictures(size):
    assert draw(canvas(*size), [CAR, EYE, DOG]).size == size


def test_other_modes_are_drawn_in_colour():
    assert draw(Image.new("L", (200, 100), 255), [CAR]).mode == "RGB"


def test_neighbouring_marks_have_distinct_colours():
    boxes = [Box(100 * i, 0, 100 * i + 80, 900) for i in range(8)]
    drawn = np.asarray(draw(canvas(400, 400), boxes))[200]
    assert len({tuple(pixel) for pixel in drawn.tolist()} - {(255, 255, 255)}) == len(boxes)


def label_picture(label: str) -> bytes:
    return draw(canvas(), [Box(300, 500, 300, 500, label)]).tobytes()


def test_letters_without_a_font_become_a_number(monkeypatch):
    """Not empty boxes: the number is the mark's place in the list, from 1."""
    monkeypatch.setattr(grounding, "FONTS", ("no-such-font.ttf",))
    assert label_picture("红色汽车") == label_picture("1")
    assert label_picture("car") != label_picture("1")


def test_a_label_is_drawn_in_its_letters_or_is_a_number():
    """Fonts differ from machine to machine, and a font of the list may lack Chinese letters."""
    red, blue, number = map(label_picture, ("红色汽车", "蓝色汽车", "1"))
    if red == number:
        assert blue == number
    else:
        assert red != blue


def test_the_first_font_that_has_the_letters_is_taken(monkeypatch, tmp_path):
    """One that is there and lacks them is passed over; Pillow brings one without Greek."""
    greek = "DejaVuSans.ttf"  # comes along with Chromium
    try:
        ImageFont.truetype(greek, 16)
    except OSError:
        pytest.skip(f"{greek} is not installed")
    lacking = tmp_path / "lacking.ttf"
    lacking.write_bytes(ImageFont.load_default(16).font_bytes)
    monkeypatch.setattr(grounding, "FONTS", (str(lacking),))
    assert label_picture("άλφα") == label_picture("1")
    monkeypatch.setattr(grounding, "FONTS", (str(lacking), greek))
    assert label_picture("άλφα") not in (label_picture("1"), label_picture("βήτα"))


def test_line_breaks_and_control_letters_do_not_reach_the_font():
    assert parse('{"bbox_2d": [1, 2, 3, 4], "label": "two\\nlines\\t"}')[0].label == "two lines"
    assert label_picture("a\x00b") == label_picture("a b")
