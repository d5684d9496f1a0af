"""Two processes that share one model's weights (FSDP2) agree with one process that has them all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from crab_lightning.adapters import (
    AdapterConfig,
    adapter_state_dict,
    insert_adapters,
    load_adapters,
    save_adapters,
)

WIDTH, STEPS, RANKS = 16, 4, 2


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"q_proj": nn.Linear(WIDTH, WIDTH), "o_proj": nn.Linear(WIDTH, WIDTH)})
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer["o_proj"](torch.tanh(layer["q_proj"](x)))
        return x


def build(seed: int = 0, base_dtype: torch.dtype = torch.float32) -> Stack:
    torch.manual_seed(seed)
    model = Stack().to(base_dtype)
    config = AdapterConfig(rank=4, alpha=8, heads=3, target_modules=["q_proj", "o_proj"], within=None)
    insert_adapters(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    return model


def shard(model: Stack, policy: MixedPrecisionPolicy | None = None) -> Stack:
    mesh = init_device_mesh("cpu", (RANKS,))
    settings = {} if policy is None else {"mp_policy": policy}
    for layer in model.layers:
        for projection in layer.values():
            fully_shard(projection, mesh=mesh, **settings)
    fully_shard(model, mesh=mesh, **settings)
    return model


def train(model: Stack, rank: int, ranks: int, dtype: torch.dtype = torch.float32) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(STEPS):
        x, target = torch.randn(2, 8, WIDTH, generator=generator)
        own = slice(rank * 8 // ranks, (rank + 1) * 8 // ranks)
        loss = (model(x[own].to(dtype)).float() - target[own]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach()
        if ranks > 1:
            dist.all_reduce(total)
            total = total / ranks
        losses.append(total.item())
    return losses


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    try:
        results: dict[str, object] = {}
        model = shard(build())
        results["losses"] = train(model, rank, RANKS)
        local = sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor))
        results["share"] = local / sum(p.numel() for p in model.parameters())
        results["frozen_grad"] = any(p.grad is not None for n, p in model.named_parameters() if ".base." in n)
        results["weights"] = {name: value.clone() for name, value in adapter_state_dict(model).items()}
        save_adapters(model, Path(folder) / "saved", {"geometry": "released"})
        dist.barrier()
        again = shard(build(seed=5))
        load_adapters(again, Path(folder) / "saved", expect={"geometry": "released"})
        results["loaded"] = {name: value.clone() for name, value in adapter_state_dict(again).items()}
        # Frozen bfloat16 and trained float32 weights in one group.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        mixed = shard(build(base_dtype=torch.bfloat16), policy)
        results["mixed_losses"] = train(mixed, rank, RANKS, torch.bfloat16)
        torch.save(results, Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.ddp
def test_two_sharded_processes_train_save_and_load_as_one(tmp_path: Path) -> None:
    mp.spawn(one_rank, args=(str(tmp_path),), nprocs=RANKS)
    single = build()
    losses = train(single, 0, 1)
    assert losses[-1] < losses[0]
    for rank in range(RANKS):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found["losses"] == pytest.approx(losses, abs=1e-5)
        assert found["share"] <= 0.51
        assert not found["frozen_grad"]
        for name, value in adapter_state_dict(single).items():
            torch.testing.assert_close(found["weights"][name], value, atol=1e-3, rtol=0)
            assert torch.equal(found["loaded"][name], found["weights"][name])
        assert found["mixed_losses"] == pytest.approx(losses, rel=0.05)
