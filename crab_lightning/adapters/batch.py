"""What the layers of a model know of the batch that runs: its tasks, its media, and the losses they add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from crab_lightning.compat import recomputing

ValueT = TypeVar("ValueT")


class Places(NamedTuple):
    """What stands at each place of a batch of sequences.

    Args:
        modality: ``(B, T)``; ``TEXT``, ``VISUAL`` or ``AUDIO`` of ``structures``.
        prompt: bool ``(B, T)``; True for places of the prompt, False for an answer to learn and for padding.
        present: bool ``(B, T)``; False for padding.
    """

    modality: Tensor
    prompt: Tensor
    present: Tensor


class AnnouncedBatch:
    """The batch that a model runs now; all adapter layers of a model share one.

    It holds until the next announcement, so that gradient checkpointing finds it in backward.
    """

    def __init__(self) -> None:
        self.tasks: tuple[str, ...] = ()
        self.number = 0
        """Counts announcements, so that a layer can tell the first reading of a batch from later ones."""
        self.layers = 1
        """Number of adapter layers that share this."""
        self._places: Callable[[], Places] | None = None
        self._memo: dict[Any, Any] = {}
        self._losses: list[Tensor] = []

    def tell(self, tasks: Sequence[str] = (), places: Callable[[], Places] | None = None) -> None:
        """Announce the next batch.

        Args:
            tasks: Task keys of the B samples, in order.
            places: Returns what stands at each place; called only if a layer asks, and once.
        """
        self.tasks = tuple(tasks)
        self.number += 1
        self._places = places
        self._memo, self._losses = {}, []

    @property
    def knows_places(self) -> bool:
        """Whether the batch was announced with its places."""
        return self._places is not None

    def places(self, kind: str) -> Places:
        """Return what stands at each place.

        Args:
            kind: Adapter kind that asks, for the message.

        Raises:
            RuntimeError: If no batch was announced with its places.
        """
        if self._places is None:
            raise RuntimeError(
                f"{kind} does not know which places of the batch hold text, pictures and sound; call "
                "announce_batch with places before the model runs"
            )
        return self.once("places", self._places)

    def once(self, key: Any, make: Callable[[], ValueT]) -> ValueT:
        """Return what ``make`` returns; it is called at the first time of each batch and key only."""
        if key not in self._memo:
            self._memo[key] = make()
        value: ValueT = self._memo[key]
        return value

    def add_loss(self, loss: Tensor) -> None:
        """Add a loss of a layer's own to that of the running training batch."""
        # Checkpointing runs the forward again inside backward; that loss has been added.
        if torch.is_grad_enabled() and not recomputing():
            self._losses.append(loss)

    def take_loss(self) -> Tensor | None:
        """Return the sum of the layers' own losses and forget them; ``None`` without any."""
        losses, self._losses = self._losses, []
        return torch.stack(losses).sum() if losses else None


def share_batch(model: nn.Module) -> AnnouncedBatch:
    """Give the adapter layers of a model one announced batch and return it."""
    shared = AnnouncedBatch()
    layers: list[Any] = [m for m in model.modules() if isinstance(getattr(m, "batch", None), AnnouncedBatch)]
    for layer in layers:
        layer.batch = shared
    shared.layers = max(1, len(layers))
    return shared


def announce_batch(
    model: nn.Module, tasks: Sequence[str] = (), places: Callable[[], Places] | None = None
) -> None:
    """Announce the batch that a model runs next to its adapter layers; see :meth:`AnnouncedBatch.tell`.

    Raises:
        ValueError: If the model has no adapters.
    """
    for module in model.modules():
        if isinstance(batch := getattr(module, "batch", None), AnnouncedBatch):
            batch.tell(tasks, places)
            return
    raise ValueError(f"{type(model).__name__} has no adapters to announce a batch to")
