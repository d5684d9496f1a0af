"""Values and gradients of the released layer and of the paper's equations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from crab_lightning.adapters import AdapterConfig, ILoRALinear, record_routes


def released_layer(oracles: Path) -> tuple[ILoRALinear, dict[str, Tensor]]:
    values = load_file(oracles / "ilora_linear.safetensors")
    c = json.loads((oracles / "ilora_linear.json").read_text())["config"]
    config = AdapterConfig(rank=c["r"], alpha=c["lora_alpha"], heads=c["num_heads"], router="input")
    layer = ILoRALinear(nn.Linear(c["in_features"], c["out_features"], bias=c["bias"]), config)
    heads = [values[f"layer.lora_B{i}.weight"] for i in range(c["num_heads"])]
    with torch.no_grad():
        layer.base.weight.copy_(values["layer.weight"])
        layer.base.bias.copy_(values["layer.bias"])
        layer.lora_A.copy_(values["layer.lora_A.weight"])
        layer.lora_B.copy_(torch.cat(heads, dim=1))
        layer.lora_route.copy_(values["layer.lora_route.weight"])
    return layer, values


def test_input_router_gives_the_outputs_and_routes_of_the_released_layer(oracles: Path) -> None:
    layer, values = released_layer(oracles)
    with record_routes(layer) as routes:
        y = layer(values["input.x"])
    torch.testing.assert_close(y, values["out.y"], atol=1e-4, rtol=0)
    torch.testing.assert_close(routes[""][0], values["out.route_weight"], atol=1e-5, rtol=0)


def test_input_router_gives_the_gradients_of_the_released_layer(oracles: Path) -> None:
    layer, values = released_layer(oracles)
    layer.base.requires_grad_(True)  # the stored data hold a gradient of the bias
    x = values["input.x"].clone().requires_grad_()
    (layer(x) * values["input.grad_output"]).sum().backward()
    got = {"x": x.grad, "bias": layer.base.bias.grad, "lora_A.weight": layer.lora_A.grad}
    got["lora_route.weight"] = layer.lora_route.grad
    for i, head in enumerate(layer.lora_B.grad.split(layer.rank, dim=1)):
        got[f"lora_B{i}.weight"] = head
    wanted = {k.removeprefix("grad."): v for k, v in values.items() if k.startswith("grad.")}
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_input_router_in_bfloat16_agrees_with_the_released_layer(oracles: Path) -> None:
    layer, values = released_layer(oracles)
    with record_routes(layer) as routes:
        y = layer.bfloat16()(values["input.x"].bfloat16())
    # bfloat16 keeps 8 significant bits, so a rounding moves a number by up to 2^-8 of itself. The released
    # code rounds after each head: up to 4 roundings. Routes are at most 1, and are rounded on both sides.
    rounding = 2**-8
    scale = values["out.y"].abs().max().item()
    torch.testing.assert_close(y, values["out.y_bf16"], atol=4 * rounding * scale, rtol=0)
    assert torch.finfo(torch.bfloat16).eps == 2 * rounding
    routed = routes[""][0].bfloat16()
    torch.testing.assert_close(routed, values["out.route_weight_bf16"], atol=2 * rounding, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_latent_router_gives_equations_5_to_7(oracles: Path, dtype: torch.dtype) -> None:
    values = {k: v.to(dtype) for k, v in load_file(oracles / "ilora_paper_eq5.safetensors").items()}
    c = json.loads((oracles / "ilora_paper_eq5.json").read_text())["config"]
    config = AdapterConfig(rank=c["r"], alpha=c["lora_alpha"], heads=c["num_heads"], router="latent")
    layer = ILoRALinear(nn.Linear(c["in_features"], c["out_features"], bias=False), config).to(dtype)
    with torch.no_grad():
        layer.base.weight.copy_(values["weight"])
        layer.lora_A.copy_(values["lora_A"])
        layer.lora_B.copy_(torch.cat(list(values["lora_B"]), dim=1))
        layer.lora_route.copy_(values["router"])
    with record_routes(layer) as routes:
        y = layer(values["input.x"])
    torch.testing.assert_close(y, values["out.y"], atol=1e-4, rtol=0)
    torch.testing.assert_close(routes[""][0], values["out.route_weight"], atol=1e-5, rtol=0)
