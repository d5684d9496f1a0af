"""Audio-visual event parsing (LLP): segment-level and event-level F-scores."""

from __future__ import annotations

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric, mean_of, to_units

_KINDS = ("a", "v", "av", "event")
_LEVELS = ("segment", "event")


def _runs(rows: Tensor) -> Tensor:
    """Return the runs of True values in bool rows ``(..., S)`` as float64 ``(..., R, S)``, one run a row.

    R is the largest possible number of runs; rows without a run are 0.
    """
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
    # An IoU of exactly one half is a match; whole numbers make this comparison exact.
    match = (shared > 0) & (2 * shared >= union)
    pred_events, true_events = (pred_runs.sum(-1) > 0).sum(-1), (true_runs.sum(-1) > 0).sum(-1)
    found = match.any(dim=-1).sum(dim=-1)
    missed = true_events - match.any(dim=-2).sum(dim=-1)
    return torch.stack([found, pred_events - found, missed]).to(torch.float64)


def _video_scores(counts: Tensor) -> Tensor:
    """Return the mean F over classes that occur; 1 if no class occurs. ``(3, ..., C)`` to ``(...)``."""
    hits, false, missed = counts
    present = hits + false + missed > 0
    f_scores = torch.where(present, 2 * hits / (2 * hits + false + missed).clamp(min=1), 0.0)
    classes = present.sum(dim=-1)
    return torch.where(classes > 0, f_scores.sum(dim=-1) / classes.clamp(min=1), 1.0)


def clip_f_scores(pred_a: Tensor, pred_v: Tensor, true_a: Tensor, true_v: Tensor) -> Tensor:
    """Return F of each clip by level (segment, event) and kind (a, v, av, event).

    Args:
        pred_a: bool ``(N, C, S)``, predicted audio events.
        pred_v: bool ``(N, C, S)``, predicted visual events.
        true_a: bool ``(N, C, S)``, true audio events.
        true_v: bool ``(N, C, S)``, true visual events.

    Returns:
        int64 ``(2, 4, N)``, in the units of :func:`to_units`.
    """
    # Audio, visual and both are computed in one call, because the tensors are small and calls are slow.
    pred, true = (torch.stack([a, v, a & v]) for a, v in ((pred_a, pred_v), (true_a, true_v)))
    # (3 counts, 2 levels, 3 kinds, N, C)
    counts = torch.stack([_segment_counts(pred, true), _event_counts(pred, true)], dim=1)
    events = (counts[:, :, 0] + counts[:, :, 1]).unsqueeze(2)
    return to_units(_video_scores(torch.cat([counts, events], dim=2)))


def named_f_scores(units: Tensor, clips: Tensor | int) -> dict[str, Tensor]:
    """Return the twelve scores by name.

    Args:
        units: int64 ``(2, 4)``, results of :func:`clip_f_scores`, summed over clips.
        clips: Number of clips.
    """
    scores: dict[str, Tensor] = {}
    for level, row in zip(_LEVELS, mean_of(units, torch.as_tensor(clips)), strict=True):
        named = dict(zip(_KINDS, row, strict=True))
        named["type"] = (named["a"] + named["v"] + named["av"]) / 3
        five = [named[kind] for kind in ("a", "v", "av", "type", "event")]
        named["mean5"] = torch.stack(five).mean()
        scores |= {f"{level}_{kind}": value for kind, value in named.items()}
    return scores


class EventParsingF(BenchmarkMetric):
    """The ten F-scores of LLP and the mean of five at each level, in [0, 1]; higher is better.

    Keys are ``segment_*`` and ``event_*`` with ``a``, ``v``, ``av`` (segments in which a class is both seen
    and heard), ``type`` (mean of these three over the dataset), ``event`` (audio and visual counts are added
    before F) and ``mean5`` (mean of the five; papers report this number for a level).

    F is averaged over the classes that occur in prediction or truth, and then over videos. A video in which
    no class occurs scores 1. On the event level, neighbouring segments of a class are one event, and a
    predicted event is correct if its IoU with a true event is at least one half. Without videos, the values
    are NaN.

    Source: ``segment_level`` and ``event_level`` in YapengTian/AVVP-ECCV20 utils/eval_metrics.py; published
    tables suggest the definition of ``mean5``.
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
        """Add N videos, as 0/1 matrices of C classes and S one-second segments.

        Args:
            pred_audio: Predicted audio events ``(N, C, S)``.
            pred_visual: Predicted visual events ``(N, C, S)``.
            true_audio: True audio events ``(N, C, S)``.
            true_visual: True visual events ``(N, C, S)``.

        Raises:
            ValueError: If shapes differ, or a value is neither 0 nor 1.
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
                raise ValueError(f"{name} contains values other than 0 and 1; threshold it first")
        self.f_units += clip_f_scores(*(matrix.bool() for matrix in matrices.values())).sum(dim=-1)
        self.videos += true_audio.shape[0]

    def compute(self) -> dict[str, Tensor]:
        """Return the twelve scores by name."""
        return named_f_scores(self.f_units, self.videos)
