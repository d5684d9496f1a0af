"""Adapters on experts: what a plain loop over tokens and experts gives, and never a whole updated weight."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeThinkerTextExperts

from crab_lightning.adapters import AdapterConfig, insert_adapters, load_adapters, save_adapters
from crab_lightning.adapters.checkpoint import read_weights
from crab_lightning.adapters.experts import AdaptedExperts, grouped_linear
from crab_lightning.adapters.figures import folder_figures

EXPERTS, CHOSEN, WIDTH, INSIDE = 5, 2, 24, 16
CONFIGS = [
    {"kind": "lora", "rank": 4, "expert_rank": 8},
    {"kind": "lora", "rank": 4, "expert_rank": 3},
    {"kind": "ilora", "rank": 4, "expert_rank": 8},
    {"kind": "ilora", "rank": 2, "expert_rank": 3, "router": "input", "head_scale": [1.0, 0.5, 0.0]},
]
each = pytest.mark.parametrize("config", CONFIGS)


def stock(implementation: str = "grouped_mm") -> Any:
    """Return a layer's experts as transformers has them, with random weights."""
    sizes: Any = SimpleNamespace(
        _experts_implementation=implementation,
        num_experts=EXPERTS,
        hidden_size=WIDTH,
        moe_intermediate_size=INSIDE,
        hidden_act="silu",
    )
    experts: Any = Qwen3OmniMoeThinkerTextExperts(sizes)
    torch.manual_seed(0)
    for weight in experts.parameters():
        nn.init.normal_(weight, std=0.2)
    return experts


def adapted(config: dict[str, Any], *, filled: bool = True) -> Any:
    """Return a model whose ``experts`` are adapted, and whose ``q_proj`` is."""
    torch.manual_seed(1)
    model: Any = nn.ModuleDict({"q_proj": nn.Linear(WIDTH, WIDTH), "experts": stock()})
    given = {"target_modules": ["q_proj"], "within": None, **config}
    insert_adapters(model, AdapterConfig(**given))
    for name, parameter in model.named_parameters():
        if filled and "lora_" in name:
            nn.init.normal_(parameter, std=0.15)
    return model


def pairs(tokens: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, their experts (never the second one), and the weights of these."""
    torch.manual_seed(2)
    allowed = torch.tensor([0, 2, 3, 4])
    chosen = torch.stack([allowed[torch.randperm(4)[:CHOSEN]] for _ in range(tokens)])
    return torch.randn(tokens, WIDTH), chosen, torch.rand(tokens, CHOSEN).softmax(-1)


def looped(experts: AdaptedExperts, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Compute the same token by token and expert by expert, from the formulas of the kinds."""

    def product(layer: Any, e: int, row: Tensor) -> Tensor:
        a, b, route = layer.lora_A[e], layer.lora_B[e], layer.lora_route
        z, out = a @ row, layer.base.weight[e] @ row
        if route is None:
            return out + layer.scaling * (b @ z)
        shares = torch.softmax(route[e] @ (row if layer.route_reads_x else z), 0)
        scale = torch.ones(layer.heads) if layer.head_scale is None else layer.head_scale
        for i, head in enumerate(b.split(layer.rank, dim=1)):
            out = out + layer.scaling * scale[i] * shares[i] * (head @ z)
        return out

    rows = []
    for row, own, share in zip(x, chosen.tolist(), weights, strict=True):
        total = torch.zeros(WIDTH)
        for e, weight in zip(own, share, strict=True):
            gate, up = product(experts.gate_up_proj, e, row).chunk(2)
            total = total + weight * product(experts.down_proj, e, nn.functional.silu(gate) * up)
        rows.append(total)
    return torch.stack(rows)


@each
def test_outputs_and_gradients_are_those_of_a_loop_over_tokens_and_experts(config: dict[str, Any]) -> None:
    model = adapted(config).train()
    x, chosen, weights = pairs()
    found = []
    for run in (model["experts"], lambda *args: looped(model["experts"], *args)):
        model.zero_grad()
        inputs = [x.clone().requires_grad_(), weights.clone().requires_grad_()]
        out = run(inputs[0], chosen, inputs[1])
        out.square().mean().backward()
        trained = {n: p.grad for n, p in model["experts"].named_parameters() if p.requires_grad}
        found.append({"out": out.detach()} | trained | {str(i): p.grad for i, p in enumerate(inputs)})
    assert len(found[0]) == (7 if config["kind"] == "lora" else 9)
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value, atol=1e-5, rtol=1e-4)
        assert value.abs().max() > 0, name
        if "lora" in name:
            assert found[0][name][1].abs().max() == 0, "no token went through the second expert"


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_fresh_adapters_give_what_each_implementation_of_transformers_gives(implementation: str) -> None:
    model, x = adapted(CONFIGS[2], filled=False), pairs()
    with torch.no_grad():
        torch.testing.assert_close(model["experts"](*x), stock(implementation)(*x), atol=1e-5, rtol=1e-5)
        assert implementation != "grouped_mm" or torch.equal(model["experts"](*x), stock()(*x))


