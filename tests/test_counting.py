"""A request is counted, and refused or queued, before a picture is decoded, which is done once."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import opened
from PIL import Image
from support.held import inference_held
from support.oracle import Oracle
from test_cancel import Watch
from test_engine import GREEDY, LONG, assistant, picture, run, text_of, user
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoImageProcessor, Qwen2VLImageProcessor

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.answer import Answer
from qwen_vl.engine.local import prefill, scheduler
from qwen_vl.engine.local.turns import MOST_ACTIVE
from qwen_vl.engine.model.pictures import PictureReader
from qwen_vl.errors import BadRequest, Busy, ContextExceeded
from qwen_vl.media.pictures import content_hash
from qwen_vl.schema import ImagePart, Message

PATIENCE_S = 60
ONE_TOKEN = replace(GREEDY, max_new_tokens=1)


class Opened:
    """A picture that counts how often it is decoded, and can be held up while it is."""

    def __init__(self, image: Image.Image, gate: threading.Event | None = None) -> None:
        self._image = image
        self._gate = gate
        self.size = image.size
        self.key = content_hash(image)
        self.begun = threading.Event()
        self.decoded = 0

    def decode(self) -> Image.Image:
        self.decoded += 1
        self.begun.set()
        assert self._gate is None or self._gate.wait(PATIENCE_S)
        return self._image

    def abandon(self) -> None:
        pass


class Huge:
    """16 million pixels that nobody may decode."""

    size = (4096, 4096)

    def __init__(self, key: str) -> None:
        self.key = key

    def decode(self) -> Image.Image:
        raise AssertionError("it must be refused by its size")

    def abandon(self) -> None:
        pass


@pytest.fixture
def engine(tiny_checkpoints: dict[str, Path]) -> Iterator[Engine]:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"])))
    yield engine
    engine.close()


# --- the arithmetic is the image processor's ---


def processors(folder: Path) -> list[Qwen2VLImageProcessor]:
    """One as the tiny checkpoints have it, and with the values and sizes of Qwen's own."""
    own = AutoImageProcessor.from_pretrained(folder, backend="pil")
    limits = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    return [own, Qwen2VLImageProcessor(patch_size=own.patch_size, size=limits)]


SIZES = ((1, 1), (17, 900), (96, 64), (511, 513), (1000, 40), (1280, 720), (33, 33))


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl", "qwen3_vl_moe"])
@pytest.mark.parametrize("tokens", [4, 300, 16_384])
def test_sizes_and_patches_are_the_processors_to_the_last_bit(
    family: str, tokens: int, tiny_checkpoints: dict[str, Path]
) -> None:
    for processor in processors(tiny_checkpoints[family]):
        reader = PictureReader(processor)
        side_px = processor.patch_size * processor.merge_size
        largest = min(tokens * side_px**2, processor.size["longest_edge"])
        limits = {
            "shortest_edge": min(processor.size["shortest_edge"], largest),
            "longest_edge": largest,
        }
        for size in SIZES:
            image = Image.effect_noise(size, 80).convert("RGB")
            theirs = processor(image, size=limits, return_tensors="pt")
            counted = reader.count(ImagePart(image), tokens)
            if int(theirs["image_grid_thw"].prod()) // 4 > tokens:
                assert counted.tokens <= tokens or min(counted.grid) == processor.merge_size
                continue
            assert torch.equal(counted.grid_thw, theirs["image_grid_thw"])
            assert counted.tokens == int(theirs["image_grid_thw"].prod()) // 4
            pixels = reader.pixels(counted)
            assert pixels.nbytes == counted.pixel_bytes
            assert torch.equal(reader.patches(pixels), theirs["pixel_values"])
            halves = theirs["pixel_values"].to(torch.bfloat16)
            assert torch.equal(reader.patches(pixels, torch.bfloat16), halves)


# --- refused by sizes alone ---


