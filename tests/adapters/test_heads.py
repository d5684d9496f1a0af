"""Heads are scaled or dropped by configuration, for a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crab_lightning.adapters import AdapterConfig, load_adapters, read_adapter_config, save_adapters
from tests.adapters.statement import make_layer
from tests.adapters.test_checkpoint import trained


@pytest.mark.parametrize("router", ["latent", "input"])
@pytest.mark.parametrize("head", [0, 1, 2])
def test_a_dropped_head_equals_a_zero_matrix(router: str, head: int) -> None:
    scale = [float(i != head) for i in range(3)]
    torch.manual_seed(5)
    dropped = make_layer(router=router, head_scale=scale)
    torch.manual_seed(5)
    zeroed = make_layer(router=router)
    with torch.no_grad():
        zeroed.lora_B[:, head * zeroed.rank : (head + 1) * zeroed.rank] = 0
    x = torch.randn(2, 5, 10)
    torch.testing.assert_close(dropped(x), zeroed(x))
    assert not torch.allclose(dropped(x), make_layer(router=router)(x))


def test_factors_act_head_by_head() -> None:
    layer, x = make_layer(head_scale=[0.5, 2.0, 1.0]).double(), torch.randn(4, 10).double()
    z = x @ layer.lora_A.T
    assert layer.lora_route is not None
    routes = torch.softmax(z @ layer.lora_route.T, -1)
    y = layer.base(x)
    for i, factor in enumerate((0.5, 2.0, 1.0)):
        b = layer.lora_B[:, i * 4 : i * 4 + 4]
        y = y + factor * routes[:, i : i + 1] * (z @ b.T) * layer.scaling
    torch.testing.assert_close(layer(x), y)


def test_factors_of_one_change_nothing() -> None:
    torch.manual_seed(5)
    scaled = make_layer(head_scale=[1.0, 1.0, 1.0])
    torch.manual_seed(5)
    plain = make_layer()
    x = torch.randn(2, 5, 10)
    assert torch.equal(scaled(x), plain(x))
    assert plain.head_scale is None


def test_the_factors_are_no_weight_and_follow_the_model() -> None:
    layer = make_layer(head_scale=[1.0, 0.0, 1.0])
    assert "head_scale" not in layer.state_dict()
    moved = layer.to("meta").to_empty(device="cpu")
    moved.reset_parameters()
    assert moved.head_scale is not None
    assert moved.head_scale.tolist() == [1.0, 0.0, 1.0]


def test_saved_adapters_load_with_other_factors(tmp_path: Path) -> None:
    save_adapters(trained(1), tmp_path, {})
    dropped = trained(2, head_scale=[1.0, 0.0, 1.0])
    load_adapters(dropped, tmp_path)
    whole = trained(1)
    for name, parameter in whole.named_parameters():
        if name.endswith("lora_B"):
            parameter.data[:, 2:4] = 0  # rank 2, second head
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(dropped(x), whole(x))


def test_factors_are_stored_with_adapters_that_were_trained_with_them(tmp_path: Path) -> None:
    save_adapters(trained(head_scale=[1.0, 0.5, 1.0]), tmp_path, {})
    assert read_adapter_config(tmp_path).head_scale == [1.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head_scale": [1.0, 0.0]}, r"adapter\.heads is 3, so give 3 finite numbers"),
        ({"head_scale": [1.0, 0.0, float("nan")]}, "give 3 finite numbers"),
        ({"kind": "lora", "head_scale": [0.0]}, r"for kind ilora; adapter\.kind is 'lora'"),
    ],
)
def test_factors_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterConfig(**settings)  # type: ignore[arg-type]
