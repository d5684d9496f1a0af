"""Multi-LoRA: one LoRA for each task, chosen row by row by the task of the batch's samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crab_lightning.adapters.config import AdapterConfig
from crab_lightning.adapters.layers import LoRALinear


class TaskChoice:
    """Which task each row of the running batch belongs to; the layers of a model share one.

    It holds until the next choice, so that gradient checkpointing finds it in backward.

    Args:
        tasks: Known task keys, in the order of the adapters.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.rows: tuple[int, ...] = ()
        self._groups: dict[torch.device, tuple[list[tuple[int, Tensor]], Tensor]] = {}

    def choose(self, tasks: Sequence[str]) -> None:
        """Set the task of every row.

        Args:
            tasks: Task keys of the B samples, in order.

        Raises:
            ValueError: If a task has no adapter.
        """
        if unknown := sorted(set(tasks) - set(self.tasks)):
            raise ValueError(
                f"multi_lora has no adapter for task {', '.join(map(repr, unknown))}; it knows: "
                f"{', '.join(self.tasks)}"
            )
        self.rows = tuple(map(self.tasks.index, tasks))
        self._groups = {}

    def groups(self, device: torch.device) -> tuple[list[tuple[int, Tensor]], Tensor]:
        """Return tasks with the numbers of their rows, and where each row is once they are put in a line."""
        if device not in self._groups:  # once a batch, not once a layer: it is a copy to the device
            by_task = {t: [i for i, row in enumerate(self.rows) if row == t] for t in sorted(set(self.rows))}
            order = torch.tensor([i for rows in by_task.values() for i in rows])
            groups = [(t, torch.tensor(rows, device=device)) for t, rows in by_task.items()]
            self._groups[device] = (groups, order.argsort().to(device))
        return self._groups[device]


class MultiLoRALinear(LoRALinear):
    """A frozen linear layer plus the low-rank update of each row's own task.

    All tasks are in one A and one B, so that a batch without a task leaves it a gradient of zero rather than
    none, as data-parallel training needs. Such a task still moves by what momentum and weight decay give it.

    Args:
        base: The layer to adapt; its parameters are frozen.
        config: Rank, alpha, dropout, tasks and dtype are read here.

    Shapes: input ``(B, ..., h)`` to output ``(B, ..., d)`` for B samples; ``lora_A`` ``(t, r, h)`` and
    ``lora_B`` ``(t, d, r)`` for t tasks. If all samples have one task, any input ``(..., h)``.

    Raises:
        TypeError: If ``base`` is not an ``nn.Linear``.
        ValueError: If ``config.tasks`` is not given.
    """

    def __init__(self, base: nn.Linear, config: AdapterConfig) -> None:
        if config.tasks is None:
            raise ValueError(
                "adapter.kind is 'multi_lora' and adapter.tasks is not given; list the task keys, such as "
                "[event_localization, captioning]"
            )
        super().__init__(base, config)
        self.choice = TaskChoice(config.tasks)

    @staticmethod
    def _stack(config: AdapterConfig) -> tuple[int, ...]:
        return (len(config.tasks or ()),)

    def reset_parameters(self) -> None:
        """Draw every A again and zero B, after which the layer computes what its base computes."""
        for a in self.lora_A.detach().unbind():
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        """Return the base output plus each row's update: ``(B, ..., h)`` to ``(B, ..., d)``.

        Raises:
            RuntimeError: If no tasks were chosen.
            ValueError: If the samples have several tasks and the input's rows are not the samples.
        """
        rows = self.choice.rows
        if not rows:
            raise RuntimeError("multi_lora does not know the samples' tasks; call choose_tasks before")
        a, b = self.lora_A.unbind(), self.lora_B.unbind()
        if len(set(rows)) == 1:
            return self._adapted(x, a[rows[0]], b[rows[0]], None)
        if x.dim() < 3 or len(x) != len(rows):
            raise ValueError(
                f"multi_lora got an input {tuple(x.shape)} for {len(rows)} samples of several tasks; "
                "encoders that pack samples into one row cannot be adapted by task. Set adapter.within to "
                "language_model, or use batches of one task"
            )
        groups, places = self.choice.groups(x.device)
        parts = [self._adapted(x[index], a[task], b[task], None) for task, index in groups]
        return torch.cat(parts)[places]


def share_choice(model: nn.Module) -> TaskChoice | None:
    """Give the Multi-LoRA layers of a model one choice and return it; None if it has no such layer."""
    layers = [module for module in model.modules() if isinstance(module, MultiLoRALinear)]
    for layer in layers:
        layer.choice = layers[0].choice
    return layers[0].choice if layers else None


def choose_tasks(model: nn.Module, tasks: Sequence[str]) -> None:
    """Set the tasks of the batch that a model runs next; they hold until the next call.

    Args:
        model: Has Multi-LoRA layers.
        tasks: Task keys of the B samples, in order.

    Raises:
        ValueError: If the model has no Multi-LoRA layer, or a task has no adapter.
    """
    choice = share_choice(model)
    if choice is None:
        raise ValueError(f"{type(model).__name__} has no multi_lora adapters to choose a task for")
    choice.choose(tasks)
