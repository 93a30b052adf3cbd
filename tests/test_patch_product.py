"""The patch embedding as a product gives what the convolution gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.tiny_models import qwen2_5_vl, qwen3_5, qwen3_vl
from torch import nn
from transformers import AutoModelForImageTextToText

from qwen_vl.engine.model import patch_product
from qwen_vl.engine.model.patch_product import PatchProduct


@pytest.mark.parametrize("written", [qwen3_vl, qwen2_5_vl, qwen3_5])
@torch.inference_mode()
def test_it_computes_what_the_convolution_does(
    written: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = written(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    embedding = model.model.visual.patch_embed
    kernel = embedding.proj.weight[0].numel()
    patches = torch.randn(24, kernel, generator=torch.Generator().manual_seed(0))
    expected = embedding(patches)
    patch_product.use_on_cpu(model)
    assert isinstance(embedding.proj, PatchProduct)
    torch.testing.assert_close(embedding(patches), expected, rtol=1e-4, atol=1e-5)


def test_other_convolutions_stay() -> None:
    model = nn.Sequential(nn.Conv3d(2, 4, 3, stride=1), nn.Conv3d(4, 4, 2, stride=2, padding=1))
    patch_product.use_on_cpu(model)
    assert [type(one) for one in model] == [nn.Conv3d, nn.Conv3d]
