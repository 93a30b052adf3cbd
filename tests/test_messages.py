"""Every outside shape becomes the one inside shape, and nothing over a limit gets in."""

from __future__ import annotations

import base64
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qwen_vl.api.messages import from_openai
from qwen_vl.config import MAX_IMAGE_TOKENS, MIN_IMAGE_TOKENS, Settings
from qwen_vl.conversation import check_conversation
from qwen_vl.errors import BadRequest, NotFound, TooLarge
from qwen_vl.sampling import SamplingParams, params_from
from qwen_vl.schema import ImagePart, Message, Role, TextPart
from qwen_vl.ui.chatbot import from_chatbot

LIMITS = Settings(max_messages=3, max_images=2, max_prompt_chars=10, max_new_tokens=100)
PICTURE = ImagePart(Image.new("RGB", (4, 4)))


def turn(role: Role = "user", *texts: str, pictures: int = 0) -> Message:
    return Message(role, (*[TextPart(text) for text in texts], *[PICTURE] * pictures))


def png_uri(colour: str = "red") -> str:
    out = BytesIO()
    Image.new("RGB", (2, 2), colour).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def picture_part(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


# --- rules for every conversation ---


@pytest.mark.parametrize(
    "messages",
    [
        [turn("user", "a")],
        [turn("user", pictures=1)],
        [turn("system", "a"), turn("user", "b")],
        [turn("user", "a", pictures=1), turn("assistant"), turn("user", "b")],
        [turn("user", "a"), turn("user", "b")],
        [turn("user", "a"), turn("assistant", "b")],  # to go on with
        [turn("user", "a" * LIMITS.max_prompt_chars)],
        [turn("user", pictures=LIMITS.max_images)],
        [turn("user", "a")] * LIMITS.max_messages,
    ],
)
def test_a_conversation_within_the_limits_passes(messages: list[Message]) -> None:
    check_conversation(messages, LIMITS)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [turn("system", "a")],
        [turn("user", "a"), turn("system", "b"), turn("user", "c")],
        [turn("user")],
        [turn("user", " \n\t")],
        [turn("assistant", "a", pictures=1), turn("user", "b")],
        [turn("system", "a", pictures=1), turn("user", "b")],
        [turn("user", "\ud83d")],
    ],
    ids=[
        "empty",
        "only a system turn",
        "a late system turn",
        "no parts",
        "blank",
        "a picture from the assistant",
        "a picture in the system turn",
        "half a surrogate pair",
    ],
)
def test_a_conversation_that_nobody_can_answer_is_refused(messages: list[Message]) -> None:
    with pytest.raises(BadRequest):
        check_conversation(messages, LIMITS)


@pytest.mark.parametrize(
    "messages",
    [
        [turn("user", "a")] * (LIMITS.max_messages + 1),
        [turn("user", pictures=LIMITS.max_images), turn("user", pictures=1)],
        [turn("user", "a" * LIMITS.max_prompt_chars), turn("user", "b")],
    ],
    ids=["messages", "pictures", "characters"],
)
def test_a_conversation_over_a_limit_is_refused(messages: list[Message]) -> None:
    with pytest.raises(TooLarge, match="limit"):
        check_conversation(messages, LIMITS)


# --- the OpenAI format ---


def test_roles_parts_and_their_order_are_kept() -> None:
    content = [
        {"type": "text", "text": "one"},
        picture_part(png_uri("red")),
        {"type": "text", "text": "two"},
        {"type": "image_url", "image_url": png_uri("blue")},  # some clients send it bare
    ]
    raw = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "  and?\t"},
    ]
    first, second, third, last = from_openai(raw, Settings())
    assert first == turn("system", "Be brief.")
    assert second.role == "user"
    assert [type(part) for part in second.parts] == [TextPart, ImagePart] * 2
    assert second.text == "onetwo"
    colours = [part.image.getpixel((0, 0)) for part in second.images]
    assert colours == [(255, 0, 0), (0, 0, 255)]
    assert third == Message("assistant", ())
    assert last == turn("user", "  and?\t")


@pytest.mark.parametrize("raw", [None, 5, "Hello", {"role": "user", "content": "a"}, [5], [None]])
def test_what_is_no_list_of_messages_is_refused(raw: Any) -> None:
    with pytest.raises(BadRequest):
        from_openai(raw, LIMITS)


