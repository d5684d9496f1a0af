"""Gradient conflict compared with the measured gain, and transfer between pairs of datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crab_lightning.dashboards.gradient_conflict import FOLDER, Conflict
from crab_lightning.studies.runner import FinishedCells
from crab_lightning.studies.transfer import ArmTransfer, DatasetTransfer, Resampling, compared_runs

PARTS = ("A", "B", "router")


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of two quantities, such as gradient agreement and gain.

    Args:
        rho: The correlation; ``None`` with fewer than four points, or if all values of a quantity are equal.
        p: The p value of the correlation, from permutations of the points; ``None`` like ``rho``.
        points: Number of points at which both quantities are finite.
    """

    rho: float | None
    p: float | None
    points: int


@dataclass(frozen=True)
class ArmConflict:
    """The gradient conflict of one arm: means over its seeds.

    Args:
        arm: Key of the arm.
        step: Optimizer step after which the conflict was measured.
        datasets: Keys of the D datasets.
        maps: For each part, the mean cosines ``(D, D)`` over the measured layers. The parts are ``A``, ``B``
            (all heads) and ``router``.
        depths: For each layer number, the mean cosines ``(D, D)`` over all parts of the layer.
        agreement: For each dataset, the mean cosine with the other datasets, over all parts.
        by_score: Correlation of the agreement with the gain of the score, over the datasets.
        by_loss: Correlation of the agreement with the gain of the validation loss, over the datasets.
    """

    arm: str
    step: int
    datasets: tuple[str, ...]
    maps: Mapping[str, NDArray[np.float64]]
    depths: Mapping[int, NDArray[np.float64]]
    agreement: Mapping[str, float]
    by_score: Correlation
    by_loss: Correlation


@dataclass(frozen=True)
class PairTransfer:
    """The gain of one dataset from training together with one other dataset.

    Args:
        arm: Key of the arm.
        partner: Key of the other dataset.
        tested: The tested dataset: the run with the partner compared with the run on the dataset alone.
        cosine: Mean cosine of the gradients of the two datasets in the joint runs; ``None`` if it was not
            measured.
    """

    arm: str
    partner: str
    tested: DatasetTransfer
    cosine: float | None


def correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Return Spearman's correlation and its p value from 10,000 permutations.

    Args:
        x: Values of the first quantity. Points at which a value is not finite are left out.
        y: Values of the second quantity, as many as of the first.

    Raises:
        ValueError: If the numbers of values differ.
    """
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if np.isfinite(a) and np.isfinite(b)]
    if len(pairs) < 4 or len({a for a, _ in pairs}) == 1 or len({b for _, b in pairs}) == 1:
        return Correlation(None, None, len(pairs))
    from scipy.stats import rankdata

    first, second = (rankdata([pair[i] for pair in pairs]) for i in (0, 1))
    first, second = ((r - r.mean()) / r.std() for r in (first, second))
    rho = float((first * second).mean())
    rng = np.random.default_rng(0)
    drawn = rng.permuted(np.tile(second, (10_000, 1)), axis=1) @ first / len(pairs)
    p = (1 + int((np.abs(drawn) >= abs(rho) - 1e-12).sum())) / 10_001
    return Correlation(rho, p, len(pairs))


def arm_conflicts(finished: FinishedCells, arms: Sequence[ArmTransfer]) -> list[ArmConflict]:
    """Return the gradient conflict of every arm whose joint runs measured it.

    Args:
        finished: The finished cells.
        arms: The measured gains of the arms.
    """
    gains = {arm.arm: arm for arm in arms}
    found = []
    for arm in finished.study.arms:
        held = _last(finished, arm, finished.study.compare[1])
        if not held:
            continue
        first = held[0]
        maps = {part: _mean([c.mean(part) for c in held]) for part in PARTS}
        depths = {
            int(depth): _mean([c.mean(depths=[int(depth)]) for c in held])
            for depth in sorted(set(first.depths))
        }
        agreement = _agreement(first.datasets, _mean([c.mean() for c in held]))
        rows = gains[arm].rows if arm in gains else ()
        points = [agreement.get(row.dataset, np.nan) for row in rows]
        losses = [np.nan if row.loss is None else row.loss.gain.value for row in rows]
        found.append(
            ArmConflict(
                arm,
                first.step,
                first.datasets,
                {part: table for part, table in maps.items() if np.isfinite(table).any()},
                depths,
                agreement,
                correlation(points, [row.score.gain.value for row in rows]),
                correlation(points, losses),
            )
        )
    return found


def pair_transfers(finished: FinishedCells, resampling: Resampling) -> list[PairTransfer]:
    """Return the gain of every dataset from every partner, in the regimes whose cells train on two datasets.

    Args:
        finished: The finished cells.
        resampling: The resamples of seeds and questions.
    """
    study = finished.study
    found = []
    for regime, groups in study.regimes.items():
        if regime in study.compare or any(len(group) != 2 for group in groups):
            continue
        for arm in study.arms:
            for group in groups:
                cosines = [
                    float(c.mean()[0, 1])
                    for cell in finished.cells(arm, regime, group)
                    if (c := _last_file(cell.folder)) is not None
                ]
                for dataset, partner in (group, group[::-1]):
                    runs = {
                        cell.seed: (single, finished.runs[cell.name])
                        for cell in finished.cells(arm, regime, group)
                        if (single := finished.of(study.compare[0], arm, dataset, cell.seed)) is not None
                    }
                    if (made := compared_runs(dataset, runs, resampling)) is not None:
                        cosine = float(np.mean(cosines)) if cosines else None
                        found.append(PairTransfer(arm, partner, made, cosine))
    return found


def _last(finished: FinishedCells, arm: str, regime: str) -> list[Conflict]:
    """Return the last measurement of every finished run of an arm and regime; empty for several groups."""
    groups = finished.study.regimes.get(regime, ())
    if len(groups) != 1:
        return []
    files = [_last_file(cell.folder) for cell in finished.cells(arm, regime, groups[0])]
    found = [one for one in files if one is not None]
    # A seed that was measured in other layers cannot be part of the mean.
    shapes = [(c.datasets, c.names, c.parts) for c in found]
    return [c for c, shape in zip(found, shapes, strict=True) if shape == shapes[0]]


def _last_file(folder: Any) -> Conflict | None:
    files = sorted((folder / FOLDER).glob("step-*.npz"))
    return Conflict.load(files[-1]) if files else None


def _mean(tables: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    table: NDArray[np.float64] = np.mean(np.stack(tables), axis=0)
    return table


def _agreement(datasets: Sequence[str], table: NDArray[np.float64]) -> dict[str, float]:
    apart = ~np.eye(len(datasets), dtype=bool)
    return {name: float(np.nanmean(table[i][apart[i]])) for i, name in enumerate(datasets)}