def test_too_many_visual_tokens_are_refused_before_anything_is_decoded(engine: Engine) -> None:
    """Each takes 256 here, the most that this checkpoint's processor gives."""
    most = replace(GREEDY, max_image_tokens=16_384)
    shown = [ImagePart(Huge(str(i))) for i in range(200)]
    with pytest.raises(ContextExceeded, match="51,200 tokens"):
        engine.stream([user(*shown, "What is it?")], most)


def test_a_shape_that_cannot_be_read_is_refused_by_its_size(engine: Engine) -> None:
    class Thread(Huge):
        size = (1, 400)

    with pytest.raises(BadRequest, match="200"):
        engine.stream([user(ImagePart(Thread("a")), "What is it?")], GREEDY)


def test_a_full_queue_refuses_before_anything_is_decoded(
    tiny_checkpoints: dict[str, Path],
) -> None:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"]), max_batch=1, max_queue=1))
    running = engine.stream([user("A")], LONG)
    next(running)
    engine.stream([user("B")], GREEDY)
    with pytest.raises(Busy):
        engine.stream([user(ImagePart(Huge("a")), "C")], GREEDY)
    engine.close()


# --- decoded once, and only where no cache covers it ---


def decoded_over_four_turns(engine: Engine, oracle: Oracle) -> list[int]:
    """How often one picture is decoded in each turn; every turn is a request of its own."""
    told: list[int] = []
    later: list[Message] = []
    for turn in range(4):
        shown = Opened(picture(1))
        text = text_of(run(engine, [user(ImagePart(shown), "What is this?"), *later]))
        told.append(shown.decoded)
        plain = [user(picture(1), "What is this?"), *later]
        assert text == oracle.text(plain, GREEDY.max_new_tokens)
        later += [assistant(text), user(f"And {turn}?")]
    return told


@pytest.fixture(scope="module")
def oracle(tiny_checkpoints: dict[str, Path]) -> Oracle:
    return Oracle(tiny_checkpoints["qwen3_vl"])


@pytest.mark.parametrize(
    ("caches", "decoded"),
    [
        ({}, [1, 0, 0, 0]),
        ({"prefix_cache_mb": 0}, [1, 0, 0, 0]),
        ({"vision_cache_mb": 0}, [1, 0, 0, 0]),
        ({"prefix_cache_mb": 0, "vision_cache_mb": 0}, [1, 1, 1, 1]),
    ],
    ids=["both caches", "of pictures only", "of prefixes only", "none"],
)
def test_a_picture_is_decoded_once_in_four_turns(
    caches: dict[str, int], decoded: list[int], tiny_checkpoints: dict[str, Path], oracle: Oracle
) -> None:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"]), **caches))
    assert decoded_over_four_turns(engine, oracle) == decoded
    engine.close()


def test_a_picture_shown_twice_in_one_request_is_decoded_once(
    engine: Engine, oracle: Oracle
) -> None:
    once, other = Opened(picture(1)), Opened(picture(1))
    text = text_of(run(engine, [user(ImagePart(once), "or", ImagePart(other), "?")]))
    assert once.decoded + other.decoded == 1
    assert engine.stats().vision_misses == 1
    assert text == oracle.text([user(picture(1), "or", picture(1), "?")], GREEDY.max_new_tokens)


def test_a_new_picture_in_a_later_turn_is_the_only_one_decoded(engine: Engine) -> None:
    first = [user(ImagePart(Opened(picture(1))), "What is this?")]
    told = assistant(text_of(run(engine, first)))
    old, new = Opened(picture(1)), Opened(picture(2))
    again = user(ImagePart(old), "What is this?")
    run(engine, [again, told, user(ImagePart(new), "And this?")])
    assert (old.decoded, new.decoded) == (0, 1)


# --- the work before a request's turn is bounded, and holds no text up ---


