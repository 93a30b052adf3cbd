"""Text deltas: whole characters at once, stop strings never shown, nothing else held back."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from qwen_vl.engine.local.detokenize import TextStream
from qwen_vl.engine.thoughts import ThoughtSplitter


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def deltas(tokenizer: Tokenizer, text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(tokenizer, stops, ThoughtSplitter(may_think=False))
    out = []
    for token in tokenizer.encode(text).ids:
        out.append(stream.push(token).text)
        if stream.stopped:
            return out, True
    return [*out, stream.flush().text], False


def test_every_byte_of_ascii_is_shown_at_once(tokenizer: Tokenizer) -> None:
    assert deltas(tokenizer, "Hello  world\n\t!") == ([*"Hello  world\n\t!", ""], False)


def test_characters_of_several_bytes_come_whole(tokenizer: Tokenizer) -> None:
    out, _ = deltas(tokenizer, "a你😀é")
    assert out == ["a", "", "", "你", "", "", "", "😀", "", "é", ""]


def test_stop_string_is_cut_and_what_follows_too(tokenizer: Tokenizer) -> None:
    out, stopped = deltas(tokenizer, "one END two", ("END",))
    assert ("".join(out), stopped) == ("one ", True)


def test_a_beginning_of_a_stop_string_is_held_and_then_released(tokenizer: Tokenizer) -> None:
    out, stopped = deltas(tokenizer, "xENy", ("END",))
    assert (out, stopped) == (["x", "", "", "ENy", ""], False)
    out, stopped = deltas(tokenizer, "xEN", ("END",))  # the answer ends inside it
    assert (out, stopped) == (["x", "", "", "EN"], False)


def test_repeating_stop_strings(tokenizer: Tokenizer) -> None:
    out, stopped = deltas(tokenizer, "aaab", ("aab",))
    assert ("".join(out), stopped) == ("a", True)


def test_the_earliest_stop_string_wins(tokenizer: Tokenizer) -> None:
    out, stopped = deltas(tokenizer, "1,2;3", (";", ","))
    assert ("".join(out), stopped) == ("1", True)
