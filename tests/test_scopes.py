"""What a visitor leaves in the caches serves that visitor alone; everybody has a fair share."""

from __future__ import annotations

import string
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import opened
from support.held import inference_held
from support.oracle import Oracle
from support.tiny_models import VISION_TEMPLATE, qwen3_vl
from test_api import serving
from test_engine import GREEDY, cached_tokens, picture, text_of, user

from qwen_vl import EXAMPLES
from qwen_vl.config import Settings
from qwen_vl.engine import Engine
from qwen_vl.engine.answer import Answer
from qwen_vl.engine.local.prefix import PrefixStore
from qwen_vl.engine.local.preparation import Prepared
from qwen_vl.engine.local.sampler import Sampler
from qwen_vl.engine.local.sequence import Sequence
from qwen_vl.engine.local.store import IDLE_S, FairStore
from qwen_vl.engine.local.waiting import PATIENCE_S, WaitingSequences
from qwen_vl.engine.model.prompt import Prompt
from qwen_vl.media.pictures import open_image
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, ImagePart, Message, TextPart

SYSTEM_PROMPT = "You are a careful assistant who looks twice."
DEFAULT_TEXT_TEMPLATE = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are Qwen, who helps."
    "<|im_end|>\\n' }}{% endif %}" + VISION_TEMPLATE
)


ONE_TOKEN = replace(GREEDY, max_new_tokens=1)


def ask(
    engine: Engine, scope: str, messages: list[Message], params: SamplingParams = ONE_TOKEN
) -> list[Chunk]:
    return list(engine.stream(messages, params, scope))


@pytest.fixture
def engine(tiny_checkpoints: dict[str, Path]) -> Iterator[Engine]:
    engine = opened(Settings(model=str(tiny_checkpoints["qwen3_vl"])))
    yield engine
    engine.close()


def test_a_prefix_serves_the_scope_that_left_it(engine: Engine) -> None:
    secret = [user("The code of my front door is 493817. Remember it.")]
    assert cached_tokens(ask(engine, "alice", secret)) == 0
    assert cached_tokens(ask(engine, "mallory", secret)) == 0
    for scope in ("alice", "mallory"):
        again = ask(engine, scope, secret)[-1].usage
        assert again is not None
        assert again.cached_tokens == again.prompt_tokens - 1


def test_digits_cannot_be_guessed_from_what_is_cached(engine: Engine) -> None:
    """A guess tells nothing: its figures are those of a server that nobody else has asked."""
    begun = "The code of my front door is "

    def figures(scope: str) -> list[int]:
        guesses = [f"{begun}{digit}?" for digit in string.digits]
        return [cached_tokens(ask(engine, scope, [user(guess)])) for guess in guesses]

    before = figures("first")
    ask(engine, "alice", [user(f"{begun}493817. Remember it.")])
    assert figures("second") == before


def test_digits_cannot_be_guessed_over_http() -> None:
    settings = Settings(model="bundled", api_key=("alice", "mallory"))
    with serving(opened(settings), settings) as client:

        def cached(key: str, text: str) -> int:
            body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
            headers = {"Authorization": f"Bearer {key}"}
            told = client.post("/v1/chat/completions", json=body, headers=headers).json()
            return int(told["usage"]["prompt_tokens_details"]["cached_tokens"])

        begun = "The code of my front door is "
        cached("alice", f"{begun}493817. Remember it.")
        assert cached("alice", f"{begun}493817. What is it?") > len(begun)
        assert cached("mallory", f"{begun}0") == 0
        told = [cached("mallory", f"{begun}{digit}") for digit in string.digits[1:]]
        assert len(set(told)) == 1


def test_the_servers_system_prompt_is_read_once_for_everybody(
    tiny_checkpoints: dict[str, Path],
) -> None:
    folder = tiny_checkpoints["qwen3_vl"]
    engine = opened(Settings(model=str(folder), system_prompt=SYSTEM_PROMPT))
    messages = [Message("system", (TextPart(SYSTEM_PROMPT),)), user("What may this be?")]
    first, second = (ask(engine, scope, messages, GREEDY) for scope in ("one", "two"))
    others = ask(engine, "three", [Message("system", (TextPart("Mine."),)), user("Hello")])
    engine.close()
    assert cached_tokens(first) == cached_tokens(second) > len(SYSTEM_PROMPT)
    assert text_of(first) == Oracle(folder).text(messages, GREEDY.max_new_tokens)
    # Of another system prompt, no more than what the template writes before it.
    assert cached_tokens(others) == 1 + len("system\n")


