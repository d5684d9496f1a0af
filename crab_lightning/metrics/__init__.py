"""``torchmetrics.Metric`` classes on tensors, for every benchmark; no answer text is read here.

Scores are fractions in float64. Sums are whole numbers, so order, batch size and the number of processes
never change a digit. NaN means that nothing was scored.
"""

from crab_lightning.metrics.base import BenchmarkMetric
from crab_lightning.metrics.boxes import BoxIoU, box_iou
from crab_lightning.metrics.calibration import Calibration
from crab_lightning.metrics.caption_tools import CaptionToolMissing, ptb_tokenize, python_tokenize
from crab_lightning.metrics.captions import CaptionScores
from crab_lightning.metrics.classification import (
    INVALID,
    Accuracy,
    ConfusionMatrix,
    UnweightedAverageRecall,
    WeightedAverageRecall,
    WeightedF1,
)
from crab_lightning.metrics.detection import EventMeanAP
from crab_lightning.metrics.event_localization import SegmentAccuracy, decode_segments
from crab_lightning.metrics.event_parsing import EventParsingF
from crab_lightning.metrics.mask_prompts import RightPrompts
from crab_lightning.metrics.mask_protocols import PROTOCOLS, MaskProtocol
from crab_lightning.metrics.masks import MaskJF, NullMaskS
from crab_lightning.metrics.question_answering import AVQAAccuracy, GroupedAccuracy, MusicAVQAAccuracy
from crab_lightning.metrics.scale import COUNT, Scale

__all__ = [
    "COUNT",
    "INVALID",
    "PROTOCOLS",
    "AVQAAccuracy",
    "Accuracy",
    "BenchmarkMetric",
    "BoxIoU",
    "Calibration",
    "CaptionScores",
    "CaptionToolMissing",
    "ConfusionMatrix",
    "EventMeanAP",
    "EventParsingF",
    "GroupedAccuracy",
    "MaskJF",
    "MaskProtocol",
    "MusicAVQAAccuracy",
    "NullMaskS",
    "RightPrompts",
    "Scale",
    "SegmentAccuracy",
    "UnweightedAverageRecall",
    "WeightedAverageRecall",
    "WeightedF1",
    "box_iou",
    "decode_segments",
    "ptb_tokenize",
    "python_tokenize",
]
