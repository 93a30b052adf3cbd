"""Writes tiny randomly initialised checkpoints of every supported family, as a hub would hold them.

They exercise loading, prompts and decoding without a download; their answers mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLImageProcessor,
    Qwen3_5Config,
    Qwen3_5ForCausalLM,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen4ExpConfig,
    Qwen4ExpForConditionalGeneration,
)

CONTROL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

# Qwen's prompt format, written for these tests.
VISION_TEMPLATE = """{% for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}
{%- if part.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}
{{- '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
THINKING_TEMPLATE = VISION_TEMPLATE.replace(
    "assistant\\n' }}{% endif", "assistant\\n<think>\\n' }}{% endif"
)
# Thinks unless it is told not to, with degrees of effort, and shows earlier thoughts if asked.
_EFFORT = """{% if reasoning_effort is defined %}
{%- if reasoning_effort not in ['low', 'xhigh'] %}{{ raise_exception('unknown effort') }}{% endif %}
{{- 'Effort: ' + reasoning_effort }}{% endif %}"""
SWITCHED_TEMPLATE = _EFFORT + VISION_TEMPLATE.replace(
    "{%- if message.content is string",
    "{%- if preserve_thinking and message.reasoning_content %}{{ '<think>' + "
    "message.reasoning_content + '</think>' }}{% endif %}{% if message.content is string",
).replace(
    "assistant\\n' }}{% endif",
    "assistant\\n<think>\\n' }}{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '\\n</think>\\n\\n' }}{% endif %}{% endif",
)
# As Qwen3.5's: answers at once behind an empty thought, which later prompts no longer show.
NO_THOUGHT = "<think>\n\n</think>\n\n"
CLOSED_TEMPLATE = VISION_TEMPLATE.replace(
    "assistant\\n' }}{% endif",
    "assistant\\n<think>\\n' }}{% if not enable_thinking %}"
    "{{ '\\n</think>\\n\\n' }}{% endif %}{% endif",
)

_TEXT = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
_QWEN3_TEXT = {
    **_TEXT,
    "head_dim": 16,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
}
_QWEN3_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 16,
    "out_hidden_size": 32,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}


_HYBRID_TEXT = {
    **_QWEN3_TEXT,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_HYBRID_VISION = {
    name: value for name, value in _QWEN3_VISION.items() if name != "deepstack_visual_indexes"
}
_EXPERTS = {
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}


def control_id(name: str) -> int:
    """Token id of a control token: they follow the 256 bytes."""
    return 256 + CONTROL_TOKENS.index(name)


_VISION_IDS = {
    "image_token_id": control_id("<|image_pad|>"),
    "video_token_id": control_id("<|video_pad|>"),
    "vision_start_token_id": control_id("<|vision_start|>"),
    "vision_end_token_id": control_id("<|vision_end|>"),
}


def write_tokenizer(folder: Path, template: str) -> None:
    """A byte-level tokenizer with Qwen's control tokens and a chat template.

    It decodes every token to a character of its own, not to bytes: random models write no valid
    UTF-8, and this way equal texts mean equal tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(CONTROL_TOKENS)

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    fast.chat_template = template
    assert all(fast.convert_tokens_to_ids(name) == control_id(name) for name in CONTROL_TOKENS)
    fast.save_pretrained(folder)


def _save(folder: Path, model: torch.nn.Module, template: str, patch_size: int | None) -> Path:
    model.generation_config.eos_token_id = control_id("<|im_end|>")
    model.generation_config.pad_token_id = control_id("<|endoftext|>")
    model.save_pretrained(folder)
    write_tokenizer(folder, template)
    if patch_size:
        Qwen2VLImageProcessor(
            patch_size=patch_size,
            merge_size=2,
            size={"shortest_edge": 64 * 64, "longest_edge": 512 * 512},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ).save_pretrained(folder)
    return folder


def qwen3_vl(folder: Path, template: str = VISION_TEMPLATE) -> Path:
    torch.manual_seed(1)
    config = Qwen3VLConfig(text_config=_QWEN3_TEXT, vision_config=_QWEN3_VISION, **_VISION_IDS)
    return _save(folder, Qwen3VLForConditionalGeneration(config), template, 16)


def qwen3_vl_thinking(folder: Path) -> Path:
    return qwen3_vl(folder, THINKING_TEMPLATE)


def qwen3_vl_moe(folder: Path) -> Path:
    torch.manual_seed(2)
    experts = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
    config = Qwen3VLMoeConfig(
        text_config={**_QWEN3_TEXT, **experts}, vision_config=_QWEN3_VISION, **_VISION_IDS
    )
    return _save(folder, Qwen3VLMoeForConditionalGeneration(config), VISION_TEMPLATE, 16)


def qwen2_5_vl(folder: Path) -> Path:
    torch.manual_seed(3)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    config = Qwen2_5_VLConfig(
        text_config={**_TEXT, "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 14,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        **_VISION_IDS,
    )
    return _save(folder, Qwen2_5_VLForConditionalGeneration(config), VISION_TEMPLATE, 14)


def qwen_text(folder: Path) -> Path:
    """The family of Qwen1.5-0.5B-Chat, whose model type is qwen2."""
    torch.manual_seed(4)
    return _save(folder, Qwen2ForCausalLM(Qwen2Config(**_TEXT)), VISION_TEMPLATE, None)


def qwen3_5(folder: Path, template: str = CLOSED_TEMPLATE) -> Path:
    torch.manual_seed(5)
    config = Qwen3_5Config(text_config=_HYBRID_TEXT, vision_config=_HYBRID_VISION, **_VISION_IDS)
    return _save(folder, Qwen3_5ForConditionalGeneration(config), template, 16)


def qwen3_5_moe(folder: Path) -> Path:
    torch.manual_seed(6)
    text = {**_HYBRID_TEXT, **_EXPERTS}
    config = Qwen3_5MoeConfig(text_config=text, vision_config=_HYBRID_VISION, **_VISION_IDS)
    return _save(folder, Qwen3_5MoeForConditionalGeneration(config), VISION_TEMPLATE, 16)


def qwen4_exp(folder: Path) -> Path:
    """Qwen3.8's kind: an indexer chooses what attention reads, embeddings of n-grams are added."""
    torch.manual_seed(7)
    text = {
        **_HYBRID_TEXT,
        **_EXPERTS,
        "hc_count": 2,
        "hc_lowrank": 8,
        "ple_layer_ids": [1],
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 50,
        "split_ngram_parts": 1,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 32,
        "indexer_compress_ratio": 4,
        "eos_token_id": control_id("<|im_end|>"),
    }
    config = Qwen4ExpConfig(text_config=text, vision_config=_HYBRID_VISION, **_VISION_IDS)
    model = Qwen4ExpForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "ple.conv1d" in name:  # begins as zeros, and would hide a wrong state
            torch.nn.init.normal_(parameter, std=0.3)
    return _save(folder, model, VISION_TEMPLATE, 16)


def qwen3_next(folder: Path) -> Path:
    torch.manual_seed(8)
    config = Qwen3NextConfig(**{**_HYBRID_TEXT, **_EXPERTS})
    return _save(folder, Qwen3NextForCausalLM(config), VISION_TEMPLATE, None)


def qwen3_5_text(folder: Path) -> Path:
    torch.manual_seed(9)
    model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**_HYBRID_TEXT))
    return _save(folder, model, CLOSED_TEMPLATE, None)


# Some of their layers are recurrent.
HYBRIDS = {
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen4_exp": qwen4_exp,
    "qwen3_next": qwen3_next,
    "qwen3_5_text": qwen3_5_text,
}
FAMILIES = {
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_thinking": qwen3_vl_thinking,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen_text": qwen_text,
}
