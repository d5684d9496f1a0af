"""Dense event localization (UnAV-100): mean average precision over temporal overlaps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric

Floats = npt.NDArray[np.float64]

# As the official code makes them, so that an overlap that lies on a threshold compares the same way.
_THRESHOLDS: Floats = np.linspace(0.1, 0.9, 9)
_SAME_EVENT_S = 1e-3
_COLUMNS = 4


def temporal_iou(span_s: Floats, others_s: Floats) -> Floats:
    """Intersection over union of one span ``(2,)`` with N others ``(N, 2)``; 0 for two of zero length."""
    shared = np.clip(np.minimum(span_s[1], others_s[:, 1]) - np.maximum(span_s[0], others_s[:, 0]), 0, None)
    union = (span_s[1] - span_s[0]) + (others_s[:, 1] - others_s[:, 0]) - shared
    overlap: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def _distinct(spans_s: Floats) -> Floats:
    """Drop spans whose two ends lie within a millisecond of an earlier one's."""
    kept: list[Floats] = []
    for span in spans_s:
        if not any(np.all(np.abs(span - other) <= _SAME_EVENT_S) for other in kept):
            kept.append(span)
    return np.array(kept, dtype=np.float64).reshape(-1, 2)


def _match(preds_s: Floats, trues_s: Floats) -> npt.NDArray[np.int64]:
    """Give predictions of one class in one video, best first, their true events.

    Returns:
        For each prediction a bit mask of the thresholds at which it is a true positive ``(P,)``.
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
    """All-point interpolated AP from sorted true positives ``(P, thresholds)``; ``(thresholds,)``."""
    found = hits.cumsum(axis=0)[block_ends]
    precision = found / (block_ends + 1)[:, None]
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    steps = np.diff(found / true_events, axis=0, prepend=0.0)
    return np.asarray((steps * envelope).sum(axis=0), dtype=np.float64)


class EventMeanAP(BenchmarkMetric):
    """Mean average precision at temporal overlaps 0.1 to 0.9, in [0, 1]; higher is better.

    Keys: ``map_10`` ... ``map_90`` and ``map_average``, the mean of the nine.

    Truth that repeats (same video and class, both ends within 1 ms) counts once. A prediction takes the best
    overlapping true event of its class and video that is still free. AP is the area under the
    precision-recall curve with its envelope from the right; a class without predictions has 0, and classes
    that never occur in the truth are left out together with their predictions (so is class -1). Zero-length
    spans overlap nothing. No true event at all: NaN.

    A language model gives no scores: pass 1.0 for every event, in the order of the answer. Equal scores rank
    by position in their answer; those that still tie, in different videos, enter the curve as one step, so
    that the order of videos has no say. Say so beside the number.

    Matching happens inside a video, so each update settles its video at once. The ranking is over the whole
    data set, hence one row of four numbers per prediction is kept: this metric grows with the data set.

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
            pred_scores: ``(P,)``.
            true_spans_s: Start and end of each true event ``(G, 2)``.
            true_classes: ``(G,)``.

        Raises:
            ValueError: If lengths differ, a class is out of range or a number is not finite.
        """
        preds, scores = (
            self._spans("pred", pred_spans_s, pred_classes),
            pred_scores.reshape(-1).double().cpu(),
        )
        trues = self._spans("true", true_spans_s, true_classes)
        classes, true_of = pred_classes.reshape(-1).cpu().numpy(), true_classes.reshape(-1).cpu().numpy()
        if len(scores) != len(preds) or not bool(torch.isfinite(scores).all()):
            raise ValueError(
                f"pred_scores must be {len(preds)} finite numbers, one for each span; got {scores}"
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
                f"{len(spans_s)} {side}_spans_s but {len(classes)} {side}_classes; give one each"
            )
        if len(classes) and (int(classes.min()) < lowest or int(classes.max()) >= self.num_classes):
            raise ValueError(
                f"{side}_classes run from {int(classes.min())} to {int(classes.max())}; "
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
