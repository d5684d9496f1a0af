"""``torchmetrics.Metric`` classes on tensors, for every benchmark; no answer text is read here.

Scores are fractions in float64. Sums are whole numbers, so order, batch size and the number of processes
never change a digit. NaN means that nothing was scored.
"""

from crab_lightning.metrics.base import BenchmarkMetric
from crab_lightning.metrics.classification import (
    INVALID,
    Accuracy,
    ConfusionMatrix,
    UnweightedAverageRecall,
    WeightedAverageRecall,
    WeightedF1,
)
from crab_lightning.metrics.question_answering import AVQAAccuracy, GroupedAccuracy, MusicAVQAAccuracy

__all__ = [
    "INVALID",
    "AVQAAccuracy",
    "Accuracy",
    "BenchmarkMetric",
    "ConfusionMatrix",
    "GroupedAccuracy",
    "MusicAVQAAccuracy",
    "UnweightedAverageRecall",
    "WeightedAverageRecall",
    "WeightedF1",
]
