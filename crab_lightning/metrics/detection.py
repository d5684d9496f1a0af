"""Dense event localization (UnAV-100): mean average precision over temporal overlaps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric

Floats = npt.NDArray[np.float64]

# Computed as in the official code, so that an overlap equal to a threshold is compared in the same way.
_THRESHOLDS: Floats = np.linspace(0.1, 0.9, 9)
_SAME_EVENT_S = 1e-3
_COLUMNS = 4


def temporal_iou(span_s: Floats, others_s: Floats) -> Floats:
    """Return the intersection over union of one span ``(2,)`` with N others ``(N, 2)``, ``(N,)``.

    It is 0 for two spans of zero length.
    """
    shared = np.clip(np.minimum(span_s[1], others_s[:, 1]) - np.maximum(span_s[0], others_s[:, 0]), 0, None)
    union = (span_s[1] - span_s[0]) + (others_s[:, 1] - others_s[:, 0]) - shared
    overlap: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def _distinct(spans_s: Floats) -> Floats:
    """Return the spans without those whose two ends differ by at most 1 ms from an earlier span."""
    kept: list[Floats] = []
    for span in spans_s:
        if not any(np.all(np.abs(span - other) <= _SAME_EVENT_S) for other in kept):
            kept.append(span)
    return np.array(kept, dtype=np.float64).reshape(-1, 2)


def _match(preds_s: Floats, trues_s: Floats) -> npt.NDArray[np.int64]:
    """Match the predictions of one class in one video, best first, with true events.

    Returns:
        For each prediction ``(P,)`` the thresholds at which it is a true positive, as the bits of a number.
    """
    bits = np.zeros(len(preds_s), dtype=np.int64)
    if not len(trues_s):
        return bits
    free = np.ones((len(_THRESHOLDS), len(trues_s)), dtype=bool)
    for i, span in enumerate(preds_s):
        overlap = temporal_iou(span, trues_s)
        by_overlap = np.argsort(overlap, kind="stable")[::-1]
        for level, threshold in enumerate(_THRESHOLDS):
            for j in by_overlap:
                if overlap[j] < threshold:
                    break
                if free[level, j]:
                    free[level, j] = False
                    bits[i] |= 1 << level
                    break
    return bits


def _average_precision(hits: Floats, block_ends: npt.NDArray[np.int64], true_events: int) -> Floats:
    """Return the all-point interpolated AP ``(thresholds,)`` of sorted true positives ``(P, thresholds)``."""
    found = hits.cumsum(axis=0)[block_ends]
    precision = found / (block_ends + 1)[:, None]
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    steps = np.diff(found / true_events, axis=0, prepend=0.0)
    return np.asarray((steps * envelope).sum(axis=0), dtype=np.float64)


class EventMeanAP(BenchmarkMetric):
    """Mean average precision at temporal overlaps 0.1 to 0.9, in [0, 1]; higher is better.

    Keys: ``map_10`` ... ``map_90`` and ``map_average``, the mean of the nine.

    Equal true events (of the same video and class, both ends within 1 ms) count once. A prediction is matched
    with the true event of its class and video that overlaps it most and is not matched yet. AP is the area
    under the precision-recall curve with its envelope from the right. A class without predictions has AP 0.
    Classes without true events are left out, with their predictions; so is class -1. Spans of zero length
    overlap nothing. Without any true event, the values are NaN.

    A language model gives no scores: use 1.0 for every event, in the order of the answer. Events with equal
    scores are ranked by their position in the answer. Events of different videos with the same score and
    position enter the curve as one step, so that the order of videos has no effect. State it when you report
    such scores.

    Predictions are matched when their video is added. The ranking is over the whole dataset, so this metric
    keeps four numbers for each prediction, and its memory grows with the dataset.

    Source: ``ANETdetection`` in ttgeng233/UnAV libs/utils/metrics.py.

    Args:
        num_classes: Number of classes.

    Raises:
        ValueError: If ``num_classes`` is not positive.
    """

    true_events: Tensor

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; a closed set needs at least one class")
        self.num_classes = num_classes
        self.add_sum("true_events", num_classes)
        self.add_list("rows", torch.float64)

    def update(
        self,
        pred_spans_s: Tensor,
        pred_classes: Tensor,
        pred_scores: Tensor,
        true_spans_s: Tensor,
        true_classes: Tensor,
    ) -> None:
        """Add one whole video.

        Args:
            pred_spans_s: Start and end of each predicted event ``(P, 2)``, in the order of the answer.
            pred_classes: ``(P,)``; -1 for an unknown name.
            pred_scores: Score of each predicted event ``(P,)``; a higher score is ranked first.
            true_spans_s: Start and end of each true event ``(G, 2)``.
            true_classes: Class of each true event ``(G,)``.

        Raises:
            ValueError: If lengths differ, a class is out of range, or a number is not finite.
        """
        preds = self._spans("pred", pred_spans_s, pred_classes)
        scores = pred_scores.reshape(-1).double().cpu()
        trues = self._spans("true", true_spans_s, true_classes)
        classes, true_of = pred_classes.reshape(-1).cpu().numpy(), true_classes.reshape(-1).cpu().numpy()
        if len(scores) != len(preds) or not bool(torch.isfinite(scores).all()):
            raise ValueError(
                f"pred_scores is {scores}; it must have {len(preds)} finite numbers, one for each span"
            )
        ranked = np.lexsort((np.arange(len(preds)), -scores.numpy()))
        rows = []
        for label in np.union1d(classes[classes >= 0], true_of):
            events = _distinct(trues[true_of == label])
            self.true_events[int(label)] += len(events)
            chosen = ranked[classes[ranked] == label]
            for place, bits in zip(chosen, _match(preds[chosen], events), strict=True):
                rows.append([float(label), float(scores[place]), float(place), float(bits)])
        if rows:
            self.append("rows", torch.tensor(rows, dtype=torch.float64).flatten())

    def _spans(self, side: str, spans_s: Tensor, classes: Tensor) -> Floats:
        spans_s, classes = spans_s.reshape(-1, 2).double().cpu(), classes.reshape(-1)
        lowest = -1 if side == "pred" else 0
        if len(spans_s) != len(classes):
            raise ValueError(
                f"there are {len(spans_s)} {side}_spans_s, but {len(classes)} {side}_classes; they need the "
                "same number"
            )
        if len(classes) and (int(classes.min()) < lowest or int(classes.max()) >= self.num_classes):
            raise ValueError(
                f"{side}_classes contains class indices from {int(classes.min())} to {int(classes.max())}; "
                f"allowed are {lowest} to {self.num_classes - 1}"
            )
        if not bool(torch.isfinite(spans_s).all()):
            raise ValueError(f"{side}_spans_s contains NaN or infinity")
        return np.asarray(spans_s.numpy(), dtype=np.float64)

    def compute(self) -> dict[str, Tensor]:
        """Return ``map_10`` to ``map_90`` and ``map_average``."""
        rows = self.joined("rows").cpu().numpy().reshape(-1, _COLUMNS)
        true_events = self.true_events.cpu().numpy()
        precisions = []
        for label in np.flatnonzero(true_events):
            own = rows[rows[:, 0] == label]
            own = own[np.lexsort((own[:, 2], -own[:, 1]))]
            if not len(own):
                precisions.append(np.zeros(len(_THRESHOLDS)))
                continue
            hits = (own[:, 3:].astype(np.int64) >> np.arange(len(_THRESHOLDS))) & 1
            changes = np.any(own[1:, 1:3] != own[:-1, 1:3], axis=1)
            ends = np.flatnonzero(np.append(changes, True))
            precisions.append(_average_precision(hits.astype(np.float64), ends, int(true_events[label])))
        mean = np.mean(precisions, axis=0) if precisions else np.full(len(_THRESHOLDS), np.nan)
        values = torch.tensor([*mean, mean.mean()], dtype=torch.float64, device=self.device)
        names = [f"map_{round(100 * threshold)}" for threshold in _THRESHOLDS] + ["map_average"]
        return dict(zip(names, values, strict=True))
