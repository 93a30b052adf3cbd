"""The tiny Qwen3-VL: its configuration, its first weights, and a batched training forward.

The forward runs on the parameters of transformers' own module and gives the same numbers, but
takes whole batches. Knows nothing of pictures, questions or optimisers.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
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
MIN_PIXELS, MAX_PIXELS = (
    196_608,
    393_216,
)  # smaller pictures are enlarged: print of 15 px is read at 20
MODEL_ID = "qwen3-vl-tiny-demo"
PLACE_WAVES = (
    (torch.cos, 1), (torch.sin, 2), (torch.cos, 2), (torch.sin, 4), (torch.cos, 4), (torch.sin, 8),
    (torch.cos, 8),
)  # fmt: skip
# Heads that learn where to look: layer -> (head, steps ahead). 0 is the place that the token read
# just now tells of, 1 the place that the token to be said next tells of.
GUIDED_HEADS = {1: ((0, 0),), 4: ((0, 1), (2, 1)), 5: ((0, 1),)}
BUCKET = 32  # sequences of like length that share one product of attention
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


def patchify(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [patches, 3 * 16 * 16], in the processor's order."""
    rows, cols = (side // (PATCH_PX * MERGE) for side in pixels.shape[:2])
    x = pixels.reshape(rows, MERGE, PATCH_PX, cols, MERGE, PATCH_PX, 3)
    return x.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * cols * MERGE * MERGE, -1)


def levels(patches: Tensor) -> Tensor:
    """uint8 -> float32 in -1..1, as the processor does."""
    return patches.float() / 127.5 - 1


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    swapped = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + swapped * sin


@dataclass(frozen=True)
class Buckets:
    """Sequences laid end to end, sorted into padded rows of like length for attention.

    Of each bucket `sizes` says (rows B, length L), `places` [n] where its tokens lie and `slots`
    [n] where they go in the B * L; padding comes last in a row. `inverse` [T] brings the buckets'
    tokens, one bucket after the other, back into the order of the places.
    """

    sizes: list[tuple[int, int]]
    places: list[Tensor]
    slots: list[Tensor]
    inverse: Tensor

    def split(self, x: Tensor) -> list[Tensor]:
        """[T, width] as one [B, L, width] per bucket, with zeros as padding."""
        parts = []
        for (rows, length), places, slots in zip(self.sizes, self.places, self.slots, strict=True):
            # Not x[places] of a padded table: its gradient adds up all the padding in one place.
            part = x.new_zeros(rows * length, x.shape[-1])
            part = part.index_copy(0, slots, x.index_select(0, places))
            parts.append(part.unflatten(0, (rows, length)))
        return parts

    def join(self, parts: list[Tensor]) -> Tensor:
        """The other way round."""
        kept = [
            part.flatten(0, 1).index_select(0, slots)
            for part, slots in zip(parts, self.slots, strict=True)
        ]
        return torch.cat(kept).index_select(0, self.inverse)

    def padding(self) -> list[Tensor]:
        """[B, L] per bucket: 0 for a token, minus infinity for padding."""
        masks = []
        for (rows, length), slots in zip(self.sizes, self.slots, strict=True):
            mask = torch.full((rows * length,), float("-inf"), device=slots.device)
            masks.append(mask.index_fill(0, slots, 0.0).view(rows, length))
        return masks


def make_buckets(
    spans: list[tuple[int, int]], device: torch.device, several: bool = False
) -> Buckets:
    """Buckets for sequences at these (start, stop).

    A GPU wants many sequences a product, and pays for some padding; a CPU wants none of it, except
    with `several`.
    """
    order = sorted(range(len(spans)), key=lambda i: spans[i][1] - spans[i][0])
    size = BUCKET if several or device.type == "cuda" else 1
    groups: list[list[int]] = []
    for i in order:
        length = spans[i][1] - spans[i][0]
        same = groups and spans[groups[-1][0]][1] - spans[groups[-1][0]][0] == length
        if groups and len(groups[-1]) < BUCKET and (same or len(groups[-1]) < size):
            groups[-1].append(i)
        else:
            groups.append([i])
    sizes, places, slots = [], [], []
    for group in groups:
        starts, stops = np.array([spans[i] for i in group]).T
        steps = np.arange((stops - starts).max())
        row, step = np.nonzero(steps < (stops - starts)[:, None])
        sizes.append((len(group), len(steps)))
        places.append(starts[row] + step)
        slots.append(row * len(steps) + step)
    inverse = np.argsort(np.concatenate(places))
    return Buckets(
        sizes,
        [torch.from_numpy(part).to(device) for part in places],
        [torch.from_numpy(part).to(device) for part in slots],
        torch.from_numpy(inverse).to(device),
    )