def test_a_refusal_says_where_the_fault_is() -> None:
    raw = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "video"}]},
    ]
    with pytest.raises(BadRequest, match=r"messages\[1\]\.content\[1\]\.type"):
        from_openai(raw, LIMITS)


@pytest.mark.parametrize(
    "raw",
    [
        [{"role": "user", "content": [picture_part("broken")] * 3}],
        [{"role": "user", "content": [picture_part("broken")]}] * 4,
        [{"role": "user", "content": [{"type": "video", "frames": ["broken"] * 2}] * 2}],
        [{"role": "user", "content": [{"type": "video_url"}] * 3}],
    ],
    ids=["pictures", "messages", "frames", "clips"],
)
def test_counts_are_checked_before_any_picture_is_decoded(raw: Any) -> None:
    with pytest.raises(TooLarge):
        from_openai(raw, LIMITS)


def test_reading_stops_at_the_first_clip_that_brings_too_many_frames() -> None:
    read = []

    def clip(_: Any, where: str) -> list[ImagePart]:
        read.append(where)
        return [PICTURE] * LIMITS.max_images

    content = [{"type": "clip"}] * 5
    with pytest.raises(TooLarge, match="pictures"):
        from_openai([{"role": "user", "content": content}], LIMITS, {"clip": clip})
    assert len(read) == 2


def test_a_refusal_never_repeats_the_input() -> None:
    long = "x" * 1000
    for raw in (
        [{"role": long, "content": "a"}],
        [{"role": "user", "content": [{"type": long}]}],
        [{"role": "user", "content": [picture_part(long)]}],
    ):
        with pytest.raises(BadRequest) as refusal:
            from_openai(raw, Settings())
        assert long not in str(refusal.value)


# --- sampling ---

DEFAULTS = SamplingParams(temperature=0.3, top_k=7, seed=1, stop=("a",), max_new_tokens=60)


def test_missing_and_null_fields_keep_their_defaults() -> None:
    assert params_from({}, DEFAULTS, LIMITS) == DEFAULTS
    nothing = dict.fromkeys(["temperature", "top_k", "seed", "stop", "max_tokens", "unknown"])
    assert params_from(nothing, DEFAULTS, LIMITS) == DEFAULTS


def test_a_default_length_over_the_limit_becomes_the_limit() -> None:
    assert params_from({}, SamplingParams(max_new_tokens=10**6), LIMITS).max_new_tokens == 100


RANGES = [
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("top_k", 0, 1000),
    ("repetition_penalty", 0.5, 2),
    ("presence_penalty", -2, 2),
    ("seed", -(2**63), 2**63 - 1),
    ("max_image_tokens", MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS),
]
WHOLE = ("top_k", "seed", "max_image_tokens", "max_tokens", "max_completion_tokens")


@pytest.mark.parametrize(("name", "low", "high"), RANGES)
def test_both_ends_of_a_range_are_taken_and_nothing_beyond(
    name: str, low: float, high: float
) -> None:
    for value in (low, high):
        assert getattr(params_from({name: value}, DEFAULTS, LIMITS), name) == value
    step = 1 if name in WHOLE else 0.01
    for value in (low - step, high + step, 10**400, -(10**400)):
        with pytest.raises(BadRequest, match=name):
            params_from({name: value}, DEFAULTS, LIMITS)


@pytest.mark.parametrize("name", [name for name, *_ in RANGES] + ["max_tokens"])
@pytest.mark.parametrize("value", ["1", [1], {}, True, math.nan, math.inf])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=name):
        params_from({name: value}, DEFAULTS, LIMITS)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_may_have_a_point_but_no_fraction(name: str) -> None:
    params_from({name: 20.0}, DEFAULTS, LIMITS)
    with pytest.raises(BadRequest, match="whole"):
        params_from({name: 20.5}, DEFAULTS, LIMITS)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_length_of_an_answer_has_both_of_its_names_and_a_limit(name: str) -> None:
    assert params_from({name: 100}, DEFAULTS, LIMITS).max_new_tokens == 100
    with pytest.raises(BadRequest, match=name):
        params_from({name: 0}, DEFAULTS, LIMITS)
    for value in (101, 10**400):  # a ceiling: frameworks ask for more than most servers give
        assert params_from({name: value}, DEFAULTS, LIMITS).max_new_tokens == 100
    assert params_from({name: -1}, DEFAULTS, LIMITS) == params_from({}, DEFAULTS, LIMITS)


