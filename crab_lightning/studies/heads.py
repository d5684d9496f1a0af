"""A callback that tests a finished run without one of its heads."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from crab_lightning.adapters import scale_heads


class DropHead(Callback):
    """Tests a run without one head of its routed adapter, as if the B matrix of this head were zero.

    Args:
        head: Number of the head; the first is 1.
        modules: Wildcard pattern over the dotted names of the layers in which the head is dropped.

    Raises:
        ValueError: At the start of the test, if no routed layer matches, if the run has no such head, or if
            a matching layer has a smaller number of heads.
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
        """Put the head back after an error."""
        self._open.close()


def heads_of(model: Any) -> int:
    """Return the largest number of heads of a model's routed layers; 0 without routed layers."""
    from crab_lightning.adapters.kinds.lora import adapter_layers

    return max((layer.heads for layer in adapter_layers(model).values() if layer.routed), default=0)
