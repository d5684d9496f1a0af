from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crab_lightning.adapters import AdapterConfig, insert_adapters, record_routes, scale_heads
from crab_lightning.adapters.kinds.lora import adapter_layers
from tests.adapters.statement import make_layer, stated
from tests.adapters.test_insert import Thinker, config


def routed_model(**settings: object) -> Thinker:
    model = Thinker()
    insert_adapters(model, config(**settings))
    return model


def test_routes_are_recorded_by_layer_name_and_sum_to_one() -> None:
    model = routed_model()
    with record_routes(model) as routes:
        model(torch.randn(2, 5, 8))
        model(torch.randn(1, 4, 8))
    assert len(routes) == 4
    for name, found in routes.items():
        assert name.startswith("language_model.layers.")
        assert [tuple(r.shape) for r in found] == [(2, 5, 3), (1, 4, 3)]
        torch.testing.assert_close(found[0].sum(-1), torch.ones(2, 5))
        assert not found[0].requires_grad


def test_modules_chooses_layers_by_pattern() -> None:
    model = routed_model()
    with scale_heads(model, [1, 0, 1], modules="*.1.q_proj"):
        scaled = [name for name, layer in adapter_layers(model).items() if layer.head_scale is not None]
    assert scaled == ["language_model.layers.1.q_proj"]


def test_reduced_routes_are_what_a_function_makes_of_them() -> None:
    layer = make_layer()
    x = torch.randn(2, 5, 10)
    with record_routes(layer) as full, record_routes(layer, lambda name, routes: routes[:, -1]) as last:
        layer(x)
    assert torch.equal(last[""][0], full[""][0][:, -1])


def test_nothing_is_recorded_outside_the_context_even_after_an_error() -> None:
    layer = make_layer()
    with pytest.raises(RuntimeError, match="stop"), record_routes(layer) as routes:
        raise RuntimeError("stop")
    layer(torch.randn(2, 10))
    assert routes == {"": []}
    assert layer.route_sinks == ()


def test_checkpointing_records_every_token_once() -> None:
    layer = make_layer()
    x = torch.randn(4, 10, requires_grad=True)
    with record_routes(layer) as routes:
        checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert len(routes[""]) == 1


@pytest.mark.parametrize("leading", [(), (2, 0), (2, 3, 4)])
def test_routes_have_the_leading_shape_of_the_input(leading: tuple[int, ...]) -> None:
    layer = make_layer()
    with record_routes(layer) as routes:
        layer(torch.randn(*leading, 10))
    assert routes[""][0].shape == (*leading, 3)


def test_one_head_has_routes_of_one() -> None:
    layer = make_layer(heads=1)
    with record_routes(layer) as routes:
        layer(torch.randn(2, 10))
    assert torch.equal(routes[""][0], torch.ones(2, 1))


def test_a_model_without_routed_layers_cannot_be_recorded() -> None:
    plain = Thinker()
    insert_adapters(plain, AdapterConfig(kind="lora", target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="no layer with a router matches"), record_routes(plain):
        pass


@pytest.mark.parametrize("heads", [1, 3])
def test_dropping_a_head_equals_zeroing_its_matrix_with_gradients(heads: int) -> None:
    layer = make_layer(heads=heads).double()
    x = torch.randn(2, 5, 10, dtype=torch.float64, requires_grad=True)
    scale = [0.5, 0.0, 1.0][:heads]
    zeroed = make_layer(heads=heads).double()
    zeroed.load_state_dict(layer.state_dict())
    with torch.no_grad():
        zeroed.lora_B *= torch.tensor(scale).repeat_interleave(layer.rank)
    wanted = stated(zeroed, x)
    with scale_heads(layer, scale):
        y = layer(x)
    torch.testing.assert_close(y, wanted)
    got = torch.autograd.grad(y.square().sum(), [x, layer.lora_A])
    torch.testing.assert_close(got, torch.autograd.grad(wanted.square().sum(), [x, zeroed.lora_A]))
    torch.testing.assert_close(layer(x), stated(layer, x))  # off again


def test_heads_are_scaled_in_layers_of_that_many_heads_only() -> None:
    message = r"layers\.0\.q_proj has 3 heads; scale has 2 values"
    with pytest.raises(ValueError, match=message), scale_heads(routed_model(), [1, 0]):
        pass


def test_a_base_with_its_own_forward_is_recorded_and_scaled() -> None:
    class Other(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    layer = make_layer()
    base = Other(10, 12)
    base.load_state_dict(layer.base.state_dict())
    other = make_layer()
    other.load_state_dict(layer.state_dict())
    other.base = base
    x = torch.randn(3, 10)
    with scale_heads(layer, [1, 0, 2]), scale_heads(other, [1, 0, 2]), record_routes(other) as routes:
        torch.testing.assert_close(other(x), layer(x))
    assert routes[""][0].shape == (3, 3)
