"""Evaluation of answers: the Evaluator, prediction files, tables of results, and control experiments."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.evaluation.evaluator import Evaluator as Evaluator
    from crab_lightning.evaluation.mask_floor import SwappedAudioFloor as SwappedAudioFloor
    from crab_lightning.evaluation.sample_losses import SampleLosses as SampleLosses

__getattr__, __all__ = lazy_exports(__name__, __file__)
