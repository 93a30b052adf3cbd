"""The tiny Qwen3-VL: its configuration, its first weights, and a batched training forward.

The forward runs on the parameters of transformers' own module and gives the same numbers, but
takes whole batches of equal-sized pictures. Knows nothing of pictures, questions or optimisers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

PATCH_PX = 16
MERGE = 2
MIN_PIXELS, MAX_PIXELS = 16_384, 262_144
MODEL_ID = "qwen3-vl-tiny-demo"
PLACE_WAVES = (
    (torch.cos, 1), (torch.sin, 2), (torch.cos, 2), (torch.sin, 4), (torch.cos, 4), (torch.sin, 8),
    (torch.cos, 8),
)  # fmt: skip
# Heads that learn where to look: layer -> (head, steps ahead). 0 is the place that the token read
# just now tells of, 1 the place that the token to be said next tells of.
GUIDED_HEADS = {1: ((0, 0),), 4: ((0, 1), (2, 1)), 5: ((0, 1),)}
GIST_LAYER = 4  # what a picture says must stand in the input of this one, for it to choose from


def make_config(vocab: dict[str, int], vocab_size: int) -> Qwen3VLConfig:
    """The configuration; `vocab` gives the ids of the control tokens."""
    return Qwen3VLConfig(
        vision_config={
            "hidden_size": 192,
            "depth": 8,
            "num_heads": 3,
            "intermediate_size": 768,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 256,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [1, 3],
        },
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 16_384,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 50_000.0,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": vocab["<|endoftext|>"],
            "bos_token_id": vocab["<|endoftext|>"],
            "eos_token_id": vocab["<|im_end|>"],
        },
        image_token_id=vocab["<|image_pad|>"],
        video_token_id=vocab["<|video_pad|>"],
        vision_start_token_id=vocab["<|vision_start|>"],
        vision_end_token_id=vocab["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def make_model(config: Qwen3VLConfig) -> Qwen3VLForConditionalGeneration:
    """A fresh float32 model. Residual branches start at zero, so depth costs nothing at first."""
    model = Qwen3VLForConditionalGeneration(config)
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or "embed_tokens" in name or "patch_embed" in name:
            continue
        if "pos_embed" in name:
            nn.init.normal_(weight, std=0.1)
            weight.data[:, -2 * len(PLACE_WAVES) :] += place_code(round(len(weight) ** 0.5))
        elif name.endswith(("attn.proj.weight", "o_proj.weight", "down_proj.weight")) or (
            ("blocks" in name or "deepstack" in name) and name.endswith("linear_fc2.weight")
        ):
            nn.init.zeros_(weight)
        else:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return model


def place_code(side: int) -> Tensor:
    """Smooth waves over the rows and columns of a `side` x `side` grid, [side * side, features].

    Without them the encoder learnt letters within minutes, but hardly where in the picture it is.
    """
    along = (torch.arange(side) + 0.5) / side
    waves = torch.stack([wave(math.pi * times * along) for wave, times in PLACE_WAVES], 1)
    rows = waves[:, None].expand(side, side, -1)
    cols = waves[None].expand(side, side, -1)
    return torch.cat([rows, cols], -1).flatten(0, 1)


def whiten_patch_embed(model: Qwen3VLForConditionalGeneration, patches: Tensor) -> None:
    """Start the patch embedding from whitened principal components of real patches.

    `patches` is [n, 3 * 16 * 16] in -1..1. Strokes then weigh as much as the flat background,
    which a random start takes many steps to learn.
    """
    proj = model.model.visual.patch_embed.proj
    mean = patches.mean(0)
    cov = torch.cov((patches - mean).T)
    values, vectors = torch.linalg.eigh(cov)
    keep = proj.out_channels
    values, vectors = values[-keep:].flip(0), vectors[:, -keep:].flip(1)
    weight = vectors / (values + 0.02 * values.mean()).sqrt()
    folded = weight.T.reshape(keep, 3, 1, PATCH_PX, PATCH_PX)
    with torch.no_grad():
        # Both frames of a still picture are equal: half of the weight on each.
        proj.weight.copy_(folded.expand(-1, -1, 2, -1, -1) / 2)
        proj.bias.copy_(-(mean @ weight))


def halve(module: nn.Module) -> None:
    """Parameters to bfloat16, buffers not: rounded rotary frequencies would be other ones."""
    for param in module.parameters():
        param.data = param.data.bfloat16()


def patchify(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> [B, patches, 3 * 16 * 16] float32 in -1..1, as the processor does."""
    batch, height, width, _ = pixels.shape
    rows, cols = height // (PATCH_PX * MERGE), width // (PATCH_PX * MERGE)
    x = pixels.reshape(batch, rows, MERGE, PATCH_PX, cols, MERGE, PATCH_PX, 3)
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(batch, rows * cols * MERGE * MERGE, -1)
    return x.float() / 127.5 - 1


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    swapped = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + swapped * sin