def test_what_the_template_says_itself_is_shared(tmp_path: Path) -> None:
    folder = qwen3_vl(tmp_path / "model", DEFAULT_TEXT_TEMPLATE)
    engine = opened(Settings(model=str(folder)))
    told = [cached_tokens(ask(engine, scope, [user("Hello")])) for scope in ("one", "two")]
    engine.close()
    assert told[0] == told[1] > len("You are Qwen, who helps.")


def test_features_serve_the_scope_whose_picture_it_was(engine: Engine) -> None:
    first, second = ([user(text, picture(1))] for text in ("First", "Second"))
    ask(engine, "alice", first)
    ask(engine, "mallory", second)
    assert (engine.stats().vision_misses, engine.stats().vision_hits) == (2, 0)
    ask(engine, "alice", second)
    assert (engine.stats().vision_misses, engine.stats().vision_hits) == (2, 1)


def test_features_of_the_apps_own_examples_serve_everybody(engine: Engine) -> None:
    path = sorted((EXAMPLES / "images").glob("*.png"))[0]
    for scope in ("alice", "mallory"):
        shown = ImagePart(open_image(path, Settings()))
        assert cached_tokens(ask(engine, scope, [user(shown, "What is it?")])) == 0
    assert (engine.stats().vision_misses, engine.stats().vision_hits) == (1, 1)


def test_what_others_ask_at_the_same_moment_shows_in_no_figure(engine: Engine) -> None:
    """Rows that are prefilled in one pass run as many tokens as the one with the most to run."""
    system = Message("system", (TextPart("You are a helpful assistant. " * 8),))
    asked = {"alice": "A", "mallory": "A rather longer question, of some more tokens"}
    for scope in asked:
        ask(engine, scope, [system, user("Hello")])
    alone = {
        scope: cached_tokens(ask(engine, scope, [system, user(text + "?")]))
        for scope, text in asked.items()
    }
    with inference_held(engine):  # it sees none of them before all are there
        answers = {
            scope: engine.stream([system, user(text + "!")], GREEDY, scope)
            for scope, text in asked.items()
        }
    together = {scope: cached_tokens(list(answer)) for scope, answer in answers.items()}
    # One more character is known by now: the text that the question before had, too.
    assert together == {scope: alone[scope] + len(asked[scope]) for scope in asked}


# --- the fair share ---


def test_nobody_pushes_out_what_another_one_keeps() -> None:
    store: FairStore[str] = FairStore(100)
    assert store.put("quiet", "a", "its only one", 30)
    for i in range(50):
        store.put("flood", i, f"{i}", 10)
    assert store.get("quiet", "a") == "its only one"
    assert store.size_bytes == 100
    assert [key for key, _ in store.entries("flood")] == list(range(43, 50))


def test_one_large_entry_does_not_push_out_many_small_ones() -> None:
    store: FairStore[str] = FairStore(100)
    for i in range(10):
        store.put(f"scope {i}", "a", "small", 10)
    assert not store.put("greedy", "b", "large", 60)
    assert len(store) == 10
    assert store.put("modest", "b", "small", 10)  # a share as large as theirs
    assert len(store) == 10


def test_many_scopes_of_one_visitor_take_no_more_than_what_is_theirs() -> None:
    store: FairStore[str] = FairStore(100)
    store.put("quiet", "a", "small", 5)
    for i in range(1000):
        store.put(f"session {i}", "a", "made up", 10)
    assert store.get("quiet", "a") == "small"
    assert store.size_bytes <= 100


def test_what_is_idle_for_long_makes_room_first() -> None:
    clock_s = [0.0]
    store: FairStore[str] = FairStore(100, lambda: clock_s[0])
    store.put("gone", "a", "small", 20)
    clock_s[0] = IDLE_S + 1
    store.put("heavy", "b", "large", 80)
    store.put("heavy", "c", "more", 10)
    assert store.get("gone", "a") is None
    assert [key for key, _ in store.entries("heavy")] == ["b", "c"]


