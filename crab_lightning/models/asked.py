"""The base class of all models that answer questions, as commands and callbacks use it.

This module does not import transformers, which would take half a second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn

from crab_lightning.compat import callbacks_of
from crab_lightning.processing import Geometry, Processor
from crab_lightning.structures import Batch, Decoding, Prediction, Sample
from crab_lightning.value_types import check_arguments

Candidates = Callable[[Sample], Sequence[str] | None]


class Predictions(list[Prediction]):
    """A list of answers that Lightning does not change when it moves a batch to a device.

    In a plain list, ``Trainer.predict`` would try to change the samples, which are frozen dataclasses.
    """

    def to(self, *_: Any, **__: Any) -> Predictions:
        """Return the list itself."""
        return self


class AskedModule(LightningModule, ABC):
    """A model that answers questions, on this machine or at an endpoint.

    Args:
        max_new_tokens: Largest number of tokens of an answer.
        geometry: Preprocessing of the media, stored with the adapters. ``released`` is that of the released
            weights (224 px and 2.0 s per pair of frames, two clips joined into one); ``plain`` keeps whole
            clips and their true times.

    Raises:
        ValueError: If ``max_new_tokens`` is below 1, or an argument has a wrong type.
    """

    paradigm: ClassVar[str] = ""
    """Short name of the architecture in checkpoints. If it is empty, checkpoints have the class name."""

    def __init__(self, max_new_tokens: int = 512, geometry: Geometry = "released") -> None:
        super().__init__()
        check_arguments(AskedModule.__init__, locals(), "model")
        if max_new_tokens < 1:
            raise ValueError(f"model.max_new_tokens is {max_new_tokens}; it must be at least 1")
        self.max_new_tokens = max_new_tokens
        self.geometry: Geometry = geometry
        self.decoding: Decoding = "generate"
        """How prompts are answered; ``likelihood`` and ``both`` need ``candidates``."""
        self.candidates: Candidates | None = None
        """Function that returns the possible answers to a question; the Evaluator gets it from the tasks."""

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
        """Answer B prompts; ``decoding`` chooses between generated text, candidate probabilities, or both.

        A prompt without candidates always gets generated text. An answer does not depend on the other prompts
        of the batch.
        """

    def on_test_start(self) -> None:
        """Warn if nothing scores or saves the answers of the test."""
        if not any(hasattr(callback, "stands_for_mean") for callback in callbacks_of(self.trainer)):
            rank_zero_warn(
                "the Trainer has no Evaluator, so the answers of this test are neither scored nor saved. Add "
                "crab_lightning.Evaluator() to its callbacks, unless a callback of your own uses the answers"
            )

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return ``{"predictions": [...]}``."""
        return {"predictions": self.generate(batch)}

    predict_step = test_step

    def _candidates_of(self, sample: Sample) -> tuple[str, ...]:
        if self.decoding == "generate" or self.candidates is None:
            return ()
        return tuple(self.candidates(sample) or ())
