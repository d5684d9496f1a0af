"""Faults of an adapter kind of another package that a training would not show are found when it is added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from crab_lightning.adapters import ADAPTERS, AdapterConfig, LoRALinear
from crab_lightning.adapters.kinds import register_adapter
from crab_lightning.adapters.trial import try_layer


@dataclass
class GatedConfig(AdapterConfig):
    """weights each low-rank value."""

    kind: Literal["gated"] = "gated"


class Gated(LoRALinear):
    config_class = GatedConfig

    def add_parameters(self) -> None:
        self.gate = self._parameter(self.rank)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        torch.nn.init.ones_(self.gate)

    def update(self, x: Tensor) -> Tensor:
        return self.scaling * (self.dropped(x) @ self.lora_A.T * self.gate) @ self.lora_B.T


def no_first_value(self: Any) -> None:
    LoRALinear.reset_parameters(self)


def first_value_of_the_base(self: Any) -> None:
    LoRALinear.reset_parameters(self)
    self.gate.detach().copy_(self.base.weight[0, : self.rank])


def plain_tensor(self: Any) -> None:
    self.gate = torch.ones(self.rank)


def buffer_without_value(self: Any) -> None:
    self.gate = self._parameter(self.rank)
    self.register_buffer("mask", torch.ones(self.rank), persistent=False)


@pytest.mark.parametrize("layer", [Gated, *ADAPTERS.values()], ids=lambda layer: layer.__name__)
def test_a_sound_kind_passes(layer: type[LoRALinear]) -> None:
    before = torch.random.get_rng_state()
    try_layer(layer)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("method", "wrong", "said"),
    [
        ("update", LoRALinear.update, "has the parameter gate, but no method `update` that uses it"),
        ("update", lambda self, x: self.base(x), "does not give the output of its base"),
        ("update", lambda self, x: None, "update returns None; it must return a tensor"),
        ("update", lambda self, x: x, r"update returns shape \(1, 3, 6\); it must return"),
        ("update", lambda self, x: x @ x, "fails in a trial .RuntimeError: Expected size"),
        ("reset_parameters", no_first_value, "reset_parameters gives gate no value"),
        ("reset_parameters", first_value_of_the_base, "reset_parameters reads weights that a sharded model"),
        ("add_parameters", buffer_without_value, "reset_parameters gives mask no value"),
        ("add_parameters", plain_tensor, "gate is a tensor but no parameter, so it is neither trained nor"),
    ],
)
def test_a_fault_is_named_with_the_class(
    monkeypatch: pytest.MonkeyPatch, method: str, wrong: Any, said: str
) -> None:
    monkeypatch.setattr(Gated, method, wrong)
    with pytest.raises(ValueError, match=rf"test_trial\.Gated.*{said}"):
        register_adapter(Gated)
    assert "gated" not in ADAPTERS


def test_a_config_with_keys_says_which_of_them_are_decisive() -> None:
    @dataclass
    class Sharp(GatedConfig):
        kind: Literal["sharp"] = "sharp"  # type: ignore[assignment]
        sharpness: float = 1.0

    layer = type("SharpLinear", (Gated,), {"config_class": Sharp})
    with pytest.raises(ValueError, match=r"Sharp adds the key 'sharpness' .*\(\*GatedConfig\.decisive, 'sha"):
        register_adapter(layer)
