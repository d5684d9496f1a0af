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
    """one LoRA for each of ``tasks``; a sample takes that of its task.

    Args:
        tasks: Task keys; left out, all tasks of the run's data.
    """

    decisive = ("kind", "rank", "alpha", "tasks")

    kind: Literal["multi_lora"] = "multi_lora"
    tasks: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            raise ValueError(f"adapter.tasks is {self.tasks!r}; give task keys, each once, or leave it out")

    def completed(self, saved: AdapterConfig | None, tasks: Sequence[str] | None) -> AdapterConfig:
        """Return the config with its tasks: those of the saved adapters, else those of the data."""
        if self.tasks is not None:
            return self
        if isinstance(saved, MultiLoRAConfig):
            return replace(self, tasks=saved.tasks)
        return self if tasks is None else replace(self, tasks=sorted(tasks))

    def identity(self) -> dict[str, Any]:
        """Return the tasks: the weights of a task are known by its place alone."""
        return {"tasks": self.tasks}


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

    config_class = MultiLoRAConfig
    config: MultiLoRAConfig

    def __init__(self, base: nn.Linear, config: AdapterConfig) -> None:
        assert isinstance(config, MultiLoRAConfig)
        if config.tasks is None:
            raise ValueError(
                "adapter.kind is 'multi_lora' and adapter.tasks is not given; list the task keys, such as "
                "[event_localization, captioning]"
            )
        super().__init__(base, config)

    def _stack(self) -> tuple[int, ...]:
        return (len(self.config.tasks or ()),)

    def forward(self, x: Tensor) -> Tensor:
        """Return the base output plus each row's update: ``(B, ..., h)`` to ``(B, ..., d)``.

        Raises:
            RuntimeError: If no batch was announced.
            ValueError: If a task has no adapter, or the samples have several tasks and the input's rows are
                not the samples.
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
        # Once a batch, not once a layer: it is a copy to the device.
        groups, places = self.batch.once(("multi_lora groups", x.device), lambda: _groups(rows, x.device))
        parts = [self._adapted(x[index], a[task], b[task], None) for task, index in groups]
        return torch.cat(parts)[places]

    def _rows(self) -> tuple[int, ...]:
        """Return the place of each row's task among the adapters."""
        known, given = self.config.tasks or [], self.batch.tasks
        if not given:
            raise RuntimeError("multi_lora does not know the samples' tasks; call announce_batch before")
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(
                f"multi_lora has no adapter for task {', '.join(map(repr, unknown))}; it knows: "
                f"{', '.join(known)}"
            )
        return tuple(map(known.index, given))


def _groups(rows: Sequence[int], device: torch.device) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Return tasks with the numbers of their rows, and where each row is once they are put in a line."""
    by_task = {t: [i for i, row in enumerate(rows) if row == t] for t in sorted(set(rows))}
    order = torch.tensor([i for numbers in by_task.values() for i in numbers])
    groups = [(t, torch.tensor(numbers, device=device)) for t, numbers in by_task.items()]
    return groups, order.argsort().to(device)


LAYER = MultiLoRALinear
