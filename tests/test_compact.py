"""Frames in pairs: Qwen3-VL's own form of a clip, token for token as `generate` has it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import clip_files
from support.oracle import Oracle
from support.scripted_engine import ScriptedEngine
from support.tiny_models import VISION_TEMPLATE, qwen3_5
from test_api import CHAT, serving
from test_engine import assistant, opened, picture, text_of, user

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.media.pictures import as_data_uri
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import FramePair, ImagePart, frames_of, paired

GREEDY = SamplingParams(temperature=0, presence_penalty=0, max_new_tokens=16)
TIMES_S = (0.0, 2.0, 5.0, 6.5)


def frames(seed: int = 0) -> list[ImagePart]:
    return [ImagePart(picture(seed + i, 96, 64), time_s) for i, time_s in enumerate(TIMES_S)]


@pytest.fixture(scope="module")
def folder(tiny_checkpoints: dict[str, Path]) -> Path:
    return tiny_checkpoints["qwen3_vl"]


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    made = opened(Settings(model=str(folder)))
    yield made
    made.close()


@torch.inference_mode()
def judged(folder: Path, parts: list[ImagePart], question: str) -> str:
    """The model's own video input, in the documented layout, and the prompt written out by hand."""
    oracle = Oracle(folder)
    processor = oracle.image_processor
    side, merge = processor.patch_size, processor.merge_size
    moments = []
    for part in parts:
        image = part.image.convert("RGB")
        pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
        moments.append((pixels - 0.5) / 0.5)
    video = np.stack(moments)  # [time, colours, height, width]
    time, colours, height, width = video.shape
    rows, columns = height // side, width // side
    shape = (time // 2, 2, colours, rows // merge, merge, side, columns // merge, merge, side)
    patches = video.reshape(shape).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    values = torch.from_numpy(patches.reshape(-1, colours * 2 * side * side).copy())
    tokens = rows * columns // merge**2
    text = "<|im_start|>user\n"
    for i in range(0, time, 2):
        mean_s = (TIMES_S[i] + TIMES_S[i + 1]) / 2
        pads = "<|video_pad|>" * tokens
        text += f"<{mean_s:.1f} seconds><|vision_start|>{pads}<|vision_end|>"
    text += f"{question}<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([oracle.tokenizer(text, add_special_tokens=False)["input_ids"]])
    pad = oracle.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    out = oracle.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=2 * (ids == pad).int(),
        pixel_values_videos=values,
        video_grid_thw=torch.tensor([[time // 2, rows, columns]]),
        max_new_tokens=GREEDY.max_new_tokens,
        do_sample=False,
    )
    return str(oracle.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def test_pairs_are_read_as_the_models_own_video(engine: Engine, folder: Path) -> None:
    shown = frames()
    chunks = list(engine.stream([user(*paired(shown), "What happens?")], GREEDY))
    assert text_of(chunks) == judged(folder, shown, "What happens?")


def test_pairs_are_read_as_a_hybrid_models_own_video(tmp_path: Path) -> None:
    folder = qwen3_5(tmp_path / "model", VISION_TEMPLATE)
    made = opened(Settings(model=str(folder)))
    said = text_of(list(made.stream([user(*paired(frames()), "What happens?")], GREEDY)))
    made.close()
    assert said == judged(folder, frames(), "What happens?").rstrip("\N{REPLACEMENT CHARACTER}")


def test_pairs_cost_half_and_both_frames_count(engine: Engine) -> None:
    def asked(parts: list[ImagePart]) -> tuple[str, int]:
        chunks = list(engine.stream([user(*parts, "What?")], GREEDY))
        assert chunks[-1].usage is not None
        return text_of(chunks), chunks[-1].usage.prompt_tokens

    shown = frames()
    _, single = asked(shown)
    said, half = asked(paired(shown))
    text = len("What?") + 60
    assert half < single / 2 + text
    swapped = [shown[0], frames(seed=50)[1], *shown[2:]]  # a pair whose second frame is another
    assert asked(paired(swapped))[0] != said


def test_a_second_question_about_pairs_starts_from_their_states(engine: Engine) -> None:
    shown = paired(frames(seed=9))
    first = list(engine.stream([user(*shown, "One?")], GREEDY))
    again = [user(*shown, "One?"), assistant(text_of(first)), user("Two?")]
    usage = list(engine.stream(again, GREEDY))[-1].usage
    assert usage is not None
    assert usage.cached_tokens > usage.prompt_tokens / 2


def test_a_model_without_that_form_reads_them_one_by_one(
    tiny_checkpoints: dict[str, Path],
) -> None:
    made = opened(Settings(model=str(tiny_checkpoints["qwen2_5_vl"])))
    shown = frames()
    apart, in_pairs = (
        list(made.stream([user(*parts, "What?")], GREEDY)) for parts in (shown, paired(shown))
    )
    made.close()
    assert text_of(apart) == text_of(in_pairs)


def test_what_can_be_a_pair() -> None:
    one, two, three, _ = frames()
    other_size = ImagePart(Image.new("RGB", (64, 64)), 7.0)
    still = ImagePart(Image.new("RGB", (96, 64)))
    assert [len(frames_of(part)) for part in paired([one, two, three])] == [2, 1]
    assert [len(frames_of(part)) for part in paired([one, other_size, two])] == [1, 1, 1]
    assert [len(frames_of(part)) for part in paired([one, still, two, three])] == [1, 1, 2]
    (pair,) = paired([one, two])
    assert pair.time_s == pytest.approx(1.0)
    assert isinstance(pair.source, FramePair)
    assert pair.source.key != paired([two, one])[0].source.key  # type: ignore[union-attr]


def test_the_api_pairs_frames_when_asked(tmp_path: Path) -> None:
    uris = []
    for i in range(3):
        picture(i, 64, 64).save(tmp_path / "frame.png")
        uris.append(as_data_uri((tmp_path / "frame.png").read_bytes()))
    part = {"type": "video", "frames": uris, "timestamps_s": [0, 1, 2], "compact": True}
    engine = ScriptedEngine("Yes.")
    with serving(engine, Settings()) as client:
        body = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]}
        response = client.post(CHAT, json=body)
        assert response.json()["usage"]["frames_s"] == [0, 1, 2]
        part["compact"] = "yes"
        assert client.post(CHAT, json=body).status_code == 400
    (message,) = engine.requests[0][0]
    assert [len(frames_of(image)) for image in message.images] == [2, 1]


def test_many_frames_are_paired_where_nothing_is_said(tmp_path: Path) -> None:
    picture(0, 64, 64).save(tmp_path / "frame.png")
    uri = as_data_uri((tmp_path / "frame.png").read_bytes())

    def asked(count: int, **wishes: Any) -> list[Any]:
        part = {"type": "video", "frames": [uri] * count, "timestamps_s": [*range(count)]} | wishes
        return [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]

    engine = ScriptedEngine("Yes.")
    with serving(engine, Settings(max_images=64, max_frames=64)) as client:
        told = [
            client.post(CHAT, json={"messages": asked(16 + more, **wishes)}).json()["usage"]
            for more, wishes in ((0, {}), (1, {}), (1, {"compact": False}), (0, {"compact": True}))
        ]
    assert [usage.get("compact", False) for usage in told] == [False, True, False, True]
    counts = [len(messages[0].images) for messages, _ in engine.requests]
    assert counts == [16, 9, 17, 8]


def test_a_clip_without_a_wish_is_read_by_what_happens_in_it(tmp_path: Path) -> None:
    path = clip_files.write(tmp_path / "film.mp4", clip_files.scenes([15] * 10))
    uri = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    engine = ScriptedEngine("Yes.")
    with serving(engine, Settings()) as client:
        for wishes in ({}, {"count": 3}, {"fps": 0.25}, {"method": "scenes", "fast": True}):
            part = {"type": "video_url", "video_url": {"url": uri}, **wishes}
            content = [part, {"type": "text", "text": "?"}]
            response = client.post(CHAT, json={"messages": [{"role": "user", "content": content}]})
            assert response.status_code == 200
    counts = [len(messages[0].images) for messages, _ in engine.requests]
    assert counts == [10, 3, 4, 10]
