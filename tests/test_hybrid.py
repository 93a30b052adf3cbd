"""Families with recurrent layers (Qwen3.5 and later) against plain `generate`, token for token."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
from conftest import opened
from support.held import inference_held
from support.oracle import Oracle
from support.tiny_models import (
    CLOSED_TEMPLATE,
    HYBRIDS,
    NO_THOUGHT,
    SWITCHED_TEMPLATE,
    VISION_TEMPLATE,
)
from test_engine import assistant, picture, user
from torch import nn
from transformers import AutoTokenizer

from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.answer import Answer
from qwen_vl.engine.local.cache import RoomyLayer
from qwen_vl.engine.local.scheduler import Scheduler
from qwen_vl.engine.local.sequence import Sequence
from qwen_vl.engine.local.snapshots import MOST_SNAPSHOTS, snapshots_at
from qwen_vl.engine.model import thinking
from qwen_vl.engine.model.both_sides import Int8Part, Product
from qwen_vl.engine.model.load import LoadedModel, has_experts
from qwen_vl.engine.model.quantize import Int4Linear, Int8Linear
from qwen_vl.errors import EngineFailed
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import ImagePart, Message, TextPart, Usage

GREEDY = SamplingParams(temperature=0, presence_penalty=0, max_new_tokens=10)
VISION = ["qwen3_5", "qwen3_5_moe", "qwen4_exp"]
ANSWER_STARTS = {"qwen3_5": NO_THOUGHT, "qwen3_5_text": NO_THOUGHT}
SYSTEM = Message("system", (TextPart("You are a careful assistant. " * 3),))


@pytest.fixture(scope="module", autouse=True)
def sequences() -> Iterator[Mapping[Answer, Sequence]]:
    """The sequence behind every answer: their texts, of random bytes, do not tell tokens apart."""
    seen: WeakKeyDictionary[Answer, Sequence] = WeakKeyDictionary()
    plain = Scheduler.add

    def add(scheduler: Scheduler, sequence: Sequence) -> None:
        seen[sequence.answer] = sequence
        plain(scheduler, sequence)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "add", add)
        yield seen


class Told:
    """One answer of the engine: its tokens without the end token, its text and its usage."""

    def __init__(self, answer: Answer, seen: Mapping[Answer, Sequence]) -> None:
        chunks = list(answer)
        self.text = "".join(chunk.text for chunk in chunks)
        assert chunks[-1].usage is not None
        self.usage: Usage = chunks[-1].usage
        ended = chunks[-1].finish_reason == "stop"
        self.tokens = seen[answer].tokens[: -1 if ended else None]


class Subject:
    """An engine over a tiny checkpoint, and plain transformers over the same."""

    def __init__(
        self, folder: Path, answer_start: str, seen: Mapping[Answer, Sequence], **settings: object
    ) -> None:
        self.engine: Engine = opened(Settings(model=str(folder), max_batch=4, **settings))
        assert self.engine.status().state == "ready", self.engine.status().detail
        self.oracle = Oracle(folder, answer_start)
        self._seen = seen

    def ask(self, messages: list[Message], params: SamplingParams = GREEDY) -> Told:
        return Told(self.engine.stream(messages, params), self._seen)

    def check(self, messages: list[Message], told: Told, most: int = GREEDY.max_new_tokens) -> None:
        assert told.tokens == self.oracle.answer(messages, most)

    def asked(self, messages: list[Message]) -> Told:
        """An answer that equals the oracle's."""
        told = self.ask(messages)
        self.check(messages, told)
        return told


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hybrids")
    return {name: write(root / name) for name, write in HYBRIDS.items()}


@pytest.fixture(scope="module")
def subjects(
    folders: dict[str, Path], sequences: Mapping[Answer, Sequence]
) -> Iterator[dict[str, Subject]]:
    made = {
        name: Subject(folder, ANSWER_STARTS.get(name, ""), sequences)
        for name, folder in folders.items()
    }
    yield made
    for subject in made.values():
        subject.engine.close()


@pytest.fixture
def fresh(folders: dict[str, Path], sequences: Mapping[Answer, Sequence]) -> Iterator[Subject]:
    """Qwen3.5's kind, with nothing in its caches."""
    subject = Subject(folders["qwen3_5"], NO_THOUGHT, sequences)
    yield subject
    subject.engine.close()


CONVERSATIONS = {
    "text only": [Message("system", (TextPart("Be brief."),)), user("Hello, 你好\n\ttab")],
    "two pictures, one turn": [user(picture(1), picture(2, 128, 96), "Compare.")],
    "a picture in a later turn": [
        user("Hello"),
        assistant("Hi."),
        user("And this?", picture(3)),
        assistant("Noise."),
        user(picture(4), "And that?"),
    ],
    "frames with times": [
        user(ImagePart(picture(5), 0.0), ImagePart(picture(6), 12.34), "What happens?")
    ],
}


