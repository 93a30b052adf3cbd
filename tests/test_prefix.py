"""The prefix store on made-up states: what is found, what is dropped, how much is kept."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from qwen_vl.engine.local.prefix import PrefixStore, token_keys
from qwen_vl.engine.local.snapshots import MOST_SNAPSHOTS
from qwen_vl.engine.model.pictures import Picture
from qwen_vl.engine.model.prompt import Prompt

IMAGE = 9
TOKEN_BYTES = 2 * 4 * 2  # keys and values, float32, head_dim 2


def states(*tokens: int) -> tuple[np.ndarray, list[tuple[torch.Tensor, torch.Tensor]]]:
    """One layer whose states hold the tokens themselves, so that it shows what was stored."""
    keys = np.array(tokens)
    layer = torch.tensor(tokens, dtype=torch.float32).view(1, 1, -1, 1).repeat(1, 1, 1, 2)
    return keys, [(layer, -layer)]


def found(store: PrefixStore, *tokens: int) -> list[int]:
    columns = store.longest(np.array(tokens)).columns
    return [int(value) for value in columns[0][0][0, 0, :, 0]] if columns else []


def test_longest_common_prefix() -> None:
    store = PrefixStore(10_000)
    store.put(*states(1, 2, 3))
    store.put(*states(1, 5, 6, 7))
    assert found(store, 1, 2, 3, 4) == [1, 2, 3]
    assert found(store, 1, 5, 6, 0, 0) == [1, 5, 6]
    assert found(store, 1, 0) == [1]
    assert found(store, 2, 1) == []


def test_the_last_token_always_runs() -> None:
    store = PrefixStore(10_000)
    store.put(*states(1, 2, 3))
    assert found(store, 1, 2, 3) == [1, 2]
    assert found(store, 1) == []


def test_a_longer_prefix_replaces_its_beginning_and_a_shorter_one_adds_nothing() -> None:
    store = PrefixStore(10_000)
    store.put(*states(1, 2))
    store.put(*states(1, 2, 3))
    store.put(*states(1, 2))
    assert len(store) == 1
    assert store.size_bytes == 3 * TOKEN_BYTES


def test_what_was_used_longest_ago_goes_first() -> None:
    store = PrefixStore(7 * TOKEN_BYTES)
    store.put(*states(1, 1, 1))
    store.put(*states(2, 2, 2))
    assert found(store, 1, 1, 0) == [1, 1]  # used: now the other one is older
    store.put(*states(3, 3, 3))
    assert found(store, 2, 2, 0) == []
    assert found(store, 1, 1, 0) == [1, 1]
    assert found(store, 3, 3, 0) == [3, 3]
    assert store.size_bytes == 6 * TOKEN_BYTES


def test_nothing_is_kept_beyond_the_bound() -> None:
    store = PrefixStore(2 * TOKEN_BYTES)
    store.put(*states(1, 2, 3))
    assert len(store) == 0
    assert store.size_bytes == 0


def test_stored_states_are_copies() -> None:
    store = PrefixStore(10_000)
    keys, layers = states(1, 2, 3)
    store.put(keys, layers)
    layers[0][0].zero_()
    assert found(store, 1, 2, 3, 4) == [1, 2, 3]


class Named:
    """A picture that is known by its key, and never decoded here."""

    size = (12, 4)

    def __init__(self, key: str) -> None:
        self.key = key

    def decode(self) -> Image.Image:
        raise AssertionError("nobody needs its pixels")

    def abandon(self) -> None:
        pass


def prompt(*contents: str) -> Prompt:
    pictures = [Picture(Named(content), (2, 6), 3, 0) for content in contents]
    return Prompt([1, *[IMAGE] * 3 * len(contents), 2], pictures)


def test_visual_tokens_are_told_apart_by_content() -> None:
    one, same, other = (token_keys(prompt(c), IMAGE) for c in ("a", "a", "b"))
    assert np.array_equal(one, same)
    assert not set(one[1:4]) & set(other[1:4])
    assert (one[[0, -1]] == [1, 2]).all()
    assert (one[1:4] < 0).all()  # never equal to a token id
    assert len(set(token_keys(prompt("a", "b"), IMAGE))) == 8


def test_what_is_larger_than_the_store_is_not_kept_and_drops_nothing() -> None:
    store = PrefixStore(3 * TOKEN_BYTES)
    store.put(*states(1, 2))
    store.put(*states(1, 2, 3, 4))
    assert len(store) == 1
    assert found(store, 1, 2, 3, 4) == [1, 2]


# --- recurrent layers: what cannot be cut is found at its snapshots only ---


STATE_BYTES = 4


def snapshots(*ends: int) -> dict[int, list[list[torch.Tensor | None]]]:
    """One recurrent layer whose state tells after how many tokens it was taken."""
    return {end: [[torch.tensor([float(end)]), None]] for end in ends}


def found_at(store: PrefixStore, *tokens: int) -> tuple[int, int]:
    """(tokens, what the snapshot says) of the longest prefix."""
    states = store.longest(np.array(tokens))
    if not states.tokens:
        return 0, 0
    (state, _), *_ = states.snapshot
    assert state is not None
    return states.tokens, int(state)


def test_a_recurrent_prefix_is_found_up_to_its_snapshots() -> None:
    store = PrefixStore(10_000)
    store.put(*states(1, 2, 3, 4, 5, 6), snapshots=snapshots(2, 4))
    assert found_at(store, 1, 2, 3, 4, 5, 6, 7) == (4, 4)
    assert found_at(store, 1, 2, 3, 4) == (2, 2)  # the last token always runs
    assert found_at(store, 1, 2, 3, 9) == (2, 2)
    assert found_at(store, 1, 9) == (0, 0)
    assert store.size_bytes == 4 * TOKEN_BYTES + 2 * STATE_BYTES  # nothing after the last one


def test_a_longer_recurrent_prefix_takes_over_the_snapshots_of_its_beginning() -> None:
    store = PrefixStore(10_000)
    store.put(*states(1, 2, 3), snapshots=snapshots(1, 3))
    store.put(*states(1, 2, 3, 4, 5), snapshots=snapshots(5))
    assert len(store) == 1
    assert [found_at(store, 1, 2, 3, 4, 5, 6)[0], found_at(store, 1, 2, 3, 0)[0]] == [5, 3]
    store.put(*states(1, 2), snapshots=snapshots(2))  # a place that was passed by before
    assert len(store) == 1
    assert found_at(store, 1, 2, 0) == (2, 2)
    assert store.size_bytes == 5 * TOKEN_BYTES + 4 * STATE_BYTES


def test_snapshots_of_one_sequence_are_bounded() -> None:
    store = PrefixStore(100_000)
    tokens = list(range(1, 41))
    store.put(*states(*tokens), snapshots=snapshots(20, *range(21, 41)))
    assert store.size_bytes == 40 * TOKEN_BYTES + MOST_SNAPSHOTS * STATE_BYTES
    assert found_at(store, *tokens, 0) == (40, 40)
    assert found_at(store, *tokens[:20], 0) == (20, 20)  # the one that saves most


def test_snapshots_count_towards_the_bound() -> None:
    store = PrefixStore(3 * TOKEN_BYTES + STATE_BYTES)
    store.put(*states(1, 2, 3), snapshots=snapshots(1, 3))
    assert len(store) == 0
    store.put(*states(1, 2, 3), snapshots=snapshots(3))
    assert len(store) == 1
