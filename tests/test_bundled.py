"""The bundled model's true answers: what the page shows as examples, it answers rightly.

The right answers come from the script that drew the pictures, not from the model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qwen_vl.config import BUNDLED_MODEL_ID, Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.model.checkpoint import BUNDLED_FOLDER
from qwen_vl.media.clips import extract_keyframes
from qwen_vl.media.pictures import load_image
from qwen_vl.schema import ImagePart, Message, TextPart
from qwen_vl.ui.grounding import Box, parse

EXAMPLES = Path(__file__).parents[1] / "examples"
PROMPTS = json.loads((EXAMPLES / "prompts.json").read_text(encoding="utf-8"))
SETTINGS = Settings(model="bundled")
SAME_BOX = 0.5  # intersection over union


def images_of(prompt: dict[str, Any]) -> list[ImagePart]:
    if prompt["video"]:
        frames = extract_keyframes(EXAMPLES / prompt["video"], "interval", SETTINGS, every_s=5.0)
        return [ImagePart(frame.image, frame.time_s) for frame in frames]
    return [ImagePart(load_image(EXAMPLES / name, SETTINGS)) for name in prompt["images"]]


def answer(engine: Engine, messages: list[Message]) -> str:
    preset = engine.status().family.preset(has_images=True)
    return "".join(chunk.text for chunk in engine.stream(messages, preset))


def same(answered: str, right: str) -> bool:
    """Equal to the letter; of boxes, the labels, and the coordinates nearly."""
    wanted = [mark for mark in parse(right) if isinstance(mark, Box)]
    if not wanted:
        return answered == right
    found = [mark for mark in parse(answered) if isinstance(mark, Box)]
    return [box.label for box in found] == [box.label for box in wanted] and all(
        overlap(*pair) >= SAME_BOX for pair in zip(found, wanted, strict=True)
    )


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    shared = max(0, width) * max(0, height)
    areas = [(box.x2 - box.x1) * (box.y2 - box.y1) for box in (one, other)]
    return shared / (sum(areas) - shared)


def name_of(prompt: dict[str, Any]) -> str:
    return f"{prompt['task']}-{prompt['lang']}-{prompt['text'][:20]}"


@pytest.mark.parametrize("prompt", PROMPTS, ids=name_of)
def test_every_shown_example_is_answered_rightly(
    prompt: dict[str, Any], bundled_engine: Engine
) -> None:
    message = Message("user", (*images_of(prompt), TextPart(prompt["text"])))
    answered = answer(bundled_engine, [message])
    assert same(answered, prompt["answer"]), f"{answered!r}, but right is {prompt['answer']!r}"


def test_examples_in_both_languages() -> None:
    assert {prompt["lang"] for prompt in PROMPTS} == {"en", "zh"}


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_later_turns_about_the_same_picture(lang: str, bundled_engine: Engine) -> None:
    """Two shown questions about one picture, asked in one conversation, keep their answers."""
    spoken = [p for p in PROMPTS if p["lang"] == lang and p["task"] == "scene"]
    first = spoken[0]
    messages = [Message("user", (*images_of(first), TextPart(first["text"])))]
    messages.append(Message("assistant", (TextPart(answer(bundled_engine, messages)),)))
    messages.append(Message("user", (TextPart(first["text"]),)))
    assert same(answer(bundled_engine, messages), first["answer"])


def test_off_topic_questions_get_an_honest_answer(bundled_engine: Engine) -> None:
    english = answer(bundled_engine, [Message("user", (TextPart("Who are you?"),))])
    assert "small demo model" in english
    chinese = answer(bundled_engine, [Message("user", (TextPart("你是谁？"),))])
    assert "演示模型" in chinese


def test_it_says_what_it_is(bundled_engine: Engine) -> None:
    status = bundled_engine.status()
    assert status.model_id == BUNDLED_MODEL_ID
    assert "small demo model" in status.notice


def test_the_model_card_tells_what_was_reached() -> None:
    card = (BUNDLED_FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert BUNDLED_MODEL_ID in card
    assert re.search(r"\| task .*\| target .*\|", card)


def test_shown_pictures_are_small_enough_to_load_fast() -> None:
    for name in {name for prompt in PROMPTS for name in prompt["images"]}:
        with Image.open(EXAMPLES / name) as image:
            assert max(image.size) <= 512