def test_the_newer_name_of_the_length_wins() -> None:
    both = {"max_tokens": 5, "max_completion_tokens": 6}
    assert params_from(both, DEFAULTS, LIMITS).max_new_tokens == 6


def test_stop_is_a_text_or_a_list_of_texts() -> None:
    assert params_from({"stop": "end"}, DEFAULTS, LIMITS).stop == ("end",)
    assert params_from({"stop": ["a", "b"]}, DEFAULTS, LIMITS).stop == ("a", "b")
    assert params_from({"stop": []}, DEFAULTS, LIMITS).stop == ()
    for bad in ("", [""], [5], 5, {"a": 1}, "\ud83d"):
        with pytest.raises(BadRequest, match="stop"):
            params_from({"stop": bad}, DEFAULTS, LIMITS)
    for long in (["a"] * 17, "a" * 1001):
        with pytest.raises(TooLarge, match="stop"):
            params_from({"stop": long}, DEFAULTS, LIMITS)


# --- Gradio's Chatbot ---


def block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def file_block(path: Path) -> dict[str, Any]:
    return {"type": "file", "file": {"path": str(path)}}


def said(role: str, *blocks: Any, title: str | None = None) -> dict[str, Any]:
    return {"role": role, "content": list(blocks), "metadata": {"title": title}}


def test_a_chat_becomes_messages_with_its_system_prompt_first(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (2, 2), "red").save(path)
    history = [
        said("user", file_block(path)),
        said("user", block("What is it?")),
        said("assistant", block("Thinking"), title="Thought"),
        said("assistant", block("Red.")),
        said("assistant", block("2 s"), title="Statistics"),
        {"role": "user", "content": "Are you sure?", "metadata": None},
    ]
    system, question, answer, last = from_chatbot(history, "Be brief.", Settings())
    assert system == turn("system", "Be brief.")
    assert question.role == "user"
    assert [type(part) for part in question.parts] == [ImagePart, TextPart]
    assert question.images[0].image.getpixel((0, 0)) == (255, 0, 0)
    assert answer == turn("assistant", "Red.")
    assert last == turn("user", "Are you sure?")


def test_a_blank_system_prompt_is_none() -> None:
    assert from_chatbot([said("user", block("a"))], " \n", Settings()) == [turn("user", "a")]


def test_spaces_and_tabs_of_a_chat_are_kept() -> None:
    text = "\tif a:\n\t\tb  "
    (message,) = from_chatbot([said("user", block(text))], "", Settings())
    assert message.text == text


def test_a_picture_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        from_chatbot([said("user", file_block(tmp_path / "gone.png"))], "", Settings())


def test_pictures_of_a_chat_are_counted_before_any_is_decoded(tmp_path: Path) -> None:
    gone = file_block(tmp_path / "gone.png")
    with pytest.raises(TooLarge, match="pictures"):
        from_chatbot([said("user", gone)] * 3, "", LIMITS)


def test_a_chat_has_the_same_limits() -> None:
    with pytest.raises(TooLarge):
        from_chatbot([said("user", block("a" * 11))], "", LIMITS)
    with pytest.raises(TooLarge):  # the system prompt counts
        from_chatbot([said("user", block("a" * 9))], "bb", LIMITS)
    with pytest.raises(BadRequest):
        from_chatbot([], "a", LIMITS)


def test_logit_bias_in_openais_form() -> None:
    params = params_from({"logit_bias": {"7": -100, "12": 1.5}}, SamplingParams(), Settings())
    assert params.logit_bias == ((7, -100.0), (12, 1.5))
    assert params_from({}, SamplingParams(), Settings()).logit_bias == ()


@pytest.mark.parametrize(
    "bias", [[], "x", {"a": 1}, {"-1": 1}, {"1": 101}, {"1": "x"}, {"1" * 10: 1}, {"²": 1}]
)
def test_logit_bias_that_makes_no_sense(bias: object) -> None:
    with pytest.raises(BadRequest, match=r"logit_bias|must be"):
        params_from({"logit_bias": bias}, SamplingParams(), Settings())


@pytest.mark.parametrize(("name", "bad"), [("min_p", 1.1), ("frequency_penalty", -2.1)])
def test_newer_sampling_fields_have_bounds(name: str, bad: float) -> None:
    assert getattr(params_from({name: 0.5}, SamplingParams(), Settings()), name) == 0.5
    with pytest.raises(BadRequest, match=name):
        params_from({name: bad}, SamplingParams(), Settings())
