"""Answers to scores: the Evaluator, prediction files, result tables and the swapped-sound control."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.evaluation.evaluator import Evaluator as Evaluator
    from crab_lightning.evaluation.mask_floor import SwappedAudioFloor as SwappedAudioFloor
    from crab_lightning.evaluation.sample_losses import SampleLosses as SampleLosses

__getattr__, __all__ = lazy_exports(__name__, __file__)
