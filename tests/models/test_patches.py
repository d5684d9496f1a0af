"""The first layer of a video encoder is computed as a product, with unchanged values and gradients."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5_VisionPatchEmbed as OmniPatches
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionPatchEmbed as VlPatches
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeVisionPatchEmbed

from crab_lightning.models.patches import PatchProduct, multiply_patches
from crab_lightning.structures import Batch
from tests.models.conftest import Build

SIZES: dict[str, Any] = {"patch_size": 14, "temporal_patch_size": 2, "in_channels": 3}
MADE = {
    "Qwen2.5-Omni": lambda: OmniPatches(**SIZES, embed_dim=32),
    "Qwen2.5-VL": lambda: VlPatches(**SIZES, embed_dim=32),
    "Qwen3-Omni": lambda: Qwen3OmniMoeVisionPatchEmbed(SimpleNamespace(**SIZES, hidden_size=32)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", MADE)
def test_values_and_gradients_are_those_of_the_convolution(family: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    stock = MADE[family]().to(dtype)
    assert type(stock.proj) is nn.Conv3d, f"transformers changed {family}: is multiply_patches still needed?"
    ours = copy.deepcopy(stock)
    multiply_patches(ours)
    assert type(ours.proj) is PatchProduct
    assert list(ours.state_dict()) == list(stock.state_dict())
    rows = torch.randn(300, 1176, dtype=dtype)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    with torch.no_grad():  # answers
        torch.testing.assert_close(ours(rows), stock(rows), **close)
    given = [rows.clone().requires_grad_() for _ in range(2)]
    for patches, x in zip((ours, stock), given, strict=True):
        patches(x).float().square().mean().backward()
    torch.testing.assert_close(given[0].grad, given[1].grad, **close)
    torch.testing.assert_close(ours.proj.weight.grad, stock.proj.weight.grad, **close)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert ours(rows).dtype == stock(rows).dtype == torch.bfloat16


def test_input_of_another_size_is_convolved_and_other_convolutions_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 4, 2, stride=2), nn.Conv3d(3, 4, 2, padding=1), nn.Conv2d(3, 4, 2, 2))
    wide = torch.randn(2, 3, 4, 2, 6)
    wanted = model[0](wide)
    multiply_patches(model)
    assert [type(part) for part in model] == [PatchProduct, nn.Conv3d, nn.Conv2d]
    assert torch.equal(model[0](wide), wanted)
    with pytest.raises(RuntimeError, match="channels"):
        model[0](torch.randn(2, 5, 2, 2, 2))


def test_a_model_reads_videos_as_transformers_own_class_does(build: Build, batch: Batch) -> None:
    module = build(adapter=None)
    stock: Any = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        module.pretrained, dtype=torch.float32
    ).eval()
    model: Any = module.model
    kinds = [[type(m) for m in part.modules() if isinstance(m, nn.Conv3d)] for part in (model, stock)]
    assert kinds == [[PatchProduct], [nn.Conv3d]]
    assert list(model.state_dict()) == list(stock.state_dict())
    with torch.no_grad():
        logits = [part(**batch.inputs).logits for part in (model.eval(), stock)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)