def _vision_block(
    x: Tensor,
    spans: list[tuple[int, int, int]],
    rotary: list[tuple[Tensor, Tensor]],
    block: nn.Module,
) -> Tensor:
    """x is [patches of all pictures, width]; attention stays within each picture."""
    attn, mlp = block.attn, block.mlp
    qkv = attn.qkv(_layer_norm(x, block.norm1))
    parts = []
    for (start, stop, count), (cos, sin) in zip(spans, rotary, strict=True):
        part = qkv[start:stop].view(count, -1, 3, attn.num_heads, attn.head_dim)
        q, k, v = part.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        # For a few hundred patches two plain products beat the fused CPU kernel by half.
        out = torch.softmax((q * attn.scaling) @ k.transpose(-1, -2), dim=-1) @ v
        parts.append(out.transpose(1, 2).reshape(stop - start, -1))
    x = x + attn.proj(torch.cat(parts))
    up = F.gelu(mlp.linear_fc1(_layer_norm(x, block.norm2)), approximate="tanh")
    return x + mlp.linear_fc2(up)


def _layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, 1e-6)


def _merge(x: Tensor, merger: nn.Module) -> Tensor:
    """[patches, width] -> [patches / 4, 256]: four neighbours become one visual token."""
    wide = merger.hidden_size
    if merger.use_postshuffle_norm:
        x = _layer_norm(x.reshape(-1, wide), merger.norm)
    else:
        x = _layer_norm(x, merger.norm).reshape(-1, wide)
    return merger.linear_fc2(F.gelu(merger.linear_fc1(x)))