def test_decoding_is_bounded_and_text_goes_on(tiny_checkpoints: dict[str, Path]) -> None:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"]), max_queue=4))
    gate = threading.Event()
    shown = [Opened(picture(seed), gate) for seed in range(7)]

    def ask(scope: str, one: Opened) -> Answer:
        return engine.stream([user(ImagePart(one), "What is it?")], ONE_TOKEN, scope)

    with ThreadPoolExecutor(7) as pool:
        try:
            # Two are decoded and three wait, as many as one scope may.
            asked = [pool.submit(ask, "busy", one) for one in shown[:6]]
            refused = next(as_completed(asked, PATIENCE_S))
            assert isinstance(refused.exception(), Busy)
            other = pool.submit(ask, "other", shown[6])
            assert run(engine, [user("Hello")])[-1].finish_reason == "length"
            assert sum(one.begun.is_set() for one in shown) == MOST_ACTIVE
            assert not any(one.done() for one in (*asked, other) if one is not refused)
        finally:
            gate.set()
        for answer in (*asked, other):
            if answer is not refused:
                assert list(answer.result(PATIENCE_S))[-1].finish_reason == "length"
    engine.close()


def test_a_text_is_let_in_between_the_parts_of_a_long_prompt(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, oracle: Oracle
) -> None:
    monkeypatch.setattr(prefill, "CHUNK_TOKENS_CPU", 32)
    watch = Watch()
    asked_s = [time.monotonic()]
    short: list[Answer] = []

    def ask() -> None:
        asked_s.append(time.monotonic())
        short.append(engine.stream([user("Hi")], GREEDY))

    watch.at["forward", 2] = ask  # when two parts of the other one have run
    words = [user("Many words " * 30)]
    told = [run(engine, words), list(short[0])]
    watch.remove()
    first_s = [at_s + chunks[-1].usage.ttft_s for at_s, chunks in zip(asked_s, told, strict=True)]
    assert first_s[1] < first_s[0]
    for messages, chunks in ((words, told[0]), ([user("Hi")], told[1])):
        assert text_of(chunks) == oracle.text(messages, GREEDY.max_new_tokens)


def test_the_others_go_on_while_a_picture_is_encoded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, oracle: Oracle
) -> None:
    """Between two blocks of the vision encoder, too: nobody waits for a huge picture."""
    monkeypatch.setattr(scheduler, "BREATH_S", 0.0)
    running = engine.stream([user("Tell me")], replace(GREEDY, max_new_tokens=60))
    first = next(running).text
    asked = [user(picture(1), "What is this?"), user(picture(2), "And this?")]
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda turn: text_of(run(engine, [turn])), asked))
    assert told == [oracle.text([turn], GREEDY.max_new_tokens) for turn in asked]
    assert first + text_of(list(running)) == oracle.text([user("Tell me")], 60)


def test_a_picture_that_is_being_encoded_can_be_cancelled(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "BREATH_S", 0.0)
    watch = Watch()

    def leave(module: torch.nn.Module, *_: object) -> None:
        if "VisionBlock" in type(module).__name__:
            answer.close()

    with inference_held(engine):  # the inference thread does not see it before all is set up
        answer = engine.stream([user(picture(1), "What is this?")], GREEDY)
        hook = register_module_forward_hook(leave)
    assert list(answer)[-1].finish_reason == "cancelled"
    hook.remove()
    assert run(engine, [user("Hello")])[-1].finish_reason == "length"
    assert watch.encoded == 0  # it never came to the end of the encoder
    watch.remove()


# --- nothing stays ---


def test_a_closed_request_leaves_nothing(tiny_checkpoints: dict[str, Path]) -> None:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"]), max_batch=1))
    running = engine.stream([user("A")], LONG)
    next(running)
    shown = Opened(picture(1))
    gone = weakref.ref(shown)
    waiting = engine.stream([user(ImagePart(shown), "B")], GREEDY)
    assert shown.decoded == 1
    waiting.close()
    del shown
    gc.collect()
    assert gone() is None
    running.close()
    engine.close()
