"""The metrics of all benchmarks, as ``torchmetrics.Metric`` classes on tensors.

Scores are fractions in float64. Sums are whole numbers, so the result does not depend on the order, the batch
size or the number of processes. NaN means that nothing was scored.
"""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.metrics.base import BenchmarkMetric as BenchmarkMetric
    from crab_lightning.metrics.boxes import BoxIoU as BoxIoU
    from crab_lightning.metrics.boxes import box_iou as box_iou
    from crab_lightning.metrics.calibration import Calibration as Calibration
    from crab_lightning.metrics.caption_tools import CaptionToolMissing as CaptionToolMissing
    from crab_lightning.metrics.caption_tools import ptb_tokenize as ptb_tokenize
    from crab_lightning.metrics.caption_tools import python_tokenize as python_tokenize
    from crab_lightning.metrics.captions import CaptionScores as CaptionScores
    from crab_lightning.metrics.classification import INVALID as INVALID
    from crab_lightning.metrics.classification import Accuracy as Accuracy
    from crab_lightning.metrics.classification import ConfusionMatrix as ConfusionMatrix
    from crab_lightning.metrics.classification import SegmentAccuracy as SegmentAccuracy
    from crab_lightning.metrics.classification import UnweightedAverageRecall as UnweightedAverageRecall
    from crab_lightning.metrics.classification import WeightedAverageRecall as WeightedAverageRecall
    from crab_lightning.metrics.classification import WeightedF1 as WeightedF1
    from crab_lightning.metrics.detection import EventMeanAP as EventMeanAP
    from crab_lightning.metrics.event_parsing import EventParsingF as EventParsingF
    from crab_lightning.metrics.mask_scores import PROTOCOLS as PROTOCOLS
    from crab_lightning.metrics.mask_scores import MaskProtocol as MaskProtocol
    from crab_lightning.metrics.masks import MaskJF as MaskJF
    from crab_lightning.metrics.masks import NullMaskS as NullMaskS
    from crab_lightning.metrics.masks import RightPrompts as RightPrompts
    from crab_lightning.metrics.question_answering import AVQAAccuracy as AVQAAccuracy
    from crab_lightning.metrics.question_answering import GroupedAccuracy as GroupedAccuracy
    from crab_lightning.metrics.question_answering import MusicAVQAAccuracy as MusicAVQAAccuracy
    from crab_lightning.metrics.scale import COUNT as COUNT
    from crab_lightning.metrics.scale import Scale as Scale

__getattr__, __all__ = lazy_exports(__name__, __file__)