def test_a_group_without_rows_has_no_gradient_whatever_the_kernel_leaves_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On some GPUs the gradient of a group without rows is not written."""
    original = nn.functional.grouped_mm

    def careless(x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
        weight = weight.view_as(weight)
        weight.register_hook(lambda grad: torch.where(grad == 0, torch.nan, grad))
        return original(x, weight, offs=offs)

    monkeypatch.setattr(nn.functional, "grouped_mm", careless)
    weight = torch.randn(3, 8, 8, requires_grad=True)
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    (grouped_linear(torch.randn(5, 8), weight, ends) ** 2).sum().backward()
    assert weight.grad is not None
    assert weight.grad[1].abs().max() == 0
    assert weight.grad.isfinite().all()


class Largest(TorchDispatchMode):
    """Notes the most values that any operation makes."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        views = ("view", "transpose", "detach", "alias", "t.", "slice", "unsqueeze", "expand", "permute")
        if isinstance(out, Tensor) and not any(name in str(func) for name in views):
            self.seen = max(self.seen, out.numel())
        return out


@each
def test_no_pass_makes_a_tensor_of_the_size_of_the_experts(config: dict[str, Any]) -> None:
    model, (x, chosen, weights) = adapted(config | {"expert_rank": 1}).train(), pairs(2)
    with Largest() as largest:
        model["experts"](x.requires_grad_(), chosen, weights).sum().backward()
    assert 0 < largest.seen < EXPERTS * WIDTH * INSIDE  # the smaller of the two weights


def test_dropout_is_drawn_in_training_only() -> None:
    model, x = adapted(CONFIGS[0] | {"dropout": 0.5}), pairs()
    run = model["experts"]
    model.train()
    assert not torch.equal(run(*x), run(*x))
    model.eval()
    assert torch.equal(run(*x), run(*x))


def test_saved_adapters_load_and_show_their_figures(tmp_path: Path) -> None:
    model, x = adapted(CONFIGS[3]), pairs()
    save_adapters(model, tmp_path, {})
    again = adapted(CONFIGS[3], filled=False)
    load_adapters(again, tmp_path)
    assert torch.equal(model["experts"](*x), again["experts"](*x))
    layers = {f.name: f for f in folder_figures(read_weights(tmp_path), model["q_proj"].config)}
    shown = layers["experts.down_proj"]
    assert (shown.rank, shown.heads, shown.router) == (3, 3, "input")
    b = model["experts"].down_proj.lora_B.detach()
    assert shown.max_b == tuple(float(head.abs().max()) for head in b.split(3, dim=2))
    other = adapted(CONFIGS[3] | {"expert_rank": 2})
    with pytest.raises(ValueError, match=r"adapter\.expert_rank is 3 in the checkpoint, 2 in the model"):
        load_adapters(other, tmp_path)


def test_what_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expert_rank is for kind ilora, lora; adapter\.kind is 'moka'"):
        AdapterConfig(kind="moka", expert_rank=2)
    with pytest.raises(ValueError, match=r"adapter\.expert_rank is 0; it must be a whole number"):
        AdapterConfig(kind="lora", expert_rank=0)
    config = AdapterConfig(kind="lora", expert_rank=2, target_modules=["q_proj"], within=None)
    with pytest.raises(ValueError, match=r"adapter\.expert_rank is 2, but no experts were found"):
        insert_adapters(nn.ModuleDict({"q_proj": nn.Linear(4, 4)}), config)
    turned = stock()
    turned.is_transposed = True
    model = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "experts": turned})
    with pytest.raises(ValueError, match=r"TextExperts\) are laid out .* \(is_transposed is True\)"):
        insert_adapters(model, config)
