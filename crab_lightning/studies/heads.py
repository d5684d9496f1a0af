"""Dropping heads of a finished run while it is tested."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from crab_lightning.adapters import scale_heads


class DropHead(Callback):
    """Tests a run without one head of I-LoRA, as if that head's B matrix were zero.

    Args:
        head: Number of the head, from 1.
        modules: Wildcard pattern over the dotted names of the layers in which it is dropped.

    Raises:
        ValueError: If no layer with a router matches, or none has such a head.
    """

    def __init__(self, head: int, modules: str = "*") -> None:
        self.head, self.modules = head, modules
        self._open = ExitStack()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the head."""
        module: Any = pl_module
        count = heads_of(module.model)
        if not 1 <= self.head <= count:
            raise ValueError(f"head {self.head}: the run has heads 1 to {count}")
        scale = [float(i != self.head) for i in range(1, count + 1)]
        self._open.enter_context(scale_heads(module.model, scale, modules=self.modules))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the head back."""
        self._open.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the head back, whatever happened."""
        self._open.close()


def heads_of(model: Any) -> int:
    """Return the number of heads of a model's routed layers; 0 without such layers."""
    from crab_lightning.adapters.kinds.lora import adapter_layers

    return max((layer.heads for layer in adapter_layers(model).values() if layer.routed), default=0)