class TextForward:
    """Forward of the text model over conversations laid end to end, without padding."""

    def __init__(self, language_model: nn.Module) -> None:
        self.text = language_model

    def __call__(
        self,
        ids: Tensor,
        positions: Tensor,
        spans: list[tuple[int, int]],
        visual_at: Tensor,
        visual: Tensor,
        features: list[Tensor],
        sources: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The last hidden states and those at GIST_LAYER, [T, 256] each, and the looking.

        `ids` [T] and `positions` [3, T] of all conversations; `spans` are their (start, stop);
        `visual` and each of `features` are [V, 256] and belong at the places `visual_at` [V].
        `sources` [T] are the places that tokens tell of, counted within a conversation, or -1. The
        looking says how badly the guided heads look, a mean in nats.
        """
        text = self.text
        x = text.embed_tokens(ids).index_copy(0, visual_at, visual)
        cos, sin = text.rotary_emb(x, positions[:, None])
        cos, sin = cos[0, :, None], sin[0, :, None]
        longest = max(stop - start for start, stop in spans)
        mask = torch.full((longest, longest), float("-inf"), dtype=x.dtype).triu(1)
        guides: list[Tensor] = []
        for index, layer in enumerate(text.layers):
            if index == GIST_LAYER:
                gathered = x
            h = _rms_norm(x, layer.input_layernorm)
            guide = Guide(GUIDED_HEADS.get(index, ()), sources, guides)
            x = x + _text_attention(h, cos, sin, spans, mask, layer.self_attn, guide)
            h, mlp = _rms_norm(x, layer.post_attention_layernorm), layer.mlp
            x = x + mlp.down_proj(F.silu(mlp.gate_proj(h)) * mlp.up_proj(h))
            if index < len(features):
                x = x.index_add(0, visual_at, features[index])
        return _rms_norm(x, text.norm), gathered, torch.cat(guides).mean()


@dataclass(frozen=True)
class Guide:
    """Which heads of a layer are told where to look, and the losses that it adds to."""

    heads: tuple[tuple[int, int], ...]
    sources: Tensor
    losses: list[Tensor]

    def add(self, scores: Tensor, start: int) -> None:
        """`scores` [heads, length, length] of the conversation that starts at `start`."""
        told = self.sources[start : start + scores.shape[1]]
        at = (told >= 0).nonzero()[:, 0]
        for head, ahead in self.heads:
            rows = scores[head].index_select(0, at - ahead).float()
            self.losses.append(F.cross_entropy(rows, told[at], reduction="none"))


def _rms_norm(x: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _text_attention(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    spans: list[tuple[int, int]],
    mask: Tensor,
    attn: nn.Module,
    guide: Guide,
) -> Tensor:
    """Causal attention within each conversation."""
    q = _rms_norm(attn.q_proj(x).unflatten(-1, (-1, attn.head_dim)), attn.q_norm)
    k = _rms_norm(attn.k_proj(x).unflatten(-1, (-1, attn.head_dim)), attn.k_norm)
    v = attn.v_proj(x).unflatten(-1, (-1, attn.head_dim))
    q, k = _rotate(q, cos, sin) * attn.scaling, _rotate(k, cos, sin)
    parts = []
    for start, stop in spans:
        length, groups = stop - start, attn.num_key_value_groups
        keys = k[start:stop].permute(1, 2, 0).repeat_interleave(groups, 0)
        values = v[start:stop].transpose(0, 1).repeat_interleave(groups, 0)
        scores = q[start:stop].transpose(0, 1) @ keys + mask[:length, :length]
        guide.add(scores, start)
        parts.append((torch.softmax(scores, -1) @ values).transpose(0, 1).flatten(1))
    return attn.o_proj(torch.cat(parts))


class VisionForward:
    """Batched forward of the vision encoder: groups of equal-sized pictures in one call."""

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual
        self.cache: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def _positions(self, rows: int, cols: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Interpolation taps and weights, rotary cos and sin for a rows x cols grid of patches."""
        if (rows, cols) not in self.cache:
            grid = torch.tensor([[1, rows, cols]])
            taps, tap_weights = get_vision_interpolation_indices_and_weights(
                grid,
                num_grid_per_side=self.visual.num_grid_per_side,
                mode=self.visual.interpolation_mode,
                align_corners=self.visual.interpolation_align_corners,
                spatial_merge_size=MERGE,
            )
            ids = get_vision_position_ids(grid, MERGE)
            cos, sin = self.visual.rotary_pos_emb(tap_weights, ids)
            self.cache[rows, cols] = (taps, tap_weights, cos, sin)
        return self.cache[rows, cols]

    def __call__(
        self, groups: list[tuple[Tensor, int, int]], deepstack: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Each group is (patches [B, rows * cols, 768], rows, cols) of equal-sized pictures.

        Returns the visual tokens [tokens of all pictures, 256], group by group, and the deepstack
        features in the same layout.
        """
        visual = self.visual
        proj = visual.patch_embed.proj
        weight = proj.weight.sum(2).flatten(1)
        embedded, spans, rotary, start = [], [], [], 0
        for patches, rows, cols in groups:
            taps, tap_weights, cos, sin = self._positions(rows, cols)
            position = (visual.pos_embed(taps) * tap_weights[..., None].to(weight.dtype)).sum(1)
            x = F.linear(patches.to(weight.dtype), weight, proj.bias) + position
            embedded.append(x.flatten(0, 1))
            spans.append((start, start + len(embedded[-1]), len(patches)))
            rotary.append((cos.to(weight.dtype), sin.to(weight.dtype)))
            start = spans[-1][1]
        x = torch.cat(embedded)
        features = []
        for index, block in enumerate(visual.blocks):
            x = _vision_block(x, spans, rotary, block)
            if deepstack and index in visual.deepstack_visual_indexes:
                which = visual.deepstack_visual_indexes.index(index)
                features.append(_merge(x, visual.deepstack_merger_list[which]))
        return _merge(x, visual.merger), features
