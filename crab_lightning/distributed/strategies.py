"""The strategies with sharded weights: ``trainer.strategy: fsdp2`` and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.fsdp import FullOptimStateDictConfig, ShardingStrategy, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from crab_lightning.compat import tell_device
from crab_lightning.distributed.flat_shards import flatten, gathered, trained_units, trained_weights

TIMEOUT_S = 1800.0


class ShardedStrategy(ModelParallelStrategy):
    """The base class of both strategies: it has their settings, and writes one file for each checkpoint.

    Args:
        cpu_offload: Keep weights, gradients and optimizer state in host memory.
        reshard_after_forward: Free the gathered weights of a layer after its forward pass.
        timeout_s: Longest time in seconds that a process waits for the others.
    """

    def __init__(self, cpu_offload: bool, reshard_after_forward: bool, timeout_s: float) -> None:
        # One file is enough, because a checkpoint without the frozen base is small; and any number of
        # processes can read it.
        super().__init__(save_distributed_checkpoint=False, timeout=timedelta(seconds=timeout_s))
        self.cpu_offload = cpu_offload
        self.reshard_after_forward = reshard_after_forward

    def setup_environment(self) -> None:
        """Start the process group; all processes are data parallel."""
        if self.cpu_offload and self.root_device.type == "cuda":
            # Gradients are in host memory, and clipping sums their squares there, which needs gloo.
            self._process_group_backend = "cpu:gloo,cuda:nccl"
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True, so that Lightning first checks the checkpoint and then loads its parts."""
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Return a checkpoint, which every process reads; other methods load its parts.

        Lightning's method would remove the weights from it before the model has checked them.
        """
        path = Path(self.broadcast(checkpoint_path))
        found: dict[str, Any] = self.checkpoint_io.load_checkpoint(path, weights_only=True)
        return found


class Fsdp2Strategy(ShardedStrategy):
    """Shards weights, gradients and optimizer state over the processes (FSDP2).

    The names for ``trainer.strategy`` are ``fsdp2``, ``fsdp2_offload`` (with ``cpu_offload``) and
    ``fsdp2_hybrid`` (with ``hybrid``). The strategy also works with one process, on CUDA and, for tests, on
    the CPU.

    Args:
        cpu_offload: Keep weights, gradients and optimizer state in host memory. This needs the least GPU
            memory, but every layer is sent over PCIe.
        hybrid: Shard the model within each node and replicate it on every node, so that only gradients are
            sent between nodes. All nodes need the same number of devices, and one node must have room for the
            whole model.
        reshard_after_forward: Free the gathered weights of a layer after its forward pass. ``false`` keeps
            them until the backward pass, which saves a third of the communication but needs memory for the
            whole base model.
        timeout_s: Longest time in seconds that a process waits for the others.
    """

    def __init__(
        self,
        cpu_offload: bool = False,
        hybrid: bool = False,
        reshard_after_forward: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__(cpu_offload, reshard_after_forward, timeout_s)
        self.hybrid = hybrid
        self._shard_mesh: Any = None

    @property
    def shard_mesh(self) -> Any:
        """Device mesh over which weights are sharded; two-dimensional with ``hybrid`` on several nodes."""
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
        """Move the model to the device; with ``cpu_offload`` only the buffers."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        for buffer in self.model.buffers():
            buffer.data = buffer.data.to(self.root_device)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the trained weights on rank 0, nothing on other ranks; frozen weights are not gathered."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return {k: _host(v) for k, v in get_model_state_dict(self.model, options=options).items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state on rank 0, and nothing on other ranks, in the form of a single process.

        Lightning's method numbers all weights of the model. An optimizer of a single process numbers only its
        own weights, so a checkpoint of one strategy would not fit another one.
        """
        saved = _unwrapped(optimizer).state_dict()
        first = self.global_rank == 0
        state: dict[int, dict[str, Any]] = {}
        for number, values in saved["state"].items():  # gathering is collective: the same order on all ranks
            whole = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in values.items()}
            if first:
                state[number] = {k: _host(v) for k, v in whole.items()}
        return {"state": state, "param_groups": saved["param_groups"]} if first else {}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy a checkpoint's weights to this process's part of the weights."""
        assert self.lightning_module is not None
        own = dict(self.lightning_module.named_parameters())
        with torch.no_grad():
            for name, value in checkpoint["state_dict"].items():
                own[name].copy_(_share(value, own[name]))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Copy a checkpoint's optimizer states to this process's part of the states."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            state = {
                number: {name: _share(value, weights[number]) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


class Fsdp1Strategy(ShardedStrategy):
    """Shards weights, gradients and optimizer state over the processes (FSDP1).

    The name for ``trainer.strategy`` is ``fsdp1``. Use it only to compare with other FSDP1 runs; FSDP2 does
    the same. The same layers are gathered one by one as with FSDP2. Optimizers get flat parts of the weights,
    so an optimizer that needs the shapes of weights (Muon, Adafactor) cannot be used.

    Args:
        reshard_after_forward: Free the gathered weights of a layer after its forward pass. ``false`` keeps
            them until the backward pass, which saves a third of the communication but needs memory for the
            whole base model.
        timeout_s: Longest time in seconds that a process waits for the others.
    """

    def __init__(self, reshard_after_forward: bool = True, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(False, reshard_after_forward, timeout_s)

    def setup(self, trainer: Trainer) -> None:
        """Wrap the whole model in one more unit, which shards the remaining weights, and set up the run.

        Loss and answers use the head directly, so the steps run inside the forward of this unit.

        Raises:
            ValueError: If ``trainer.precision`` would change the types of weights or scale losses.
        """
        module: Any = self.lightning_module
        plugin: Any = self.precision_plugin
        assert module is not None
        assert self.accelerator is not None
        if plugin.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(
                f"trainer.precision is {plugin.precision}; with fsdp1 it must be 32-true or bf16-mixed. "
                "model.init_args.dtype sets the type of the base model, bfloat16 by default"
            )
        self.accelerator.setup(trainer)
        if not hasattr(module, "fsdp1_root"):
            kept = ShardingStrategy.SHARD_GRAD_OP  # embedding and head are soon needed again
            # In a tuple, so that it does not become a part of the module that it wraps.
            module.fsdp1_root = (flatten(module, sharding_strategy=kept, device_id=self.root_device),)
            module.fsdp1_root[0].check_is_root()  # now, because an inner unit may be gathered first
            tell_device(module, self.root_device)
        self.model = module.fsdp1_root[0]
        # Otherwise each process would clip by the norm of its own parts.
        plugin.clip_grad_by_norm = self._clip_by_norm
        for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
            loop.inference_mode = False  # flat tensors made there cannot be trained (pytorch issue 95957)
        trainer.predict_loop.inference_mode = False
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def gradient_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the norm of sharded gradients; all processes have to call it."""
        squares = torch.zeros((), device=self.root_device)
        if gradients:
            squares += torch.nn.utils.get_total_norm(gradients).float() ** 2
        torch.distributed.all_reduce(squares)
        return squares.sqrt()

    def _clip_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        weights = list(self.precision_plugin.main_params(optimizer))
        norm = self.gradient_norm([weight.grad for weight in weights if weight.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(weights, clip_val, norm)

    def trained_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the first process has the whole trained weights, in host memory."""
        return trained_weights(self._unit())

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the trained weights on rank 0, nothing on other ranks; frozen weights are not gathered."""
        assert self.lightning_module is not None
        with self.trained_weights():
            if self.global_rank != 0:
                return {}
            named = self.lightning_module.named_parameters()
            return {name: weight.detach().cpu().clone() for name, weight in named if weight.requires_grad}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state on rank 0, and nothing on other ranks, in the form of a single process."""
        own = _unwrapped(optimizer)
        with self._whole_states(first_only=True):
            named = FSDP.optim_state_dict(self._unit(), own)
        if self.global_rank != 0:
            return {}
        numbers = {name: number for number, name in enumerate(self._names(own))}
        state = {numbers[name]: values for name, values in named["state"].items()}
        return {"state": state, "param_groups": own.state_dict()["param_groups"]}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy a checkpoint's weights to this process's part of the weights."""
        assert self.lightning_module is not None
        saved = checkpoint["state_dict"]
        for unit in trained_units(self._unit()):  # one by one, so that only one unit is gathered at a time
            with gathered(unit), torch.no_grad():
                for name, weight in self.lightning_module.named_parameters():
                    if name in saved and weight.shape == saved[name].shape:
                        weight.copy_(saved[name])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Copy a checkpoint's optimizer states to this process's part of the states."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            names = self._names(optimizer)
            state = {names[number]: values for number, values in saved["state"].items()}
            groups = [{**g, "params": [names[n] for n in g["params"]]} for g in saved["param_groups"]]
            with self._whole_states(first_only=False):
                named = {"state": state, "param_groups": groups}
                optimizer.load_state_dict(FSDP.optim_state_dict_to_load(self._unit(), optimizer, named))

    def _unit(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def _names(self, optimizer: Optimizer) -> list[str]:
        """Return the names of an optimizer's weights, in the order of the optimizer."""
        assert self.lightning_module is not None
        names = {id(weight): name for name, weight in self.lightning_module.named_parameters()}
        return [names[id(weight)] for group in optimizer.param_groups for weight in group["params"]]

    def _whole_states(self, *, first_only: bool) -> AbstractContextManager[Any]:
        # On a CPU, offloading would copy nothing, and the next gathering would overwrite the values.
        offload = first_only and self.root_device.type != "cpu"
        options = FullOptimStateDictConfig(offload_to_cpu=offload, rank0_only=first_only)
        return FSDP.state_dict_type(
            self._unit(), StateDictType.FULL_STATE_DICT, optim_state_dict_config=options
        )


def _unwrapped(optimizer: Optimizer | LightningOptimizer) -> Optimizer:
    return optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def _host(value: Any) -> Any:
    """Return a value in host memory, without padding, so that it takes no more room in a file than needed."""
    if not isinstance(value, Tensor):
        return value
    # A gathered value may be a view of a storage with padding, which would be saved too.
    padded = value.untyped_storage().nbytes() > value.nbytes
    return value.cpu().clone() if padded else value.cpu()


def _share(value: Any, weight: Tensor) -> Any:
    """Return this process's part of a value of a weight; other values, such as steps, are unchanged."""
    if not isinstance(weight, DTensor) or not isinstance(value, Tensor) or value.shape != weight.shape:
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)


def _register() -> None:
    for name, strategy, description, options in (
        ("fsdp2", Fsdp2Strategy, "shards weights over all processes", {}),
        ("fsdp2_offload", Fsdp2Strategy, "shards weights, keeps them in host memory", {"cpu_offload": True}),
        ("fsdp2_hybrid", Fsdp2Strategy, "shards within a node and replicates on all nodes", {"hybrid": True}),
        ("fsdp1", Fsdp1Strategy, "shards weights over all processes with the older FSDP", {}),
    ):
        if name not in StrategyRegistry:
            StrategyRegistry.register(name, strategy, description=description, **options)


_register()
