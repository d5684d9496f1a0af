"""What commands and callbacks know of a model that answers, wherever its weights are.

Nothing here needs transformers, which takes half a second to import.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from lightning.pytorch import LightningModule

from crab_lightning.processing import Geometry, Processor
from crab_lightning.structures import Batch, Decoding, Prediction, Sample
from crab_lightning.value_types import check_arguments

Candidates = Callable[[Sample], Sequence[str] | None]


class Predictions(list[Prediction]):
    """A list of answers that Lightning leaves as it is when it moves a batch to a device.

    In a plain list, ``Trainer.predict`` would try to change the samples, which are frozen dataclasses.
    """

    def to(self, *_: Any, **__: Any) -> Predictions:
        """Return itself."""
        return self


class AskedModule(LightningModule, ABC):
    """A model that answers questions. Its weights are on this machine, or it is reached at an endpoint.

    Args:
        max_new_tokens: Longest answer, in tokens.
        geometry: Preprocessing of the media, stored with the adapters. ``released`` is that of the released
            weights (224 px and 2.0 s per pair of frames, two clips joined into one); ``plain`` keeps whole
            clips and their true times.

    Raises:
        ValueError: If an answer would have no token.
    """

    paradigm: ClassVar[str] = ""
    """Short name of the architecture in checkpoints, inherited; empty for the name of the class."""

    def __init__(self, max_new_tokens: int = 512, geometry: Geometry = "released") -> None:
        super().__init__()
        check_arguments(AskedModule.__init__, locals(), "model")
        if max_new_tokens < 1:
            raise ValueError(f"model.max_new_tokens is {max_new_tokens}; an answer has at least 1 token")
        self.max_new_tokens = max_new_tokens
        self.geometry: Geometry = geometry
        self.decoding: Decoding = "generate"
        """How prompts are answered; anything but ``generate`` needs ``candidates``."""
        self.candidates: Candidates | None = None
        """The answers that a question leaves open, as texts; the Evaluator asks the tasks for them."""

    @property
    @abstractmethod
    def processor(self) -> Processor:
        """The processor of this model."""

    @property
    @abstractmethod
    def base_name(self) -> str:
        """Name of the base weights, stored with the adapters."""

    @abstractmethod
    def generate(self, batch: Batch) -> Predictions:
        """Answer B prompts, weigh the candidates of those that have some, or both, by ``decoding``.

        Each answer is what the prompt alone would get.
        """

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return ``{"predictions": [...]}``."""
        return {"predictions": self.generate(batch)}

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return ``{"predictions": [...]}``."""
        return {"predictions": self.generate(batch)}

    def _candidates_of(self, sample: Sample) -> tuple[str, ...]:
        if self.decoding == "generate" or self.candidates is None:
            return ()
        return tuple(self.candidates(sample) or ())
