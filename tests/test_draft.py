"""Drafts: what is guessed, how wide passes are, and that no answer is another one for it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import opened
from openai import OpenAI
from support.oracle import Oracle
from support.tiny_models import HYBRIDS, NO_THOUGHT, VISION_TEMPLATE, control_id, write_tokenizer
from test_api import serving
from test_engine import assistant, picture, run, text_of, user
from tokenizers import pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM

from qwen_vl.config import Settings
from qwen_vl.constraint import json_schema
from qwen_vl.engine import Engine
from qwen_vl.engine.local import batch, scheduler
from qwen_vl.engine.local.draft import FIRST_ODDS, Drafter
from qwen_vl.engine.local.pace import DOUBTED_AFTER, SURE_AFTER, WIDTHS, Pace
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, Message, Usage


def few(letters: str) -> tuple[tuple[int, float], ...]:
    """A bias to these letters alone, in the tiny tokenizer: of few, a model must repeat some."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return tuple((alphabet.index(letter), 60.0) for letter in letters)


GREEDY = SamplingParams(
    temperature=0, presence_penalty=0, max_new_tokens=64, logit_bias=few("abcd")
)


def usage_of(chunks: list[Chunk]) -> Usage:
    usage = chunks[-1].usage
    assert usage is not None
    return usage


# --- what is guessed ---


def drafted(prompt: str, answer: str = "", most: int = 5) -> str:
    """What a drafter of letters guesses; `#` stands for a picture."""
    drafter = Drafter([ord(letter) for letter in prompt], [ord("#")])
    for letter in answer:
        drafter.push(ord(letter))
    return "".join(map(chr, drafter.draft(most).tokens))


@pytest.mark.parametrize(
    ("prompt", "answer", "guess"),
    [
        ("abcdefgh", "", ""),
        ("abcdefgh", "cd", "efgh"),
        ("abcdefgh ", "x cd", "efgh "),
        ("abcXabcYabd", "abc", "Yabda"),  # of two equal places the later one
        ("1abcX2abcY", "1abc", "X2abc"),  # the longer match goes before the later one
        ("", "xyzxyzxy", "zxyzx"),  # the answer itself; a cycle goes on
        ("", "aaa", "aaaaa"),
        ("ab##cd", "ab", ""),  # no picture is ever drafted,
        ("abc##d", "ab", "c"),
        ("##d##e", "#", ""),  # nor looked up
        ("abcdefgh", "bcdeX", "fgh"),  # a copy with words between goes on where it broke
        ("abcdefgh", "bcdeXYf", "gh"),
    ],
)
def test_a_draft_is_what_stood_before(prompt: str, answer: str, guess: str) -> None:
    assert drafted(prompt, answer).startswith(guess)
    assert bool(drafted(prompt, answer)) == bool(guess)


def test_chances_fall_along_a_draft_and_with_every_mistake() -> None:
    drafter = Drafter([1, 2, 3, 1, 2])
    before = drafter.draft(4).chances
    assert before == sorted(before, reverse=True)
    assert before[0] == FIRST_ODDS[2]
    for _ in range(10):
        for token in (1, 2):  # then comes always another one
            drafter.push(token)
        assert len(drafter.draft(1).tokens) == 1
        drafter.push(random.randrange(10, 2**30))
    for token in (1, 2):
        drafter.push(token)
    assert drafter.draft(1).chances[0] < before[0] / 2


def test_looking_up_stays_cheap_where_everything_is_alike() -> None:
    """A hostile prompt: each token has all earlier ones as its place."""
    drafter = Drafter([7] * 20_000)
    assert drafter.draft(3).tokens == [7, 7, 7]


# --- how wide passes are ---

SURE = [1.0] * 15


def paced(seconds: dict[int, float], rows: int = 1) -> Pace:
    pace = Pace()
    for _ in range(SURE_AFTER):
        for width, taken in seconds.items():
            pace.measure(rows, width, taken)
    return pace


