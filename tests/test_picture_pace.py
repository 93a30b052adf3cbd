"""How much of a picture is read where nobody says: as much as starts to be answered soon here."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.pictures import as_uri, encoded, noise
from support.scripted_engine import READY, ScriptedEngine
from test_api import CHAT, serving

from qwen_vl.config import USUAL_IMAGE_TOKENS, Settings
from qwen_vl.engine.model import picture_pace
from qwen_vl.engine.model.checkpoint import Checkpoint
from qwen_vl.engine.model.load import LoadedModel, load
from qwen_vl.engine.model.machine import Choice
from qwen_vl.engine.model.picture_pace import FIRST_WORD_S, PicturePace, choose, pace_of
from qwen_vl.engine.model.samples import read
from qwen_vl.schema import ImagePart, TextPart
from qwen_vl.start_cache import StartCache
from qwen_vl.ui.presets import DETAILS, image_tokens

CPU = Choice("cpu", torch.float32, 1, "why")


def test_two_pictures_tell_the_layers_from_the_attention() -> None:
    true = PicturePace(0.009, 1.1e-5)
    found = pace_of({tokens: true.seconds(tokens) for tokens in (64, 256)})
    assert found.seconds(1250) == pytest.approx(true.seconds(1250))
    most = found.tokens_within(FIRST_WORD_S, USUAL_IMAGE_TOKENS)
    assert found.seconds(most) <= FIRST_WORD_S < found.seconds(most + 1)
    assert found.tokens_within(1e9, USUAL_IMAGE_TOKENS) == USUAL_IMAGE_TOKENS
    assert found.tokens_within(0, USUAL_IMAGE_TOKENS) == 1


def test_a_machine_that_was_busy_at_first_is_not_taken_to_gain_by_more() -> None:
    found = pace_of({64: 5.0, 256: 3.0})
    assert 0 <= found.seconds(64) <= found.seconds(256) <= found.seconds(1024)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoints: dict[str, Path]) -> Checkpoint:
    return Checkpoint(tiny_checkpoints["qwen3_vl"], "tiny")


@pytest.fixture
def loaded(checkpoint: Checkpoint) -> LoadedModel:
    return load(checkpoint, CPU, lambda *_: None)


def test_pictures_are_read_in_full_detail(loaded: LoadedModel) -> None:
    side_px = 4 * loaded.family.token_px
    part = ImagePart(Image.new("RGB", (side_px, 2 * side_px)))
    assert read(loaded, part, TextPart("What is this?")) == 4 * 8
    assert read(loaded, TextPart("What is this?")) == 0


def test_a_large_model_is_measured_once(
    loaded: LoadedModel, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StartCache(tmp_path)
    chosen = choose(Settings(), loaded, CPU, checkpoint, cache)
    assert (chosen.tokens, chosen.said) == (USUAL_IMAGE_TOKENS, "")  # a small one is quick anyway
    heavy = replace(loaded)
    monkeypatch.setattr(heavy.model, "get_memory_footprint", lambda: 2 * 10**9)
    settled: list[str] = []
    settle = partial(settled.append, "before it is measured")
    with monkeypatch.context() as without:
        without.setattr(heavy.model, "forward", None)
        with pytest.raises(TypeError):
            choose(Settings(), heavy, CPU, checkpoint, cache, settle)
    assert settled
    chosen = choose(Settings(), heavy, CPU, checkpoint, cache)
    assert f"{chosen.tokens} visual tokens per picture" in chosen.said
    monkeypatch.setattr(picture_pace, "FIRST_WORD_S", 1e-6)
    slow = choose(Settings(), heavy, CPU, checkpoint, cache)
    assert slow.tokens < chosen.tokens
    monkeypatch.setattr(heavy.model, "forward", None)  # from here on nothing can be measured
    assert choose(Settings(), heavy, CPU, checkpoint, cache, settle) == slow
    assert len(settled) == 1  # nothing to wait for
    own = choose(Settings(image_tokens=300), heavy, CPU, checkpoint, None)
    assert (own.tokens, own.said) == (300, "")


@pytest.mark.parametrize(("settings", "expected"), [({}, 400), ({"image_tokens": 300}, 300)])
def test_requests_and_the_page_get_what_the_engine_suggests(
    settings: dict[str, int], expected: int
) -> None:
    status = replace(READY, image_tokens=400, most_image_tokens=2000)
    engine = ScriptedEngine("a", status=status)
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": as_uri(encoded(noise(8, 8)))}},
    ]
    with serving(engine, Settings(**settings)) as client:
        client.post(CHAT, json={"messages": [{"role": "user", "content": content}]})
    ((_, params),) = engine.requests
    assert params.max_image_tokens == expected
    assert [image_tokens(one, Settings(**settings), status) for one in DETAILS] == [
        *(256, expected, 2000)
    ]


def test_a_slow_machine_has_no_detail_that_is_fast_and_more() -> None:
    status = replace(READY, image_tokens=100)
    assert [image_tokens(one, Settings(), status) for one in DETAILS][:2] == [100, 100]
