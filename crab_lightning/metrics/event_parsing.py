"""Audio-visual event parsing (LLP): segment-level and event-level F-scores."""

from __future__ import annotations

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric, mean_of, to_units

_KINDS = ("a", "v", "av", "event")
_LEVELS = ("segment", "event")


def _runs(rows: Tensor) -> Tensor:
    """Split bool rows ``(..., S)`` into maximal runs of ones: float64 ``(..., R, S)``, unused runs empty."""
    before = torch.nn.functional.pad(rows, (1, 0))[..., :-1]
    number = (rows & ~before).cumsum(dim=-1) * rows
    most = (rows.shape[-1] + 1) // 2
    return (number.unsqueeze(-2) == torch.arange(1, most + 1, device=rows.device)[:, None]).to(torch.float64)


def _segment_counts(pred: Tensor, true: Tensor) -> Tensor:
    """Count TP, FP and FN segments; bool ``(N, C, S)`` in, float64 ``(3, N, C)`` out."""
    parts = (pred & true, pred & ~true, ~pred & true)
    return torch.stack([part.sum(dim=-1) for part in parts]).to(torch.float64)


def _event_counts(pred: Tensor, true: Tensor) -> Tensor:
    """Count TP, FP and FN events; bool ``(N, C, S)`` in, float64 ``(3, N, C)`` out."""
    pred_runs, true_runs = _runs(pred), _runs(true)
    shared = pred_runs @ true_runs.transpose(-1, -2)
    union = pred_runs.sum(-1)[..., :, None] + true_runs.sum(-1)[..., None, :] - shared
    # Exactly one half counts; whole numbers keep that comparison exact.
    match = (shared > 0) & (2 * shared >= union)
    pred_events, true_events = (pred_runs.sum(-1) > 0).sum(-1), (true_runs.sum(-1) > 0).sum(-1)
    found = match.any(dim=-1).sum(dim=-1)
    missed = true_events - match.any(dim=-2).sum(dim=-1)
    return torch.stack([found, pred_events - found, missed]).to(torch.float64)


def _video_scores(counts: Tensor) -> Tensor:
    """Average F over the classes present on either side; 1 where there is none. ``(3, N, C)`` to ``(N,)``."""
    hits, false, missed = counts
    present = hits + false + missed > 0
    f_scores = torch.where(present, 2 * hits / (2 * hits + false + missed).clamp(min=1), 0.0)
    classes = present.sum(dim=-1)
    return torch.where(classes > 0, f_scores.sum(dim=-1) / classes.clamp(min=1), 1.0)


class EventParsingF(BenchmarkMetric):
    """The ten F-scores of LLP and the mean of five at each level, in [0, 1]; higher is better.

    Keys are ``segment_*`` and ``event_*`` with ``a``, ``v``, ``av`` (element-wise product of both modalities,
    on both sides), ``type`` (mean of those three over the data set), ``event`` (audio and visual counts added
    before F) and ``mean5`` (mean of the five; the single number that papers print for a level).

    F is averaged over the classes that prediction or truth holds, then over videos. A video with no class on
    either side scores 1. On the event level a run of ones is an event, and it is found when its intersection
    is at least half of its union with a true event. No videos: NaN.

    Source: ``segment_level`` and ``event_level`` in YapengTian/AVVP-ECCV20 utils/eval_metrics.py; ``mean5``
    is inferred from published tables.
    """

    f_units: Tensor
    videos: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("f_units", len(_LEVELS), len(_KINDS))
        self.add_sum("videos")

    def update(
        self, pred_audio: Tensor, pred_visual: Tensor, true_audio: Tensor, true_visual: Tensor
    ) -> None:
        """Add N videos, each as 0/1 matrices of C classes by S one-second segments.

        Args:
            pred_audio: ``(N, C, S)``.
            pred_visual: ``(N, C, S)``.
            true_audio: ``(N, C, S)``.
            true_visual: ``(N, C, S)``.

        Raises:
            ValueError: If shapes differ or an entry is neither 0 nor 1.
        """
        matrices = {
            "pred_audio": pred_audio,
            "pred_visual": pred_visual,
            "true_audio": true_audio,
            "true_visual": true_visual,
        }
        for name, matrix in matrices.items():
            if matrix.ndim != 3 or matrix.shape != true_audio.shape:
                raise ValueError(
                    f"{name} has shape {tuple(matrix.shape)}; all four matrices must be (videos, classes, "
                    f"segments), and true_audio is {tuple(true_audio.shape)}"
                )
            if not bool(((matrix == 0) | (matrix == 1)).all()):
                raise ValueError(f"{name} holds values other than 0 and 1; threshold it first")
        pred_a, pred_v, true_a, true_v = (matrix.bool() for matrix in matrices.values())
        levels = []
        for count in (_segment_counts, _event_counts):
            audio, visual = count(pred_a, true_a), count(pred_v, true_v)
            both = count(pred_a & pred_v, true_a & true_v)
            levels.append(torch.stack([_video_scores(c) for c in (audio, visual, both, audio + visual)]))
        self.f_units += to_units(torch.stack(levels)).sum(dim=-1)
        self.videos += true_audio.shape[0]

    def compute(self) -> dict[str, Tensor]:
        """Return twelve scores by name."""
        scores: dict[str, Tensor] = {}
        for level, row in zip(_LEVELS, mean_of(self.f_units, self.videos), strict=True):
            named = dict(zip(_KINDS, row, strict=True))
            named["type"] = (named["a"] + named["v"] + named["av"]) / 3
            five = [named[kind] for kind in ("a", "v", "av", "type", "event")]
            named["mean5"] = torch.stack(five).mean()
            scores |= {f"{level}_{kind}": value for kind, value in named.items()}
        return scores
