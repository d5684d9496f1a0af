"""Multi-LoRA: one LoRA for each task, chosen row by row by the task of the batch's samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crab_lightning.adapters.config import AdapterConfig
from crab_lightning.adapters.kinds.lora import LoRALinear


@dataclass
class MultiLoRAConfig(AdapterConfig):
    """one LoRA for each of ``tasks``; a sample uses the LoRA of its task.

    Args:
        tasks: Task keys. When left out, these are all tasks of the run's data.
    """

    decisive = ("kind", "rank", "alpha", "tasks")

    kind: Literal["multi_lora"] = "multi_lora"
    tasks: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            raise ValueError(f"adapter.tasks is {self.tasks!r}; give task keys, each once, or leave it out")

    def completed(self, saved: AdapterConfig | None, tasks: Sequence[str] | None) -> AdapterConfig:
        """Return the config with ``tasks`` filled from the saved adapters, or else from the run's data."""
        if self.tasks is not None:
            return self
        if isinstance(saved, MultiLoRAConfig):
            return replace(self, tasks=saved.tasks)
        return self if tasks is None else replace(self, tasks=sorted(tasks))

    def identity(self) -> dict[str, Any]:
        """Return the list of tasks, because the weights of a task are known only by its index in the list."""
        return {"tasks": self.tasks}


class MultiLoRALinear(LoRALinear):
    """A frozen linear layer plus the low-rank update of each row's own task.

    One A and one B tensor hold the weights of all tasks. So a task that a batch does not contain gets a
    gradient of zero, and not none, as data-parallel training needs. Momentum and weight decay still change
    the weights of such a task.

    Args:
        base: The layer to adapt; its parameters are frozen.
        config: Rank, alpha, dropout, tasks and dtype are read here.

    Shapes: input ``(B, ..., h)`` to output ``(B, ..., d)`` for B samples; ``lora_A`` ``(t, r, h)`` and
    ``lora_B`` ``(t, d, r)`` for t tasks. If all samples have the same task, the input may be any
    ``(..., h)``.

    Raises:
        TypeError: If ``base`` is not an ``nn.Linear``.
        ValueError: If ``config.tasks`` is not given.
    """

    config_class = MultiLoRAConfig
    config: MultiLoRAConfig
    stacks_b = True

    def __init__(self, base: nn.Linear, config: AdapterConfig) -> None:
        assert isinstance(config, MultiLoRAConfig)
        if config.tasks is None:
            raise ValueError(
                "adapter.kind is 'multi_lora', but adapter.tasks is not given; list the task keys, such as "
                "[event_localization, captioning]"
            )
        super().__init__(base, config)

    def _stack(self) -> tuple[int, ...]:
        return (len(self.config.tasks or ()),)

    def forward(self, x: Tensor) -> Tensor:
        """Return the base output plus each row's update: ``(B, ..., h)`` to ``(B, ..., d)``.

        Raises:
            RuntimeError: If no batch was announced.
            TypeError: If, outside autocast, the input has another type than the base weight.
            ValueError: If a task has no adapter, or the samples have several tasks but the input does not
                have one row for each sample.
        """
        rows = self.batch.once("multi_lora rows", self._rows)
        a, b = self.lora_A.unbind(), self.lora_B.unbind()
        if len(set(rows)) == 1:
            return self._adapted(x, a[rows[0]], b[rows[0]], None)
        if x.dim() < 3 or len(x) != len(rows):
            raise ValueError(
                f"multi_lora got an input {tuple(x.shape)} for {len(rows)} samples of several tasks; "
                "encoders that pack samples into one row cannot be adapted by task. Set adapter.within to "
                "language_model, or use batches of one task"
            )
        # This copies to the device, so it is done once for a batch and not once for each layer.
        groups, places = self.batch.once(("multi_lora groups", x.device), lambda: _groups(rows, x.device))
        parts = [self._adapted(x[index], a[task], b[task], None) for task, index in groups]
        return torch.cat(parts)[places]

    def _rows(self) -> tuple[int, ...]:
        """Return the index, in ``tasks``, of each row's task."""
        known, given = self.config.tasks or [], self.batch.tasks
        if not given:
            raise RuntimeError(
                "multi_lora does not know the tasks of the samples; call announce_batch before the model runs"
            )
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(
                f"multi_lora has no adapter for task {', '.join(map(repr, unknown))}; it knows: "
                f"{', '.join(known)}"
            )
        return tuple(map(known.index, given))


def _groups(rows: Sequence[int], device: torch.device) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Return each task with its rows, and the position of each row after the tasks' rows are joined."""
    by_task = {t: [i for i, row in enumerate(rows) if row == t] for t in sorted(set(rows))}
    order = torch.tensor([i for numbers in by_task.values() for i in numbers])
    groups = [(t, torch.tensor(numbers, device=device)) for t, numbers in by_task.items()]
    return groups, order.argsort().to(device)


LAYER = MultiLoRALinear
