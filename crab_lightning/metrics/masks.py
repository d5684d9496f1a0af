"""Segmentation: J, F and S of masks under the published evaluation protocols (S4, MS3, Ref-AVS)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from crab_lightning.metrics.base import BenchmarkMetric, mean_of, to_units
from crab_lightning.metrics.mask_scores import (
    LEVELS,
    PROTOCOLS,
    background_jaccard,
    batch_sizes,
    binary_scores,
    check_masks,
    f_curves,
    find_protocol,
    pixels,
)
from crab_lightning.metrics.scale import COUNT, Scale

_LOOSE_ROWS = 512


class MaskMetric(BenchmarkMetric):
    """The base class of mask metrics; it keeps a row of whole numbers for each clip.

    The frames of a clip may be on several processes, or be added before and after a run is interrupted. So a
    batch that is a clip is scored only in ``compute``, when the rows of all processes are together.

    Args:
        protocol: Key of ``PROTOCOLS``.
        frames_per_batch: Number of frames in a batch; that of the protocol when left out.
    """

    width: int
    """Number of values in a row; the first one is the key of the clip."""
    sums: ClassVar[tuple[str, ...]]
    """Names of the sums over frames or batches that do not depend on clips."""

    def __init__(self, protocol: str = "crabplus", frames_per_batch: int | None = None) -> None:
        super().__init__()
        self.add_list("clips", torch.int64)
        self.protocol = find_protocol(protocol, frames_per_batch)
        self.has_batches = PROTOCOLS[protocol].frames_per_batch != 1
        for name in self.sums:
            self.add_sum(name)

    def _check(self, pred: Tensor, clips: Sequence[str] | None) -> None:
        check_masks(pred, self.protocol)
        if clips is not None and len(clips) != len(pred):
            raise ValueError(f"there are {len(clips)} clips for {len(pred)} frames; give one for each")

    def _add_rows(self, clips: Sequence[str], numbers: Sequence[Tensor]) -> None:
        """Add the values of F frames to the rows of their clips; each tensor is ``(F,)`` or ``(F, N)``."""
        keys = torch.tensor([_clip_key(clip) for clip in clips], device=numbers[0].device)
        columns = [n.to(torch.int64).reshape(len(clips), -1) for n in (keys, *numbers)]
        self.append("clips", torch.cat(columns, dim=1).flatten())
        state: list[Tensor] = self.clips  # type: ignore[has-type]
        if len(state) > _LOOSE_ROWS:  # joins the frames of a clip, so that memory does not grow with frames
            self.clips = [self._rows().flatten()]

    def _rows(self) -> Tensor:
        """Return one row for each clip, int64 ``(clips, width)``, in the order of the keys."""
        loose = self.joined("clips").view(-1, self.width)
        keys, place = torch.unique(loose[:, 0], return_inverse=True)
        rows = torch.zeros(len(keys), self.width, dtype=torch.int64, device=loose.device)
        rows.index_add_(0, place, loose)
        rows[:, 0] = keys
        return rows


def _clip_key(clip: str) -> int:
    return int.from_bytes(hashlib.blake2b(clip.encode(), digest_size=8).digest(), "big", signed=True)


class MaskJF(MaskMetric):
    """Jaccard index J and F-measure (beta squared 0.3) of masks, in [0, 1]; higher is better.

    Keys: ``j``, ``f``, and for protocols with batches ``frames_per_batch``, the mean number of frames in the
    batches.

    - ``crabplus`` (the default): binary masks, and each frame is scored separately. If both masks are empty,
      J and F are 1. If one is empty, they are 0.
    - ``avsbench``: pixels with a probability above 0.5 are the mask for J. A frame with an empty truth has as
      J the fraction of pixels outside the predicted mask. F is the maximum over 255 thresholds of the mean F
      of the frames in a batch. Frames with an empty truth are left out; if all are, F is 0. F is averaged
      over batches, so it depends on the batch size (5 frames, one video, by default; the published script has
      20).
    - ``framewise``: as ``avsbench`` with batches of one frame; a frame with an empty truth has F 0.
    - ``refavs``: as ``avsbench``, but the mask for J has probabilities above 0.4. The default batch is 10
      frames (one clip); the published script has 40.

    Values under different protocols are not comparable. Give an empty mask for an answer without a mask.
    Without frames, the values are NaN.

    The caller decides what a batch is. With ``clips``, a batch is a clip, and the order and the number of
    updates and processes have no effect. Without ``clips``, give all frames of a batch in one update. The
    frames of an update are cut into batches in order; the last batch may be smaller and has the same weight.

    Source: see ``PROTOCOLS``.

    Args:
        protocol: ``crabplus``, ``avsbench``, ``framewise`` or ``refavs``.
        frames_per_batch: Number of frames in a batch; 0 makes each update one batch. When left out, it is
            that of the protocol.

    Raises:
        ValueError: If there is no such protocol, or ``frames_per_batch`` does not fit the protocol.
    """

    scales: ClassVar[Mapping[str, Scale]] = {"frames_per_batch": COUNT}
    width = 4 + LEVELS  # key, frames, J, frames whose truth is not empty, F at each threshold
    sums = ("j_units", "f_units", "batches", "frames")
    j_units: Tensor
    f_units: Tensor
    batches: Tensor
    frames: Tensor

    def update(self, pred: Tensor, target: Tensor, clips: Sequence[str] | None = None) -> None:
        """Add F frames.

        Args:
            pred: bool masks ``(F, H, W)``; all protocols but ``crabplus`` also take logits.
            target: bool ``(F, H, W)``.
            clips: Name of the clip of each frame; in protocols with batches the frames of a clip are a batch.

        Raises:
            ValueError: If a shape or type is another one, a logit is NaN, or the number of clips is not F.
        """
        self._check(pred, clips)
        if target.dtype != torch.bool or target.shape != pred.shape:
            raise ValueError(
                f"target is {target.dtype} {tuple(target.shape)}; it must be bool and {tuple(pred.shape)}"
            )
        self.frames += pred.shape[0]
        # The official code computes in float32, for logits of any type.
        pred = pred if pred.dtype == torch.bool else torch.sigmoid(pred.float())
        if self.protocol.binary:
            jaccard, f_score = binary_scores(pred, target)
        elif self.protocol.frames_per_batch == 1:
            jaccard = self._jaccard(pred, target)
            f_score = f_curves(pred, target).amax(dim=1) * target.flatten(1).any(dim=1)
        elif clips is not None:
            seen = target.flatten(1).any(dim=1)
            curves = to_units(f_curves(pred, target) * seen[:, None])
            self._add_rows(
                clips, [torch.ones_like(seen), to_units(self._jaccard(pred, target)), seen, curves]
            )
            return
        else:
            jaccard, f_score = self._batch_scores(pred, target)
        self.j_units += to_units(jaccard).sum()
        self.f_units += to_units(f_score).sum()
        self.batches += jaccard.numel()

    def _jaccard(self, pred: Tensor, target: Tensor) -> Tensor:
        return background_jaccard(
            pred if pred.dtype == torch.bool else pred > self.protocol.threshold, target
        )

    def _batch_scores(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        sizes = batch_sizes(pred.shape[0], self.protocol)
        jaccard = [part.mean() for part in torch.split(self._jaccard(pred, target), sizes)]
        f_scores = []
        for curves, truth in zip(
            torch.split(f_curves(pred, target), sizes), torch.split(target, sizes), strict=True
        ):
            kept = curves[truth.flatten(1).any(dim=1)]
            f_scores.append(kept.mean(dim=0).max() if len(kept) else curves.new_zeros(()))
        none = torch.zeros(0, dtype=torch.float64, device=pred.device)
        return (torch.stack(jaccard), torch.stack(f_scores)) if sizes else (none, none)

    def compute(self) -> dict[str, Tensor]:
        """Return ``j`` and ``f``, and for protocols with batches ``frames_per_batch``."""
        rows = self._rows()
        frames, jaccard, seen, curves = rows[:, 1], rows[:, 2], rows[:, 3], rows[:, 4:]
        # Frames with an empty truth are left out of F; a clip with only such frames has F 0.
        best = mean_of(curves, seen.clamp(min=1)[:, None]).amax(dim=1)
        j_units = self.j_units + to_units(mean_of(jaccard, frames)).sum()
        f_units = self.f_units + to_units(best).sum()
        batches = self.batches + len(rows)
        scores = {"j": mean_of(j_units, batches), "f": mean_of(f_units, batches)}
        if self.has_batches:
            scores["frames_per_batch"] = self.frames.to(torch.float64) / batches
        return scores


class NullMaskS(MaskMetric):
    """S of frames in which nothing is to be segmented (Ref-AVS null set); 0 is best, lower is better.

    Keys: ``s``; for ``crabplus`` also ``s_infinite``; for ``refavs`` also ``frames_per_batch``, the mean
    number of frames in the batches.

    - ``crabplus``: square root of the number of predicted pixels of a frame divided by the number of other
      pixels. S of a full mask is infinite: the frame is left out of the mean and counted in ``s_infinite``.
      If S of all frames is infinite, ``s`` is 0.
    - ``framewise``: square root of the fraction of predicted pixels of a frame, in [0, 1].
    - ``refavs``: the same over all pixels of a batch; it depends on the batch size (10 frames by default).

    An answer without a mask scores 0, because it counts as an empty mask; so also look at the number of
    unreadable answers. Without frames, the values are NaN. With ``clips``, a batch is a clip, as in
    :class:`MaskJF`.

    Source: ``calculate_s_metric`` in GeWu-Lab/Crab_Plus seg/scripts/inference_ref_3.py, ``metric_s_for_null``
    in GeWu-Lab/Crab utils/avss_utils.py and GeWu-Lab/Ref-AVS utils/metric/utility.py.

    Args:
        protocol: ``crabplus``, ``framewise`` or ``refavs``.
        frames_per_batch: Number of frames in a batch; 0 makes each update one batch. When left out, it is
            that of the protocol.

    Raises:
        ValueError: If there is no such protocol, it does not define S, or ``frames_per_batch`` does not fit.
    """

    higher_is_better = False
    # Under crabplus there is no largest value.
    scales: ClassVar[Mapping[str, Scale]] = {
        "s": Scale(higher_is_better=False, high=None),
        "s_infinite": COUNT,
        "frames_per_batch": COUNT,
    }
    width = 4  # key, frames, predicted pixels, all pixels
    sums = ("s_units", "scored", "infinite", "frames")
    s_units: Tensor
    scored: Tensor
    infinite: Tensor
    frames: Tensor

    def __init__(self, protocol: str = "crabplus", frames_per_batch: int | None = None) -> None:
        super().__init__(protocol, frames_per_batch)
        if protocol == "avsbench":
            raise ValueError("the protocol 'avsbench' does not define S; use crabplus, framewise or refavs")

    def update(self, pred: Tensor, clips: Sequence[str] | None = None) -> None:
        """Add F frames.

        Args:
            pred: bool masks ``(F, H, W)``; all protocols but ``crabplus`` also take logits (a pixel is
                predicted if its probability is above 0.5).
            clips: Name of the clip of each frame; in protocols with batches the frames of a clip are a batch.

        Raises:
            ValueError: If the shape or type is another one, a logit is NaN, or the number of clips is not F.
        """
        self._check(pred, clips)
        mask = pred if pred.dtype == torch.bool else torch.sigmoid(pred.float()) > 0.5
        positive, area = pixels(mask), float(pred.shape[1] * pred.shape[2])
        if clips is not None and self.has_batches:
            self._add_rows(clips, [torch.ones_like(positive), positive, torch.full_like(positive, area)])
            self.frames += pred.shape[0]
            return
        sizes = batch_sizes(pred.shape[0], self.protocol)
        pooled = [part.sum() / (area * len(part)) for part in torch.split(positive, sizes)] if sizes else []
        share = torch.stack(pooled) if pooled else positive
        if self.protocol.binary:
            finite = positive < area
            share = positive[finite] / (area - positive[finite])
            self.infinite += (~finite).sum()
        self.s_units += to_units(share.sqrt()).sum()
        self.scored += share.numel()
        self.frames += pred.shape[0]

    def compute(self) -> dict[str, Tensor]:
        """Return ``s``, and ``s_infinite`` or ``frames_per_batch`` for protocols that have it."""
        if self.protocol.binary:
            nothing_finite = (self.scored == 0) & (self.frames > 0)
            scores = {"s": torch.where(nothing_finite, 0.0, mean_of(self.s_units, self.scored))}
            return {**scores, "s_infinite": self.infinite}
        rows = self._rows()
        pooled = rows[:, 2].to(torch.float64) / rows[:, 3]
        scored = self.scored + len(rows)
        scores = {"s": mean_of(self.s_units + to_units(pooled.sqrt()).sum(), scored)}
        if self.has_batches:
            scores["frames_per_batch"] = self.frames.to(torch.float64) / scored
        return scores


RIGHT_J = 0.5
"""A mask is right if its J with the true mask is at least this value."""
_LESS = Scale(higher_is_better=False)


class RightPrompts(BenchmarkMetric):
    """Fractions of answers whose mask is right, for each of three kinds of prompts; in [0, 1].

    A mask is right if its J with the true mask is at least 0.5; J of two empty masks is 1.

    Keys: ``right_from_points`` (box and points), ``right_from_name`` and ``right_from_both``;
    ``only_points_right``, ``only_name_right`` and ``only_both_right``, if the other two masks are wrong;
    ``none_right``; and ``unnamed``, the fraction of answers that name no object. Without answers, the values
    are NaN.

    Source: this package, to compare the prompts of one answer.
    """

    scales: ClassVar[Mapping[str, Scale]] = {"none_right": _LESS, "unnamed": _LESS}
    patterns: Tensor
    unnamed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("patterns", 8)  # the index has one bit for each of the three masks, set if it is right
        self.add_sum("unnamed")

    def update(self, points: Tensor, name: Tensor, both: Tensor, target: Tensor, named: bool) -> None:
        """Add one answer.

        Args:
            points: Mask of box and points, bool ``(H, W)``.
            name: Mask of the name, bool ``(H, W)``.
            both: Mask of both, bool ``(H, W)``.
            target: True mask, bool ``(H, W)``.
            named: Whether the answer names an object.
        """
        jaccard, _ = binary_scores(torch.stack([points, name, both]), target.expand(3, *target.shape))
        right = (jaccard >= RIGHT_J).long()
        self.patterns[int((right * right.new_tensor([1, 2, 4])).sum())] += 1
        self.unnamed += int(not named)

    def compute(self) -> dict[str, Tensor]:
        """Return the fractions."""
        counts = self.patterns.to(torch.float64)
        total = counts.sum()
        shares = {}
        for bit, kind in enumerate(("points", "name", "both")):
            with_it = [pattern for pattern in range(8) if pattern >> bit & 1]
            shares[f"right_from_{kind}"] = counts[with_it].sum() / total
        for bit, kind in enumerate(("points", "name", "both")):
            shares[f"only_{kind}_right"] = counts[1 << bit] / total
        return {**shares, "none_right": counts[0] / total, "unnamed": self.unnamed / total}
