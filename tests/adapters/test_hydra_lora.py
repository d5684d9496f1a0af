"""HydraLoRA and MoE-LoRA with top-k routing are what a plain loop over tokens and heads computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from crab_lightning.adapters import ADAPTERS, AdapterConfig, Places, record_routes
from crab_lightning.adapters.kinds.hydra_lora import HydraLoRALinear

HEADS = 4


def layer(kind: str = "hydra_lora", **settings: object) -> HydraLoRALinear:
    torch.manual_seed(0)
    config = AdapterConfig(kind=kind, rank=3, alpha=5.0, heads=HEADS, **settings)
    made = ADAPTERS[kind](nn.Linear(6, 8), config)
    assert isinstance(made, HydraLoRALinear)
    nn.init.normal_(made.lora_B)
    return made.double()


def by_hand(hydra: HydraLoRALinear, x: Tensor, kept: int) -> Tensor:
    assert hydra.lora_route is not None
    out = []
    for token in x.view(-1, x.shape[-1]):
        shares = torch.softmax(hydra.lora_route @ token, 0)
        best = shares.tolist()
        chosen = sorted(range(HEADS), key=lambda i: -best[i])[:kept]
        total = sum(shares[i] for i in chosen)
        y = hydra.base(token)
        for i in chosen:
            b = hydra.lora_B[:, i * hydra.rank : (i + 1) * hydra.rank]
            a = hydra.lora_A if hydra.lora_A.dim() == 2 else hydra.lora_A[i]
            y = y + hydra.config.alpha / hydra.rank * shares[i] / total * (b @ (a @ token))
        out.append(y)
    return torch.stack(out).view(*x.shape[:-1], -1)


def own_loss(hydra: HydraLoRALinear) -> float:
    found = hydra.batch.take_loss()
    assert found is not None
    return found.item()


@pytest.mark.parametrize("kind", ["hydra_lora", "moe_lora"])
@pytest.mark.parametrize("kept", [1, 2, None])
def test_output_and_gradients_are_those_of_a_loop_over_tokens(kept: int | None, kind: str) -> None:
    hydra = layer(kind, top_k=kept)
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    found, wanted = hydra(x), by_hand(hydra, x, kept or HEADS)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)  # routes are in float32
    g = torch.randn_like(wanted)
    inputs = [x, hydra.lora_A, hydra.lora_B, hydra.lora_route]
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, g),
        torch.autograd.grad(wanted, inputs, g, materialize_grads=True),
        atol=1e-5,
        rtol=1e-5,
    )


def test_balance_loss_is_that_of_a_loop_and_leaves_padding_out() -> None:
    hydra = layer(top_k=2, balance=0.5)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    present = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    hydra.batch.tell(places=lambda: Places(torch.zeros(2, 5), present, present))
    hydra(x)
    found = hydra.batch.take_loss()
    assert hydra.lora_route is not None
    shares = torch.softmax(x[present] @ hydra.lora_route.T, -1)
    load = torch.zeros(HEADS, dtype=torch.float64)
    for token in shares:
        load[token.topk(2).indices] += 1 / (2 * len(shares))
    torch.testing.assert_close(found, 0.5 * HEADS * (load * shares.mean(0)).sum(), check_dtype=False)
    assert hydra.batch.take_loss() is None
    hydra.eval()(x)
    assert hydra.batch.take_loss() is None


def test_an_even_load_costs_one_and_a_router_that_takes_one_head_costs_more() -> None:
    hydra = layer(top_k=1, balance=1.0)
    assert hydra.lora_route is not None
    with torch.no_grad():
        hydra.lora_route.zero_()
        hydra.lora_route[:, :HEADS] = 20 * torch.eye(HEADS)
    hydra(torch.eye(HEADS, 6, dtype=torch.float64))
    assert own_loss(hydra) == pytest.approx(1.0, abs=1e-3)
    hydra(torch.eye(HEADS, 6, dtype=torch.float64)[:1])
    assert own_loss(hydra) == pytest.approx(HEADS, abs=1e-3)


def test_recorded_routes_are_zero_for_heads_that_were_not_chosen() -> None:
    hydra = layer(top_k=2)
    with record_routes(hydra) as found:
        hydra(torch.randn(2, 5, 6, dtype=torch.float64))
    (routes,) = found[""]
    assert ((routes > 0).sum(-1) == 2).all()
    torch.testing.assert_close(routes.sum(-1), torch.ones(2, 5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"top_k": 5},
            r"adapter\.top_k is 5; it must be .* at most adapter.heads, which is 4",
        ),
        ({"balance": -1.0}, r"adapter\.balance is -1\.0"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(**settings)


def test_parameters_are_those_of_one_or_of_all_a_matrices() -> None:
    count = {
        kind: sum(p.numel() for p in layer(kind).parameters(recurse=False))
        for kind in ("hydra_lora", "moe_lora")
    }
    shared = 3 * 6 + HEADS * 8 * 3 + HEADS * 6
    assert count == {"hydra_lora": shared, "moe_lora": shared + (HEADS - 1) * 3 * 6}
