"""The current batch as adapter layers see it: its tasks, its modalities, and the losses that layers add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from crab_lightning.compat import recomputing

ValueT = TypeVar("ValueT")


class Places(NamedTuple):
    """The content of each position of a batch of sequences.

    Args:
        modality: ``(B, T)``; ``TEXT``, ``VISUAL`` or ``AUDIO`` of ``structures``.
        prompt: bool ``(B, T)``; True in the prompt, False in the answer to learn and in padding.
        present: bool ``(B, T)``; False in padding.
    """

    modality: Tensor
    prompt: Tensor
    present: Tensor


class AnnouncedBatch:
    """The batch that a model runs now; all adapter layers of a model share one such object.

    The values stay until the next batch is announced, because gradient checkpointing reads them again in the
    backward pass.
    """

    def __init__(self) -> None:
        self.tasks: tuple[str, ...] = ()
        self.number = 0
        """Number of batches announced; a layer sees by it whether it reads a batch for the first time."""
        self.layers = 1
        """Number of adapter layers that share this object."""
        self._places: Callable[[], Places] | None = None
        self._memo: dict[Any, Any] = {}
        self._losses: list[Tensor] = []

    def tell(self, tasks: Sequence[str] = (), places: Callable[[], Places] | None = None) -> None:
        """Announce the next batch.

        Args:
            tasks: Task keys of the B samples, in order.
            places: Function that returns the content of each position. It is called at most once, and only
                if a layer asks.
        """
        self.tasks = tuple(tasks)
        self.number += 1
        self._places = places
        self._memo, self._losses = {}, []

    @property
    def knows_places(self) -> bool:
        """Whether the batch was announced with the content of its positions."""
        return self._places is not None

    def places(self, kind: str) -> Places:
        """Return the content of each position of the batch.

        Args:
            kind: Name of the adapter kind that asks, for the error message.

        Raises:
            RuntimeError: If the batch was announced without ``places``, or no batch was announced.
        """
        if self._places is None:
            raise RuntimeError(
                f"{kind} does not know which places of the batch hold text, pictures and sound; call "
                "announce_batch with places before the model runs"
            )
        return self.once("places", self._places)

    def once(self, key: Any, make: Callable[[], ValueT]) -> ValueT:
        """Return the value that ``make`` returns; ``make`` is called once for each batch and key."""
        if key not in self._memo:
            self._memo[key] = make()
        value: ValueT = self._memo[key]
        return value

    def add_loss(self, loss: Tensor) -> None:
        """Add a layer's own loss to the loss of the current training batch."""
        # Gradient checkpointing runs forward again inside backward; its loss was added the first time.
        if torch.is_grad_enabled() and not recomputing():
            self._losses.append(loss)

    def take_loss(self) -> Tensor | None:
        """Return the sum of the losses that layers added, and delete them; ``None`` if there are none."""
        losses, self._losses = self._losses, []
        return torch.stack(losses).sum() if losses else None


def share_batch(model: nn.Module) -> AnnouncedBatch:
    """Make all adapter layers of a model share one ``AnnouncedBatch``, and return it."""
    shared = AnnouncedBatch()
    layers: list[Any] = [m for m in model.modules() if isinstance(getattr(m, "batch", None), AnnouncedBatch)]
    for layer in layers:
        layer.batch = shared
    shared.layers = max(1, len(layers))
    return shared


def announce_batch(
    model: nn.Module, tasks: Sequence[str] = (), places: Callable[[], Places] | None = None
) -> None:
    """Tell the adapter layers of a model which batch it runs next.

    Args:
        model: The model with its adapters.
        tasks: Task keys of the B samples, in order.
        places: Function that returns the content of each position; see :meth:`AnnouncedBatch.tell`.

    Raises:
        ValueError: If the model has no adapters.
    """
    for module in model.modules():
        if isinstance(batch := getattr(module, "batch", None), AnnouncedBatch):
            batch.tell(tasks, places)
            return
    raise ValueError(f"{type(model).__name__} has no adapters to announce a batch to")
