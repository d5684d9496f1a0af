"""The 4-bit option says what it lacks; adapters work over a base that packs its weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from crab_lightning.adapters import AdapterConfig, insert_adapters, quantized
from tests.adapters.statement import stated


class Packed(nn.Linear):
    """Keeps its weight as bytes, as bitsandbytes' layers do, and unpacks it when it is used."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None)
        self.bias = plain.bias
        self.scale = plain.weight.detach().abs().max() / 127
        packed = (plain.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(packed.flatten()[:, None], requires_grad=False)

    def unpacked(self) -> Tensor:
        return self.weight.view(self.out_features, self.in_features).float() * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.unpacked(), self.bias)


@pytest.mark.parametrize("kind", ["lora", "ilora"])
def test_adapters_train_over_a_packed_base(kind: str) -> None:
    model = nn.ModuleDict({"q_proj": Packed(nn.Linear(10, 12))})
    before = copy.deepcopy(model.q_proj.state_dict())
    insert_adapters(model, AdapterConfig(kind=kind, rank=4, target_modules=["q_proj"], within=None))
    layer, x = model.q_proj, torch.randn(2, 5, 10)
    nn.init.normal_(layer.lora_B)
    plain = copy.deepcopy(layer)
    plain.base = nn.Linear(10, 12)
    plain.base.weight.data, plain.base.bias = layer.base.unpacked(), layer.base.bias
    torch.testing.assert_close(layer(x), stated(plain, x))
    layer(x).square().sum().backward()
    assert all(p.grad is not None for n, p in layer.named_parameters() if n.startswith("lora_"))
    assert all(torch.equal(v, before[n]) for n, v in layer.base.state_dict().items())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "RequirementCache", lambda name: False)
    with pytest.raises(ImportError, match=r"pip install 'bitsandbytes>=0\.48', or leave quantization out"):
        quantized.four_bit_config(torch.bfloat16)


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "RequirementCache", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device; leave quantization out"):
        quantized.four_bit_config(torch.bfloat16)


def test_the_base_is_nf4_without_its_output_layer_and_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.quantizers.quantizers_utils import should_convert_module

    monkeypatch.setattr(quantized, "RequirementCache", lambda name: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = quantized.four_bit_config(torch.bfloat16)
    assert (made.load_in_4bit, made.bnb_4bit_quant_type, made.bnb_4bit_use_double_quant) == (
        True,
        "nf4",
        True,
    )
    assert made.bnb_4bit_compute_dtype is torch.bfloat16
    for module, packed in {
        "lm_head": False,
        "model.audio_tower.layers.0.self_attn.q_proj": False,
        "audio_tower.layers.0.self_attn.q_proj": False,
        "model.visual.blocks.0.mlp.up_proj": False,
        "visual.blocks.0.mlp.up_proj": False,
        "model.language_model.layers.0.mlp.up_proj": True,
        "model.layers.0.mlp.up_proj": True,
    }.items():
        assert should_convert_module(module, made.llm_int8_skip_modules) == packed, module


def test_full_fine_tuning_of_packed_weights_is_refused() -> None:
    from crab_lightning.models import OmniModule

    with pytest.raises(ValueError, match="4-bit weights cannot be trained"):
        OmniModule("nowhere", quantization="4bit")


def test_a_machine_without_gpu_is_told_so_when_the_base_is_loaded() -> None:
    from crab_lightning.models import OmniModule

    module = OmniModule("nowhere", adapter=AdapterConfig(), quantization="4bit")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises((ImportError, ValueError), match="quantization is '4bit', but"):
        module.configure_model()
