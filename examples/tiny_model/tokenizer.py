"""The byte-level BPE tokenizer with Qwen's control tokens, and the chat template.

Knows the wording of questions and answers, which its merges are made from. Knows nothing of
pictures' pixels or of the model.

Merges always grow from the start of a word, and no merge starts with a letter or a digit of ASCII.
So " circle" is one token, while print such as "INV-0817" stays one token per character: reading is
then copying, one character at a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dialogues import TASKS, make_sample
from network import MAX_PIXELS, MIN_PIXELS, PATCH_PX
from questions import FIELD_QUESTIONS, OFF_TOPIC, QUESTIONS, SYSTEM_PROMPTS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from wording import PLACES, ZH

MERGES = 780
SPACE = "Ġ"  # how the byte-level alphabet writes a space
# The names and the order of Qwen3-VL's own tokenizer.
CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_ADDED = ("<tool_call>", "</tool_call>", "<think>", "</think>")
# Keys of JSON answers are one token each: a box costs half as many steps.
JSON_KEYS = (
    '"bbox_2d"', '"point_2d"', '"label"', *(f'"{key}"' for key in FIELD_QUESTIONS)
)  # fmt: skip
# Qwen2's rule for words: contractions, letters with one mark before them, single digits, marks.
WORD_RULE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Our own template in Qwen3-VL's prompt format; the processor widens each pad to N tokens.
CHAT_TEMPLATE = """\
{%- macro shown(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' or part.type == 'image_url' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif part.text is defined -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{%- if message.role != 'system' or loop.first -%}
{{- '<|im_start|>' + message.role + '\\n' }}{{ shown(message.content) }}{{ '<|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_RULE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def corpus() -> Iterable[str]:
    """Questions and answers in both languages; printed words appear only by the way."""
    for table in (QUESTIONS, FIELD_QUESTIONS):
        for english, chinese in table.values():
            yield from english * 4
            yield from chinese * 4
    yield from OFF_TOPIC[0]
    yield from OFF_TOPIC[1]
    yield from SYSTEM_PROMPTS
    for task in TASKS:
        if task in ("text", "page"):
            continue
        for seed in range(500):
            for turn in make_sample(task, seed).turns:
                yield turn.answer


def _merges(counts: Counter[str], most: int) -> list[tuple[str, str]]:
    """Chinese characters, the Chinese names of things, then the starts of frequent English words.

    All grow from the left: (" c", "i"), (" ci", "r"), ... The longest prefix is the token.
    """
    grown: dict[str, None] = {}  # in the order of their ranks

    def grow(word: str) -> None:
        grown.update(dict.fromkeys(word[:end] for end in range(2, len(word) + 1)))

    seen = Counter(char for text, count in counts.items() for char in text * min(count, 50))
    for char in sorted(char for char in seen if not char.isascii()):
        grow(_as_bytes(char))
    names = [*ZH.values(), *(place for _, place in PLACES.values())]
    merges = [(prefix[:-1], prefix[-1]) for prefix in grown]
    for name in names:
        chars = [_as_bytes(char) for char in name]
        merges += [("".join(chars[:end]), chars[end]) for end in range(1, len(chars))]
    merges = list(dict.fromkeys(merges))
    prefixes: Counter[str] = Counter()
    rule = _pre_tokenizer()
    for text, count in counts.items():
        for word, _ in rule.pre_tokenize_str(text):
            # A merge that begins with a letter would also join letters in the middle of print.
            if word[0] == SPACE or (text.isascii() and not word[0].isalnum()):
                for end in range(2, len(word) + 1):
                    prefixes[word[:end]] += count
    # A prefix is never rarer than what grows from it; equal counts go shortest first.
    ranked = sorted(prefixes, key=lambda prefix: (-prefixes[prefix], len(prefix), prefix))
    merges += [(prefix[:-1], prefix[-1]) for prefix in ranked[: most - len(merges)]]
    return merges


def _as_bytes(text: str) -> str:
    """The text as the byte-level alphabet writes it, one sign per byte."""
    ((piece, _),) = pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(text)
    return piece


def build_tokenizer() -> Tokenizer:
    """The tokenizer: 256 bytes, the merges, the control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(Counter(corpus()), MERGES)
    vocab = {piece: i for i, piece in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in CONTROL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in PLAIN_ADDED + JSON_KEYS])
    return tokenizer


def load_or_build(file: Path) -> Tokenizer:
    """The tokenizer in `file`; built and saved there if it is missing.

    The merges follow the wording of the answers, so training that goes on after a change of wording
    must not build it anew: every token id would mean something else.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        build_tokenizer().save(str(file))
    return Tokenizer.from_file(str(file))


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write everything beside the weights that the processor reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 16_384,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": PATCH_PX,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
    }
    for name, value in (
        ("tokenizer_config.json", config),
        ("preprocessor_config.json", processor),
    ):
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