@pytest.mark.parametrize("family", HYBRIDS)
def test_every_family_equals_generate(family: str, subjects: dict[str, Subject]) -> None:
    subject = subjects[family]
    assert subject.engine.status().family.name == family
    assert subject.engine.status().accepts_images == (family in VISION)
    for messages in CONVERSATIONS.values():
        if family in VISION or not any(message.images for message in messages):
            subject.asked(messages)


@pytest.mark.parametrize("family", ["qwen3_5", "qwen4_exp", "qwen3_next"])
def test_prompts_in_small_chunks_beside_others(
    family: str, subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks end anywhere, inside pictures too, and a short prompt is let in between."""
    from qwen_vl.engine.local import prefill

    subject = subjects[family]
    monkeypatch.setattr(prefill, "CHUNK_TOKENS_CPU", 7)
    shown = [picture(11, 160, 128)] if family in VISION else []
    long = [user(*shown, "One " * 9, *[picture(12, 96, 160)] * len(shown), "and two?")]
    short = [user("Hi")]
    with inference_held(subject.engine):
        answers = [subject.engine.stream(messages, GREEDY) for messages in (long, short)]
    for messages, answer in zip((long, short), answers, strict=True):
        subject.check(messages, Told(answer, subject._seen))


@pytest.mark.parametrize("family", ["qwen3_5", "qwen4_exp", "qwen3_next"])
def test_many_that_join_and_leave_a_batch_midway(family: str, subjects: dict[str, Subject]) -> None:
    subject, draw = subjects[family], random.Random(7)
    jobs = []
    for i in range(6):
        pictures = [picture(draw.randrange(4)) for _ in range(i % 3 if family in VISION else 0)]
        messages = [user(*pictures, f"Question {i} " + "x" * draw.randrange(40))]
        jobs.append((messages, replace(GREEDY, max_new_tokens=draw.randrange(1, 16))))
    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda job: subject.ask(*job), jobs))
    for (messages, params), one in zip(jobs, told, strict=True):
        subject.check(messages, one, params.max_new_tokens)


def test_short_tails_at_once_are_never_padded(subjects: dict[str, Subject]) -> None:
    subject = subjects["qwen3_5"]
    subject.ask([SYSTEM, user("Hello")])
    asked = [[SYSTEM, user("A" * length)] for length in (1, 9, 30, 2)]
    with inference_held(subject.engine):
        answers = [subject.engine.stream(messages, GREEDY) for messages in asked]
    for messages, answer in zip(asked, answers, strict=True):
        told = Told(answer, subject._seen)
        subject.check(messages, told)
        assert told.usage.cached_tokens > len(SYSTEM.text)


def test_no_memory_for_a_row_to_join_leaves_the_others_as_they_were(
    fresh: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two recurrent layers and one with columns have the new row already."""
    asked = [user("One?")], [user("And a second, which finds no room")]
    length = len(fresh.engine._loaded.prompts.build(asked[1], GREEDY).token_ids)
    plain, calls = RoomyLayer.take_in, []

    def take_in(layer: RoomyLayer, other: RoomyLayer, columns: int) -> None:
        if other.keys.shape[2] == length:
            calls.append(layer)
            if len(calls) == 2:
                raise MemoryError
        plain(layer, other, columns)

    monkeypatch.setattr(RoomyLayer, "take_in", take_in)
    with inference_held(fresh.engine):
        first, second = (fresh.engine.stream(messages, GREEDY) for messages in asked)
    fresh.check(asked[0], Told(first, fresh._seen))
    with pytest.raises(EngineFailed, match="not enough memory"):
        list(second)
    fresh.asked(asked[1])


@pytest.mark.parametrize(("scheme", "rounded"), [("int8", Int8Linear), ("int4", Int4Linear)])
def test_rounded_weights_answer_and_decay_stays_exact(
    scheme: str, rounded: type[nn.Module], folders: dict[str, Path]
) -> None:
    engine = opened(Settings(model=str(folders["qwen3_5"]), device="cpu", quantize=scheme))
    assert engine.status().dtype == scheme, engine.status().detail
    shown = [user(picture(1), "What is this?")]
    first, again = ("".join(c.text for c in engine.stream(shown, GREEDY)) for _ in range(2))
    assert first
    assert first == again
    layer = engine._loaded.model.model.language_model.layers[0].linear_attn
    both = (Int8Part, Product) if scheme == "int8" else ()  # where the CPU gains by it
    assert isinstance(layer.in_proj_qkv, (rounded, *both))
    assert isinstance(layer.out_proj, (Int8Linear, Int4Linear, Product))
    assert type(layer.in_proj_a) is type(layer.in_proj_b) is nn.Linear
    engine.close()


def test_experts_are_told_wherever_the_config_names_them(folders: dict[str, Path]) -> None:
    told = {name: has_experts(folder) for name, folder in folders.items()}
    assert [name for name, has in told.items() if has] == ["qwen3_5_moe", "qwen4_exp", "qwen3_next"]


# --- reuse of earlier prompts ---


def test_the_template_tells_whether_later_prompts_show_an_answer_as_it_was_written(
    folders: dict[str, Path],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["qwen3_5"])
    shows_thoughts = (
        SWITCHED_TEMPLATE.replace("preserve_thinking and ", "")
        .replace("'<think>' +", "'<think>\\n' +")
        .replace("+ '</think>'", "+ '\\n</think>\\n\\n'")
    )
    for template, keeps in {
        VISION_TEMPLATE: True,
        CLOSED_TEMPLATE: False,  # drops the empty thought
        SWITCHED_TEMPLATE: False,  # drops the thought
        shows_thoughts: True,
    }.items():
        tokenizer.chat_template = template
        assert thinking.keeps_answers(tokenizer) == keeps, template


def kept_at(
    subject: Subject, messages: list[Message], done: int = 0
) -> tuple[list[str], list[int]]:
    """(the two tokens around each place where states are kept, those places)."""
    loaded = subject.engine._loaded
    prompt = loaded.prompts.build(messages, GREEDY)
    ends = snapshots_at(loaded, prompt, done)
    names = loaded.tokenizer.convert_ids_to_tokens(prompt.token_ids)
    return [f"{names[at - 1]} {names[at]}" for at in ends], ends


def test_states_are_kept_where_later_prompts_part(subjects: dict[str, Subject]) -> None:
    subject = subjects["qwen3_5"]
    big = picture(1, 256, 256)
    asked = [SYSTEM, user(big, "What?"), assistant("A" * 40), user("And " * 20)]
    turn_end, picture_end = "Ċ <|im_start|>", "<|image_pad|> <|vision_end|>"
    places, ends = kept_at(subject, asked)
    assert places == [turn_end, picture_end, turn_end, turn_end]
    # What is known is not kept again, and what lies a few tokens after it is not worth a pass.
    assert kept_at(subject, asked, ends[1]) == (places[2:], ends[2:])
    assert kept_at(subject, asked, ends[2] - 3) == (places[3:], ends[3:])
    assert kept_at(subject, asked, ends[3]) == ([], [])
    frames = [ImagePart(picture(i, 192, 192), float(i)) for i in range(14)]
    places, _ = kept_at(subject, [user(*frames, "What happens?")])
    assert places == [*[picture_end] * (MOST_SNAPSHOTS - 1), turn_end]
    _, ends = kept_at(subject, [user(*frames, "What happens?")])
    assert ends[-1] - ends[-2] < 40  # the last frame's end is among them
    short = Message("system", (TextPart("Be kind."),))
    assert kept_at(subjects["qwen3_5_text"], [user("Hi")])[0] == [turn_end]
    assert kept_at(subjects["qwen3_5_text"], [short, user("Hi")])[0] == [turn_end, turn_end]


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_one_pass_reads_a_prompt_and_copies_all_states(
    family: str, folders: dict[str, Path], sequences: Mapping[Answer, Sequence]
) -> None:
    passes: list[int] = []
    plain = LoadedModel.forward

    def counted(loaded: LoadedModel, tokens: int, **inputs: object) -> object:
        passes.append(tokens)
        return plain(loaded, tokens, **inputs)

    subject = Subject(folders[family], ANSWER_STARTS.get(family, ""), sequences, draft="off")
    asked = [SYSTEM, user(picture(1, 256, 256), "What is on the left?")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadedModel, "forward", counted)
        prompt_tokens = subject.asked(asked).usage.prompt_tokens
    assert [tokens for tokens in passes if tokens > 1] == [prompt_tokens]
    assert len(kept_at(subject, asked)[1]) > 2
    other = subject.asked([SYSTEM, user(picture(1, 256, 256), "And on the right?")])
    assert other.usage.cached_tokens > 64
    subject.engine.close()


def test_ten_turns_about_two_pictures(fresh: Subject) -> None:
    messages: list[Message] = []
    before = 0
    for turn in range(10):
        shown = {0: [picture(1, 256, 256)], 4: [picture(2)]}.get(turn, [])
        messages = [*messages, user(*shown, f"Question {turn}?")]
        told = fresh.asked(messages)
        # All up to the last answer, which this template shows without its empty thought.
        assert told.usage.cached_tokens >= before
        before = told.usage.prompt_tokens - len(NO_THOUGHT + "<|im_start|>assistant\n")
        messages = [*messages, assistant(told.text)]


def test_what_people_ask_next_is_found(fresh: Subject) -> None:
    """Each prompt parts from an earlier one somewhere else, and begins with what came before."""
    visual = 256 * 256 // 32**2
    first = [SYSTEM, user(picture(1, 256, 256), "What is on the left?")]
    told = fresh.asked(first)
    prompt_tokens = told.usage.prompt_tokens
    again = fresh.asked(first)
    assert again.tokens == told.tokens
    assert again.usage.cached_tokens >= prompt_tokens - len(NO_THOUGHT) - 30
    other = fresh.asked([SYSTEM, user(picture(1, 256, 256), "What is on the right?")])
    assert other.usage.cached_tokens >= len(SYSTEM.text) + visual
    swapped = fresh.asked([SYSTEM, user(picture(2, 256, 256), "What is on the left?")])
    assert len(SYSTEM.text) <= swapped.usage.cached_tokens < len(SYSTEM.text) + visual
    second = [*first, assistant(told.text), user("And above? " * 3)]
    fresh.asked(second)
    edited = fresh.asked([*second[:-1], user("And below? " * 3)])
    assert edited.usage.cached_tokens >= prompt_tokens - len(NO_THOUGHT) - 30
    assert fresh.asked([SYSTEM, user("A text")]).usage.cached_tokens >= len(SYSTEM.text)


@pytest.mark.parametrize("family", ["qwen3_next", "qwen4_exp"])
def test_an_answer_that_the_template_keeps_is_found(
    family: str, subjects: dict[str, Subject]
) -> None:
    subject = subjects[family]
    letters = subject.oracle.tokenizer("abcdefgh")["input_ids"]  # a text that reads back as it is
    bias = tuple((token, 100.0) for token in letters)
    first = [user("Tell me")]
    told = subject.ask(first, replace(GREEDY, logit_bias=bias))
    second = subject.asked([*first, assistant(told.text), user("More")])
    written = told.usage.prompt_tokens + told.usage.completion_tokens
    assert second.usage.cached_tokens >= written - 1  # the last token was never run


def test_caches_may_be_off(folders: dict[str, Path], sequences: Mapping[Answer, Sequence]) -> None:
    off = {"prefix_cache_mb": 0, "vision_cache_mb": 0}
    subject = Subject(folders["qwen3_5"], NO_THOUGHT, sequences, **off)
    messages = [SYSTEM, user(picture(1), "What is this?")]
    assert [subject.asked(messages).usage.cached_tokens for _ in range(2)] == [0, 0]
    subject.engine.close()


@pytest.mark.parametrize(("family", "people"), [("qwen3_5", 4), ("qwen4_exp", 2)])
def test_random_conversations_at_once(
    family: str, people: int, folders: dict[str, Path], sequences: Mapping[Answer, Sequence]
) -> None:
    """Several people at once, follow-ups, edits, cancels, evictions: each equals the oracle."""
    start = ANSWER_STARTS.get(family, "")
    subject = Subject(folders[family], start, sequences, prefix_cache_mb=1)

    def converse(seed: int) -> list[tuple[list[Message], int, Told]]:
        draw = random.Random(seed)
        messages: list[Message] = [SYSTEM] * draw.randrange(2)
        answers = []

        def ask(asked: list[Message]) -> Told:
            params = replace(GREEDY, max_new_tokens=draw.randrange(2, 11))
            if draw.random() < 0.3:  # someone who leaves midway, and asks again
                leaving = subject.engine.stream(asked, params, str(seed % 2))
                next(leaving)
                leaving.close()
            told = Told(subject.engine.stream(asked, params, str(seed % 2)), sequences)
            answers.append((asked, params.max_new_tokens, told))
            return told

        for turn in range(3):
            pictures = [picture(draw.randrange(3), 96 + 32 * draw.randrange(2))] * draw.randrange(2)
            messages = [*messages, user(*pictures, f"Turn {turn} of {draw.randrange(3)}")]
            told = ask(messages)
            if draw.random() < 0.3:  # edits the question instead of going on
                messages = [*messages[:-1], user(*pictures, f"Turn {turn}, edited")]
                told = ask(messages)
            messages = [*messages, assistant(told.text)]
        return answers

    with ThreadPoolExecutor(people) as pool:
        rounds = list(pool.map(converse, range(people)))
    subject.engine.close()
    for messages, length, told in (answer for answers in rounds for answer in answers):
        subject.check(messages, told, length)
