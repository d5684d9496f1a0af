"""Segmentation: J, F and S of masks under the protocols in use (S4, MS3, Ref-AVS)."""

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
    """Keeps a row of whole numbers for each clip, to which its frames add, on whichever process they are.

    A clip's frames may reach several processes, or one process before and after it was killed, so a batch
    that is a clip is settled when all rows are together.
    """

    width: int
    """Numbers of a row, the clip's key at first."""
    sums: ClassVar[tuple[str, ...]]
    """Names of the sums over frames or batches that need no clip."""

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
            raise ValueError(f"{len(clips)} clips are named for {len(pred)} frames; name one for each frame")

    def _add_rows(self, clips: Sequence[str], numbers: Sequence[Tensor]) -> None:
        """Add the numbers of F frames: each ``(F,)`` or ``(F, N)``."""
        keys = torch.tensor([_clip_key(clip) for clip in clips], device=numbers[0].device)
        columns = [n.to(torch.int64).reshape(len(clips), -1) for n in (keys, *numbers)]
        self.append("clips", torch.cat(columns, dim=1).flatten())
        state: list[Tensor] = self.clips  # type: ignore[has-type]
        if len(state) > _LOOSE_ROWS:  # a clip's frames become one row: memory grows with clips, not frames
            self.clips = [self._rows().flatten()]

    def _rows(self) -> Tensor:
        """Return one row a clip, int64 ``(clips, width)``, in the order of keys."""
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

    Keys: ``j``, ``f``, and for protocols with batches ``frames_per_batch``, the mean that was met.

    - ``crabplus`` (the default of this framework): binary masks, frame by frame. Both masks empty scores 1
      and 1; one empty 0 and 0.
    - ``avsbench``: probability above 0.5 for J; a frame with empty truth scores its share of background. F is
      the best of 255 thresholds on the mean curve of a batch, frames with empty truth left out; 0 when all
      are. Mean over batches, so F depends on the batch size (5 frames, one video, by default; the published
      script has 20).
    - ``framewise``: as ``avsbench``, each frame its own batch; a frame with empty truth adds 0 to F.
    - ``refavs``: as ``avsbench``, but J takes probabilities above 0.4. Batches of 10 frames (one clip) by
      default; the published runner has 40.

    Values under different protocols are not comparable. An answer without a mask is given as an empty one. No
    frames: NaN. What is a batch depends on the caller. With ``clips`` each clip is one, whatever the order,
    the number of updates and of processes that its frames come in. Without, hand over all frames of a batch
    in one update; several batches are cut off in order, the last may be short and weighs as much.

    Source: see ``PROTOCOLS``.

    Args:
        protocol: ``crabplus``, ``avsbench``, ``framewise`` or ``refavs``.
        frames_per_batch: Frames in a batch; 0 makes each update one batch. Left out: the protocol's own.

    Raises:
        ValueError: If there is no such protocol, or it has no batches to choose.
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
            clips: The clip of each frame; its frames are one batch, under protocols that have batches.

        Raises:
            ValueError: If shapes or types are others.
        """
        self._check(pred, clips)
        if target.dtype != torch.bool or target.shape != pred.shape:
            raise ValueError(
                f"target is {target.dtype} {tuple(target.shape)}; it must be bool and {tuple(pred.shape)}"
            )
        self.frames += pred.shape[0]
        # In float32 as the official codes, whatever the logits come in.
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
        """Return ``j`` and ``f``, and where the protocol has batches ``frames_per_batch``."""
        rows = self._rows()
        frames, jaccard, seen, curves = rows[:, 1], rows[:, 2], rows[:, 3], rows[:, 4:]
        # Frames whose truth is empty are left out of F; a clip of such frames alone counts as 0.
        best = mean_of(curves, seen.clamp(min=1)[:, None]).amax(dim=1)
        j_units = self.j_units + to_units(mean_of(jaccard, frames)).sum()
        f_units = self.f_units + to_units(best).sum()
        batches = self.batches + len(rows)
        scores = {"j": mean_of(j_units, batches), "f": mean_of(f_units, batches)}
        if self.has_batches:
            scores["frames_per_batch"] = self.frames.to(torch.float64) / batches
        return scores


class NullMaskS(MaskMetric):
    """S on frames where nothing is to be segmented (Ref-AVS null set); 0 is best, lower is better.

    Keys: ``s``; for ``crabplus`` also ``s_infinite``, for ``refavs`` also ``frames_per_batch`` as it was met.

    - ``crabplus``: square root of predicted over unpredicted pixels of a frame. A full mask is infinite: it
      is left out of the mean and counted in ``s_infinite``. Frames seen but none finite: 0.
    - ``framewise``: square root of predicted over all pixels of a frame, in [0, 1].
    - ``refavs``: the same with the pixels of a batch pooled; depends on the batch size (10 frames by
      default).

    An answer without a mask scores 0 as an empty mask, so read S beside the count of unread answers. No
    frames: NaN. With ``clips`` each clip is a batch, as in :class:`MaskJF`.

    Source: ``calculate_s_metric`` in GeWu-Lab/Crab_Plus seg/scripts/inference_ref_3.py, ``metric_s_for_null``
    in GeWu-Lab/Crab utils/avss_utils.py and GeWu-Lab/Ref-AVS utils/metric/utility.py.

    Args:
        protocol: ``crabplus``, ``framewise`` or ``refavs``.
        frames_per_batch: Frames in a batch; 0 makes each update one batch. Left out: the protocol's own.

    Raises:
        ValueError: If the protocol has no S, or no batches to choose.
    """

    higher_is_better = False
    # The square root of a share of the frame, or of its rest, which has no upper end.
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
            raise ValueError("protocol 'avsbench' defines no S; use crabplus, framewise or refavs")

    def update(self, pred: Tensor, clips: Sequence[str] | None = None) -> None:
        """Add F frames.

        Args:
            pred: bool masks ``(F, H, W)``; all protocols but ``crabplus`` also take logits (a pixel is set
                where its probability is above 0.5).
            clips: The clip of each frame; its frames are one batch, under protocols that have batches.

        Raises:
            ValueError: If shape or type is another.
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
        """Return ``s`` and the counts that belong to it."""
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
"""A mask is right whose J with the true one is at least this."""
_LESS = Scale(higher_is_better=False)


class RightPrompts(BenchmarkMetric):
    """Fractions of answers whose mask is right, by what it was made of; in [0, 1].

    Right is a mask whose J with the true mask is at least 0.5 (both empty: 1).

    Keys: ``right_from_points`` (box and points), ``right_from_name``, ``right_from_both``;
    ``only_points_right``, ``only_name_right``, ``only_both_right``, where the other two are wrong;
    ``none_right``; and ``unnamed``, the fraction of answers that name nothing. No answers: NaN.

    Source: none; it is made here to compare prompts of one answer.
    """

    scales: ClassVar[Mapping[str, Scale]] = {"none_right": _LESS, "unnamed": _LESS}
    patterns: Tensor
    unnamed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("patterns", 8)  # answers by which of the three masks are right, as the bits of a number
        self.add_sum("unnamed")

    def update(self, points: Tensor, name: Tensor, both: Tensor, target: Tensor, named: bool) -> None:
        """Add one answer.

        Args:
            points: Mask of box and points, bool ``(H, W)``.
            name: Mask of the name, bool ``(H, W)``.
            both: Mask of both, bool ``(H, W)``.
            target: True mask, bool ``(H, W)``.
            named: Whether the answer names anything.
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