def states(*tokens: int) -> tuple[np.ndarray, list[tuple[torch.Tensor, torch.Tensor]]]:
    layer = torch.tensor(tokens, dtype=torch.float32).view(1, 1, -1, 1)
    return np.array(tokens), [(layer, -layer)]


def test_a_prefix_is_seen_in_its_scope_and_a_shared_one_in_all() -> None:
    store = PrefixStore(10_000)
    store.put(*states(1, 2, 3), "alice")
    store.share(*states(1, 2))
    asked = np.array([1, 2, 3, 4])
    assert store.found(asked, "alice") == 3
    assert store.found(asked, "mallory") == 2
    assert store.found(np.array([1, 5]), "mallory") == 1


def test_a_shared_prefix_is_never_pushed_out() -> None:
    store = PrefixStore(40)  # of 8 bytes a token
    store.share(*states(1, 2))
    for i in range(20):
        store.put(*states(1, i, i), f"scope {i}")
    assert store.found(np.array([1, 2, 3]), "anybody") == 2
    assert store.size_bytes <= 40


def test_what_was_found_stays_when_it_is_pushed_out() -> None:
    store = PrefixStore(24)
    store.put(*states(1, 2, 3))
    held = store.peek(np.array([1, 2, 3, 4]))
    store.put(*states(4, 5, 6))
    assert store.found(np.array([1, 2, 3, 4])) == 0
    assert held.columns[0][0].flatten().tolist() == [1, 2, 3]


def test_what_does_not_fit_leaves_what_it_would_replace() -> None:
    store = PrefixStore(32)
    store.put(*states(1, 2), "alice")
    store.put(*states(7, 8), "mallory")
    store.put(*states(1, 2, 3), "alice")
    assert store.found(np.array([7, 8, 9]), "mallory") == 2
    assert store.found(np.array([1, 2, 3, 4]), "alice") == 2


# --- the queue ---


def waiting(scope: str, *, pixels: int = 0, for_s: float = 0.0) -> Sequence:
    """A sequence of this scope that has waited for so long, with so many bytes of new pictures."""
    pictures = [np.zeros(pixels, dtype=np.uint8)] if pixels else []
    return Sequence(
        scope,
        Prompt([1], []),
        np.array([1]),
        Prepared(pictures=pictures),
        1,
        Answer(1, 60, lambda _: None),
        Sampler(GREEDY),
        text=None,  # type: ignore[arg-type] - it writes nothing here
        thought=None,  # type: ignore[arg-type]
        queued_s=time.monotonic() - for_s,
    )


def test_next_is_who_has_the_fewest_answers_then_who_brings_no_pictures_then_who_came_first() -> (
    None
):
    line = WaitingSequences(16)
    shown, second, first_text, text = (
        waiting("loud", pixels=9),
        waiting("quiet", pixels=9),
        waiting("loud"),
        waiting("loud"),
    )
    for request in (shown, second, first_text, text):
        line.append(request)
    assert line.in_order({"loud": 3}) == [second, first_text, text, shown]
    assert line.in_order({}) == [first_text, second, text, shown]  # each one counts for the next


def test_nobody_starves_and_nobody_is_drowned() -> None:
    """Every second turn is that of the one who waited longest, once that is long."""
    line = WaitingSequences(16)
    late = [waiting("loud", pixels=9, for_s=PATIENCE_S + 9 - i) for i in range(3)]
    for request in late:
        line.append(request)
    turns = []
    for _ in range(4):
        line.append(waiting("quiet"))
        turns.append(line.in_turn({"loud": 2})[0])
        line.remove(turns[-1])
    assert [request.scope for request in turns] == ["loud", "quiet", "loud", "quiet"]
    assert turns[0] is late[0]


def test_one_scope_leaves_places_in_the_queue_to_others() -> None:
    line = WaitingSequences(16)
    while not line.is_full("loud"):
        line.append(waiting("loud"))
    assert len(line) == 12
    while not line.is_full("quiet"):
        line.append(waiting("quiet"))
    assert len(line) == 16
    assert not WaitingSequences(1).is_full("anybody")


def test_new_pictures_leave_places_in_the_queue_to_texts() -> None:
    line = WaitingSequences(16)
    for scope in ("loud", "louder"):
        while not line.is_full(scope, new_pictures=True):
            line.append(waiting(scope, pixels=9))
    assert len(line) == 12
    assert not line.is_full("loud")