def test_the_first_passes_are_plain() -> None:
    pace = Pace()
    assert pace.width([SURE]) == 1
    for _ in range(SURE_AFTER):
        assert pace.width([SURE]) == 1
        pace.measure(1, 1, 0.1)
    assert pace.width([SURE]) == 2
    assert pace.width([SURE] * 2) == 1  # of two rows nothing is known


def test_without_a_chance_passes_are_plain() -> None:
    pace = paced(dict.fromkeys(WIDTHS, 0.1))
    assert pace.width([[]]) == 1
    assert pace.width([[0.0, 0.0]]) == 1
    assert pace.width([SURE[:2]]) == 3  # no wider than a draft is long
    assert pace.width([SURE]) == 16


def test_the_width_is_the_one_with_the_most_tokens_a_second() -> None:
    pace = paced({1: 0.1, 2: 0.1, 3: 0.1, 4: 0.11, 6: 0.2, 8: 0.2, 12: 1.0, 16: 1.0})
    assert pace.width([SURE]) == 8
    assert pace.width([[0.9, 0.8, 0.7, 0.2, 0.1, 0.1, 0.1]]) == 4
    assert pace.width([[0.05, 0.01, 0.01]]) in (2, 3)


def test_widths_are_tried_one_after_the_other_until_one_does_not_pay() -> None:
    pace, tried = paced({1: 0.1}), [1]
    for _ in range(40):
        width = pace.width([SURE])
        tried += [width] * (width != tried[-1])
        pace.measure(1, width, 0.1 if width < 8 else 0.5)
    assert tried == [1, 2, 3, 4, 6, 8, 6]  # 16 could not pay where 8 does not


def test_a_width_is_tried_again_some_day() -> None:
    """Something else may have been running when it was slow."""
    pace = paced({1: 0.1, 2: 0.2})
    for _ in range(DOUBTED_AFTER + 1):
        assert pace.width([[0.5]]) == 1
        pace.measure(1, 1, 0.1)
    assert pace.width([[0.5]]) == 2
    pace.measure(1, 2, 0.2)
    assert pace.width([[0.5]]) == 1


def test_wide_passes_that_pay_go_on_where_narrow_ones_were_long_ago() -> None:
    pace, widths = paced(dict.fromkeys(WIDTHS, 0.1)), []
    for _ in range(3 * DOUBTED_AFTER):
        widths.append(pace.width([SURE]))
        pace.measure(1, widths[-1], 0.1)
    assert set(widths) == {16}


def test_rows_without_a_draft_count() -> None:
    pace = paced({1: 0.1, 2: 0.11, 3: 0.2}, rows=4)
    assert pace.width([SURE, [], [], []]) == 2
    assert pace.width([[0.3], [], [], []]) == 1
    assert pace.width([SURE[:2]] * 4) == 2


# --- answers: those of plain generate ---


class EvenPace(Pace):
    """Every pass counts as fast as any other, so what is drafted never depends on the machine."""

    def measure(self, rows: int, width: int, seconds: float) -> None:
        super().measure(rows, width, 1.0)


@pytest.fixture(scope="module", autouse=True)
def even_pace() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "Pace", EvenPace)
        yield


@pytest.fixture(scope="module")
def engines(tiny_checkpoints: dict[str, Path]) -> Iterator[dict[str, Engine]]:
    families = ("qwen3_vl", "qwen3_vl_moe", "qwen2_5_vl", "qwen_text")
    made = {name: opened(Settings(model=str(tiny_checkpoints[name]))) for name in families}
    yield made
    for engine in made.values():
        engine.close()


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_vl_moe", "qwen2_5_vl"])
def test_turns_with_drafts_equal_generate(
    family: str, engines: dict[str, Engine], tiny_checkpoints: dict[str, Path]
) -> None:
    """The next turn reads what the turn before has left in the cache."""
    oracle = Oracle(tiny_checkpoints[family])
    messages = [user(picture(1), "ab ab ab ab, 12 12 12 12")]
    accepted = 0
    for question in ("Again?", "And again, please: ab ab ab"):
        chunks = run(engines[family], messages, GREEDY)
        assert text_of(chunks) == oracle.text(messages, GREEDY.max_new_tokens, GREEDY.logit_bias)
        accepted += usage_of(chunks).accepted_tokens
        messages = [*messages, assistant(text_of(chunks)), user(question)]
    assert accepted > 0