def _vision_block(
    x: Tensor,
    buckets: Buckets,
    padding: list[Tensor],
    rotary: tuple[Tensor, Tensor],
    block: nn.Module,
) -> Tensor:
    """x is [patches of all pictures, width]; attention stays within each picture."""
    attn, mlp = block.attn, block.mlp
    qkv = attn.qkv(_layer_norm(x, block.norm1)).unflatten(-1, (3, attn.num_heads, attn.head_dim))
    q, k = _rotate(qkv[:, 0], *rotary) * attn.scaling, _rotate(qkv[:, 1], *rotary)
    parts = []
    for part, mask in zip(
        buckets.split(torch.stack((q, k, qkv[:, 2]), 1).flatten(1)), padding, strict=True
    ):
        q, k, v = part.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        # For a few hundred patches two plain products beat the fused CPU kernel by half.
        scores = q @ k.transpose(-1, -2) + mask[:, None, None].to(q.dtype)
        parts.append((torch.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2))
    x = x + attn.proj(buckets.join(parts))
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
        mask = torch.full((longest, longest), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        buckets = make_buckets(spans, x.device)
        guides: list[Tensor] = []
        for index, layer in enumerate(text.layers):
            if index == GIST_LAYER:
                gathered = x
            h = _rms_norm(x, layer.input_layernorm)
            guide = Guide(GUIDED_HEADS.get(index, ()), sources, guides)
            x = x + _text_attention(h, cos, sin, buckets, mask, layer.self_attn, guide)
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

    def add(self, scores: Tensor, places: Tensor, slots: Tensor) -> None:
        """`scores` [B, heads, L, L] of a bucket; its tokens' `places` and `slots` in B * L."""
        if not self.heads:
            return
        told = torch.full(scores[:, 0, :, 0].shape, -1, device=slots.device).flatten()
        told[slots] = self.sources[places]
        told = told.view(len(scores), -1)
        which, at = (told >= 0).nonzero(as_tuple=True)
        for head, ahead in self.heads:
            rows = scores[which, head, at - ahead].float()
            self.losses.append(F.cross_entropy(rows, told[which, at], reduction="none"))


def _rms_norm(x: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _text_attention(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    buckets: Buckets,
    mask: Tensor,
    attn: nn.Module,
    guide: Guide,
) -> Tensor:
    """Causal attention within each conversation: padding lies behind, where nobody looks."""
    q = _rms_norm(attn.q_proj(x).unflatten(-1, (-1, attn.head_dim)), attn.q_norm)
    k = _rms_norm(attn.k_proj(x).unflatten(-1, (-1, attn.head_dim)), attn.k_norm)
    v = attn.v_proj(x).unflatten(-1, (-1, attn.head_dim))
    q, k = _rotate(q, cos, sin) * attn.scaling, _rotate(k, cos, sin)
    heads, shared = attn.num_key_value_groups, k.shape[1]
    laid = buckets.split(torch.cat((q.flatten(1), k.flatten(1), v.flatten(1)), 1))
    parts = []
    for i, part in enumerate(laid):
        each = part.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)  # [B, heads, L, head_dim]
        query, keys, values = each.split((heads * shared, shared, shared), 1)
        keys, values = (both.repeat_interleave(heads, 1) for both in (keys, values))
        length = part.shape[1]
        scores = query @ keys.transpose(-1, -2) + mask[:length, :length]
        guide.add(scores, buckets.places[i], buckets.slots[i])
        parts.append((torch.softmax(scores, -1) @ values).transpose(1, 2).flatten(2))
    return attn.o_proj(buckets.join(parts))


class VisionForward:
    """Batched forward of the vision encoder: pictures of any sizes in one call."""

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
            rotary = self.visual.rotary_pos_emb
            like = self.visual.pos_embed.weight
            cos, sin = rotary(tap_weights.to(like.device), ids.to(like.device))
            self.cache[rows, cols] = (
                taps.to(like.device),
                tap_weights.to(like.device),
                cos,
                sin,
            )
        return self.cache[rows, cols]

    def __call__(
        self, patches: np.ndarray, grids: list[tuple[int, int]], deepstack: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """`patches` uint8 [P, 768] of all pictures; `grids` their (rows, cols) of patches.

        Returns the visual tokens [P / 4, 256] and the deepstack features in the same layout.
        """
        visual = self.visual
        proj = visual.patch_embed.proj
        weight = proj.weight.sum(2).flatten(1)
        taps, tap_weights, cos, sin = (
            torch.cat(parts)
            for parts in zip(*(self._positions(*grid) for grid in grids), strict=True)
        )
        ends = np.cumsum([0, *(rows * cols for rows, cols in grids)]).tolist()
        buckets = make_buckets(list(itertools.pairwise(ends)), weight.device)
        padding = buckets.padding()
        position = (visual.pos_embed(taps) * tap_weights[..., None].to(weight.dtype)).sum(1)
        pixels = levels(torch.from_numpy(patches).to(weight.device)).to(weight.dtype)
        x = F.linear(pixels, weight, proj.bias) + position
        rotary = (cos[:, None].to(x.dtype), sin[:, None].to(x.dtype))
        features = []
        for index, block in enumerate(visual.blocks):
            x = _vision_block(x, buckets, padding, rotary, block)
            if deepstack and index in visual.deepstack_visual_indexes:
                which = visual.deepstack_visual_indexes.index(index)
                features.append(_merge(x, visual.deepstack_merger_list[which]))
        return _merge(x, visual.merger), features
