"""Released weights compute in this package what their three forward lines say, in every tower."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crab_lightning.adapters import ILoRALinear
from crab_lightning.adapters.names import portable_name
from crab_lightning.adapters.released import convert_released, open_released
from crab_lightning.adapters.released_table import released_table
from crab_lightning.commands.adapter import _sizes
from crab_lightning.mini import TinyNativeConfig, make_tiny_native
from crab_lightning.models import OmniModule
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch
from tests.processing.examples import video_example

RANK, ALPHA = 4, 8.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = TinyNativeConfig(hidden=64, layers=2, vision_layers=2, audio_layers=2)
    return make_tiny_native(tmp_path_factory.mktemp("base") / "tiny", config=sizes)


@pytest.fixture(scope="module")
def released(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the released code writes it, no B zero."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, shape in released_table(_sizes(str(base)), RANK).items():
        # Sizes that keep z near 1, the routes far from even and the update about as large as the output.
        scale = 0.3 if "lora_B" in name else (2.0 if "route" in name else 1.0) / math.sqrt(shape[1])
        state[name] = (torch.randn(shape, generator=generator) * scale).bfloat16()
    path = tmp_path_factory.mktemp("released") / "finetune_weights.bin"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def folder(base: Path, released: Path) -> Path:
    out = released.parent / "adapter"
    convert_released(released, out, sizes=_sizes(str(base)), rank=RANK, alpha=ALPHA)
    return out


@pytest.fixture(scope="module")
def batch(base: Path) -> Batch:
    processor = NativeProcessor(base)
    return processor.collate([processor.encode(video_example(count=2, seconds=1.0))])


def module_of(base: Path, **options: Any) -> OmniModule:
    module = OmniModule(str(base), **options)
    module.configure_model()
    return module.eval()


def stated(base: Path, released: Path | None, dtype: str) -> nn.Module:
    """Return the bare thinker whose target layers follow the published lines, token by token."""
    model = module_of(base, dtype=dtype).model
    if released is None:
        return model
    state = {name: value.to(getattr(torch, dtype)) for name, value in open_released(released).items()}
    used: set[str] = set()
    for name, layer in model.named_modules():
        stem = f"base_model.model.{portable_name(name)}"
        if f"{stem}.lora_A.weight" not in state:
            continue
        parts = {
            p: state[f"{stem}.{p}.weight"] for p in ("lora_route", "lora_A", "lora_B0", "lora_B1", "lora_B2")
        }
        used |= {f"{stem}.{part}.weight" for part in parts}
        layer.forward = MethodType(_by_token(parts), layer)
    assert used == state.keys()
    return model


def _by_token(parts: dict[str, Tensor]) -> Callable[[nn.Linear, Tensor], Tensor]:
    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        outputs = []
        for token in x.reshape(-1, x.shape[-1]):
            w = torch.softmax((token @ parts["lora_route"].T).float(), -1).to(token.dtype)
            h = token @ parts["lora_A"].T
            y = F.linear(token, layer.weight, layer.bias)
            for i in range(3):
                y = y + w[i : i + 1] * (h @ parts[f"lora_B{i}"].T) * (ALPHA / RANK)
            outputs.append(y)
        return torch.stack(outputs).view(*x.shape[:-1], -1)

    return forward


@torch.no_grad()
def logits(model: nn.Module, batch: Batch) -> Tensor:
    out: Tensor = model(**batch.inputs, use_cache=False).logits.float()
    return out


def test_logits_are_those_of_the_three_lines_in_fp32(
    base: Path, released: Path, folder: Path, batch: Batch
) -> None:
    ours = logits(module_of(base, load_adapter=folder, dtype="float32").model, batch)
    wanted = logits(stated(base, released, "float32"), batch)
    assert (logits(stated(base, None, "float32"), batch) - wanted).abs().max() > 0.1 * wanted.abs().max()
    torch.testing.assert_close(ours, wanted, atol=2e-5, rtol=1e-4)


def test_logits_are_as_near_to_fp32_as_those_of_the_three_lines_in_bf16(
    base: Path, released: Path, folder: Path, batch: Batch
) -> None:
    exact = logits(stated(base, released, "float32"), batch)
    theirs = (logits(stated(base, released, "bfloat16"), batch) - exact).square().mean().sqrt()
    ours = (logits(module_of(base, load_adapter=folder).model, batch) - exact).square().mean().sqrt()
    assert 0 < ours < 1.1 * theirs
    assert ours < 0.1 * exact.square().mean().sqrt()


def test_the_file_decides_what_is_adapted(base: Path, folder: Path) -> None:
    module = module_of(base, load_adapter=folder)
    layers = [n for n, m in module.model.named_modules() if isinstance(m, ILoRALinear)]
    assert len(layers) == 2 * 3 + 2 * 3 + 2 * 7
    assert {p.dtype for n, p in module.model.named_parameters() if "lora_" in n} == {torch.bfloat16}


def test_the_plain_geometry_is_refused(base: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="geometry is 'released' in the checkpoint, 'plain' in the run"):
        module_of(base, load_adapter=folder, geometry="plain")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointing_reaches_the_adapters_of_the_encoders(
    base: Path, folder: Path, batch: Batch, checkpointing: bool
) -> None:
    module = module_of(base, load_adapter=folder, dtype="float32", gradient_checkpointing=checkpointing)
    calls: dict[str, int] = {"audio_tower": 0, "visual": 0}
    for name, layer in module.model.named_modules():
        for tower in calls:
            if portable_name(name) in (f"{tower}.layers.0.self_attn.q_proj", f"{tower}.blocks.0.mlp.up_proj"):
                layer.register_forward_pre_hook(lambda *_, t=tower: calls.update({t: calls[t] + 1}))
    module.train()
    module.losses(batch)[0].sum().backward()
    moved = [n for n, p in module.model.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert sorted(moved) == sorted(n for n, p in module.model.named_parameters() if p.requires_grad)
    # Each layer's forward ran once more inside backward, so nothing of it was kept.
    assert calls == {"audio_tower": 1 + checkpointing, "visual": 1 + checkpointing}