@pytest.mark.parametrize("most_holes", [3, 64])
def test_rows_that_join_and_leave_beside_drafts_equal_generate(
    most_holes: int, tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST_HOLES", most_holes)
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"]), max_batch=4))
    oracle, draw = Oracle(tiny_checkpoints["qwen3_vl"]), random.Random(3)
    jobs = []
    for i in range(10):
        pictures = [picture(draw.randrange(3))] * (i % 2)
        messages = [user(*pictures, f"Question {i} " + "xy" * draw.randrange(20))]
        jobs.append((messages, replace(GREEDY, max_new_tokens=draw.randrange(8, 64))))
    with ThreadPoolExecutor(len(jobs)) as pool:
        told = list(pool.map(lambda job: run(engine, *job), jobs))
    engine.close()
    for (messages, params), chunks in zip(jobs, told, strict=True):
        assert text_of(chunks) == oracle.text(messages, params.max_new_tokens, params.logit_bias)
    assert sum(usage_of(chunks).accepted_tokens for chunks in told) > 0


def test_a_sliding_window_sees_as_far_as_without_drafts(tmp_path: Path) -> None:
    torch.manual_seed(11)
    config = Qwen2Config(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=12,
        max_window_layers=1,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = control_id("<|im_end|>")
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, VISION_TEMPLATE)
    engine, oracle = opened(Settings(model=str(tmp_path), max_batch=4)), Oracle(tmp_path)
    asked = [[user("xy" * i)] for i in (2, 9, 14, 20)]
    with ThreadPoolExecutor(len(asked)) as pool:
        told = list(pool.map(lambda messages: run(engine, messages, GREEDY), asked))
    engine.close()
    for messages, chunks in zip(asked, told, strict=True):
        expected = oracle.text(messages, GREEDY.max_new_tokens, GREEDY.logit_bias)
        assert text_of(chunks) == expected
    assert sum(usage_of(chunks).accepted_tokens for chunks in told) > 0


@pytest.mark.parametrize("family", ["qwen3_5", "qwen4_exp"])
def test_recurrent_layers_go_back_to_before_what_was_wrong(family: str, tmp_path: Path) -> None:
    folder = HYBRIDS[family](tmp_path)
    engine = opened(Settings(model=str(folder), max_batch=4))
    oracle = Oracle(folder, NO_THOUGHT if family == "qwen3_5" else "")
    messages, others = [user("ab ab cd")], [user("dcba " * 4)]
    params = replace(GREEDY, max_new_tokens=32)
    usages = []
    for question in ("Again?", "And again, please"):
        chunks = run(engine, messages, params)
        expected = oracle.text(messages, params.max_new_tokens, params.logit_bias)
        assert text_of(chunks) == expected
        usages.append(usage_of(chunks))
        messages = [*messages, assistant(text_of(chunks)), user(question)]
    assert sum(usage.accepted_tokens for usage in usages) > 0
    assert sum(usage.rejected_tokens for usage in usages) > 0
    with ThreadPoolExecutor(2) as pool:  # side by side, and then the longer one alone
        lengths = (10, 32)
        limited = [replace(params, max_new_tokens=length) for length in lengths]
        told = list(pool.map(lambda *asked: run(engine, *asked), (others, messages), limited))
    engine.close()
    for asked, chunks, length in zip((others, messages), told, lengths, strict=True):
        assert text_of(chunks) == oracle.text(asked, length, params.logit_bias)


def test_off_drafts_nothing_and_says_the_same(
    engines: dict[str, Engine], tiny_checkpoints: dict[str, Path]
) -> None:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"]), draft="off"))
    messages = [user("ab ab ab ab")]
    plain = run(engine, messages, GREEDY)
    engine.close()
    with_drafts = run(engines["qwen3_vl"], messages, GREEDY)
    assert text_of(plain) == text_of(with_drafts)
    assert usage_of(plain).accepted_tokens == usage_of(plain).rejected_tokens == 0
    assert usage_of(with_drafts).accepted_tokens > 0
    assert usage_of(plain).completion_tokens == usage_of(with_drafts).completion_tokens


# --- answers: as always ---


@pytest.fixture(scope="module")
def bundled() -> Iterator[Engine]:
    """It answers in words."""
    engine = opened(Settings(model="bundled"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def without() -> Iterator[Engine]:
    """The same without drafts."""
    engine = opened(Settings(model="bundled", draft="off"))
    yield engine
    engine.close()


NAMES = "Ada Brandt, Tomas Ek, Lin Okafor, Marie Duval, Peter Voss"
ASKED: list[Message] = [user(f"Who was there? {NAMES}. Once more: {NAMES}.")]
LIST = json_schema(
    {"type": "array", "items": {"enum": NAMES.split(", ")}, "minItems": 12, "maxItems": 12},
    place="response_format",
)


@pytest.mark.parametrize(
    "fields",
    [
        {"constraint": LIST},
        {"constraint": LIST, "stop": ("Okafor", "Voss")},
        {"constraint": LIST, "max_new_tokens": 41},
        {"constraint": LIST, "repetition_penalty": 1.1, "frequency_penalty": 0.1},
        {"logprobs": 2},
        {"stop": ("o", "e")},
    ],
    ids=lambda fields: "+".join(fields),
)
def test_masks_stops_limits_and_penalties_hold(
    fields: dict[str, object], bundled: Engine, without: Engine
) -> None:
    params = replace(GREEDY, logit_bias=(), **{"max_new_tokens": 200, **fields})
    with_drafts, plain = run(bundled, ASKED, params), run(without, ASKED, params)
    assert text_of(with_drafts) == text_of(plain)
    assert with_drafts[-1].finish_reason == plain[-1].finish_reason
    assert usage_of(with_drafts).completion_tokens == usage_of(plain).completion_tokens
    if "constraint" in fields:
        assert usage_of(with_drafts).accepted_tokens > 0
    if fields == {"constraint": LIST}:
        assert set(json.loads(text_of(with_drafts))) <= set(NAMES.split(", "))
    both = zip(_logprobs(with_drafts), _logprobs(plain), strict=True)
    for one, other in both:
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], abs=1e-3)


def _logprobs(chunks: list[Chunk]) -> list[tuple[bytes, float]]:
    return [(one.raw, one.logprob) for chunk in chunks for one in chunk.logprobs]


def test_a_loop_is_ended_where_it_is_without_drafts(
    engines: dict[str, Engine], tiny_checkpoints: dict[str, Path]
) -> None:
    params = replace(GREEDY, max_new_tokens=600, logit_bias=few("a"))
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"]), draft="off"))
    asked = [user("ab ab ab ab")]
    plain, with_drafts = run(engine, asked, params), run(engines["qwen3_vl"], asked, params)
    engine.close()
    assert plain[-1].finish_reason == "repetition"
    assert with_drafts[-1].finish_reason == "repetition"
    assert text_of(with_drafts) == text_of(plain)
    # Nearly all of it was drafted.
    assert usage_of(with_drafts).accepted_tokens > usage_of(plain).completion_tokens / 2


def test_a_closed_answer_ends_and_the_next_one_is_right(engines: dict[str, Engine]) -> None:
    engine = engines["qwen3_vl"]
    messages = [user("ab ab ab, once more")]
    whole = text_of(run(engine, messages, GREEDY))
    # So long that it is not over before it is closed.
    answer = engine.stream(messages, replace(GREEDY, max_new_tokens=3000))
    begun = next(answer).text
    answer.close()
    rest = list(answer)
    assert rest[-1].finish_reason == "cancelled"
    told = begun + text_of(rest)
    assert whole.startswith(told) or told.startswith(whole)
    assert text_of(run(engine, messages, GREEDY)) == whole


# --- answers: drawn from the same distribution ---


def test_sampling_follows_the_models_distribution(
    engines: dict[str, Engine], tiny_checkpoints: dict[str, Path]
) -> None:
    """A draft that is taken too easily would make what stood before too likely.

    Answers of two letters only, drawn freely. The oracle gives the probability of each guess of a
    drafter. For the guesses of either letter, hits less what was expected, by its deviation, is
    normal. The two squares make a chi-square of two degrees: one time in a million it is over 27.6.
    """
    oracle = Oracle(tiny_checkpoints["qwen_text"])
    tokens = [token for token, _ in few("ab")]
    params = SamplingParams(
        temperature=1, top_p=1, top_k=0, presence_penalty=0, max_new_tokens=48, logit_bias=few("ab")
    )
    messages = [user("abab abba aaab bbba abaab")]
    prompt = oracle.tokenizer(oracle.prompt(messages), add_special_tokens=False)["input_ids"]
    with ThreadPoolExecutor(8) as pool:
        told = list(
            pool.map(
                lambda seed: run(engines["qwen_text"], messages, replace(params, seed=seed)),
                range(60),
            )
        )
    assert sum(usage_of(chunks).accepted_tokens for chunks in told) > 100
    assert sum(usage_of(chunks).rejected_tokens for chunks in told) > 100
    guessed: dict[int, list[tuple[bool, float]]] = {token: [] for token in tokens}
    for chunks in told:
        answer = [tokens["ab".index(letter)] for letter in text_of(chunks)]
        assert len(answer) == params.max_new_tokens
        chances = oracle.logprobs(messages, answer)[:, tokens].softmax(-1).tolist()
        drafter = Drafter(prompt)
        for token, pair in zip(answer, chances, strict=True):
            for guess in drafter.draft(1).tokens:
                if guess in tokens:
                    guessed[guess].append((token == guess, pair[tokens.index(guess)]))
            drafter.push(token)
    chi_square = 0.0
    for group in guessed.values():
        assert len(group) > 500
        surplus = sum(is_right - chance for is_right, chance in group)
        chi_square += surplus**2 / sum(chance * (1 - chance) for _, chance in group)
    assert chi_square < 27.6


def test_the_same_seed_says_the_same(engines: dict[str, Engine]) -> None:
    params = replace(GREEDY, temperature=0.8, seed=5)
    messages = [user("ab ab ab ab")]
    first = run(engines["qwen3_vl"], messages, params)
    assert text_of(run(engines["qwen3_vl"], messages, params)) == text_of(first)


# --- what is told ---


def test_usage_and_metrics_tell_the_drafts(bundled: Engine) -> None:
    with serving(bundled, Settings(), closes_engine=False) as http:
        client = OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)
        told = client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": ASKED[0].text}],
            temperature=0,
            max_tokens=200,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "names", "schema": json.loads(LIST.source)},
            },
        )
        assert told.usage is not None
        details = told.usage.completion_tokens_details
        assert details is not None
        assert details.accepted_prediction_tokens
        assert details.accepted_prediction_tokens < told.usage.completion_tokens
        assert details.rejected_prediction_tokens is not None
        figures = http.get("/metrics").text.splitlines()
    for kind, count in (
        ("accepted", details.accepted_prediction_tokens),
        ("rejected", details.rejected_prediction_tokens),
    ):
        assert f'qwen_vl_tokens_total{{kind="draft_{kind}"}} {float(count)}' in figures
