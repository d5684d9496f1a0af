"""FSDP2 by name: ``trainer.strategy: fsdp2``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

TIMEOUT_S = 1800.0


class Fsdp2Strategy(ModelParallelStrategy):
    """Every process holds its share of all weights, gradients and optimizer state (FSDP2).

    As names for ``trainer.strategy``: ``fsdp2``, ``fsdp2_offload`` (``cpu_offload``) and ``fsdp2_hybrid``
    (``hybrid``). Works on one process too, on CUDA and, for tests, on CPU.

    Args:
        cpu_offload: Keep shares, gradients and optimizer state in host memory: the least GPU memory, and
            every layer travels over PCIe.
        hybrid: Shard within a node and copy between nodes, so that only gradients leave a node. Needs nodes
            with equally many devices, and room for the whole model in one node.
        reshard_after_forward: Let go of a layer's weights after its forward. ``false`` keeps them until
            backward: a third less traffic, for the memory of the whole base.
        timeout_s: Seconds that a process waits for the others before it gives up.
    """

    def __init__(
        self,
        cpu_offload: bool = False,
        hybrid: bool = False,
        reshard_after_forward: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        # One file for each checkpoint: with the frozen base left out it is small, and any number of
        # processes can read it.
        super().__init__(save_distributed_checkpoint=False, timeout=timedelta(seconds=timeout_s))
        self.cpu_offload = cpu_offload
        self.hybrid = hybrid
        self.reshard_after_forward = reshard_after_forward
        self._shard_mesh: Any = None

    def setup_environment(self) -> None:
        """Start the processes' group; all of them are data parallel."""
        if self.cpu_offload and self.root_device.type == "cuda":
            # Gradients lie in host memory, and so does the sum of their squares that clipping asks for.
            self._process_group_backend = "cpu:gloo,cuda:nccl"
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    @property
    def shard_mesh(self) -> Any:
        """Mesh along which weights are sharded; two-dimensional when copied between nodes."""
        if not self.hybrid or self.num_nodes == 1:
            return self.device_mesh["data_parallel"]
        if self._shard_mesh is None:
            self._shard_mesh = torch.distributed.device_mesh.init_device_mesh(
                self.root_device.type,
                (self.num_nodes, self.num_processes),
                mesh_dim_names=("replicate", "shard"),
            )
        return self._shard_mesh

    def model_to_device(self) -> None:
        """Move what is not kept in host memory."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        for buffer in self.model.buffers():
            buffer.data = buffer.data.to(self.root_device)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the trained weights on rank 0, nothing elsewhere; the frozen base is not even gathered."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return dict(get_model_state_dict(self.model, options=options))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state on rank 0, nothing elsewhere, as an optimizer on one process writes it.

        Lightning numbers the weights of all the model here, and an optimizer elsewhere those that it holds:
        a checkpoint of one strategy would not fit the other.
        """
        own = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        saved = own.state_dict()
        first = self.global_rank == 0
        state: dict[int, dict[str, Any]] = {}
        for number, values in saved[
            "state"
        ].items():  # in the same order on all ranks: gathering is collective
            whole = {name: _gathered(value) for name, value in values.items()}
            if first:
                state[number] = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in whole.items()}
        return {"state": state, "param_groups": saved["param_groups"]} if first else {}

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Let Lightning restore in its usual order: look at the checkpoint first, then load its parts."""
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Return a checkpoint, read on every process; the parts are loaded by the methods below.

        Lightning's own takes the weights out of it before the model has compared them with its own.
        """
        path = Path(self.broadcast(checkpoint_path))
        found: dict[str, Any] = self.checkpoint_io.load_checkpoint(path, weights_only=True)
        return found

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give every process its share of the weights."""
        assert self.lightning_module is not None
        own = dict(self.lightning_module.named_parameters())
        with torch.no_grad():
            for name, value in checkpoint["state_dict"].items():
                own[name].copy_(_share(value, own[name]))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every process its share of the optimizer's state."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            state = {
                number: {name: _share(value, weights[number]) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


def _gathered(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _share(value: Any, weight: Tensor) -> Any:
    """Return this process's share of a value that belongs to a weight; steps and the like as they are."""
    if not isinstance(weight, DTensor) or not isinstance(value, Tensor) or value.shape != weight.shape:
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)


def _register() -> None:
    for name, description, options in (
        ("fsdp2", "weights sharded over all processes", {}),
        ("fsdp2_offload", "weights sharded, kept in host memory", {"cpu_offload": True}),
        ("fsdp2_hybrid", "weights sharded within a node, copied between nodes", {"hybrid": True}),
    ):
        if name not in StrategyRegistry:
            StrategyRegistry.register(name, Fsdp2Strategy, description=description, **options)


_register()
