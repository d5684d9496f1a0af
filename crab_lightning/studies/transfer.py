"""Measure whether training tasks together helps or harms: gains, their shares, and their certainty.

A gain is the score of the joint run minus the score of the run on the dataset alone, with the sign changed if
lower values are better. The gain share is the fraction of datasets whose gain is above zero. The harmed share
is the fraction of datasets whose gain is below zero. The net score is the gain share minus the harmed share
(Figure 6 of arXiv:2603.04128). Ties count for neither share.

Intervals come from a bootstrap on two levels: seeds are drawn with replacement, and so are questions. The
same questions are drawn for both runs, all seeds and all arms, because all of them were asked the same
questions. In each resample, the metrics are computed again from the answers, and then the gains and the
shares.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from crab_lightning.evaluation.sample_losses import read_sample_losses
from crab_lightning.metrics.scale import Scale
from crab_lightning.reports.runs import FinishedRun
from crab_lightning.studies.significance import TIE, Draws, holm, p_value, sign_test
from crab_lightning.studies.statistics import (
    Headline,
    Statistic,
    drawn_counts,
    headline_of,
    loss_of,
)

LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Args:
        value: The number.
        low: Lower end of the 95 % interval; ``None`` if there is no interval.
        high: Upper end of the interval.
        p: Two-sided p value of the hypothesis that the number is zero, from the bootstrap.
        p_holm: The p value after Holm's correction over the datasets of the arm.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def certain(self) -> bool:
        """Whether the number differs from zero after Holm's correction."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True)
class Comparison:
    """A quantity of one dataset under two regimes.

    Args:
        before: Mean over the seeds under the baseline.
        after: Mean over the seeds under the other regime.
        gain: The gain; a value above zero is better, also for a quantity of which lower values are better.
        questions: Number of questions or samples that are resampled; 0 without an interval.
        seeds: Seeds with results under both regimes.
        note: A note for the reader, such as the reason why there is no interval; may be empty.
        drawn: The gain in each of R resamples ``(R,)``; ``None`` without an interval.
    """

    before: float
    after: float
    gain: Estimate
    questions: int
    seeds: tuple[int, ...]
    note: str = ""
    drawn: Draws | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class DatasetTransfer:
    """The comparison of two regimes on one dataset.

    Args:
        dataset: Key of the dataset.
        task: Key of the task of the dataset.
        metric: Name of the primary metric.
        scale: Direction of the metric, and how it is printed.
        score: The primary metric under both regimes.
        loss: The validation loss per target token under both regimes, in nats; ``None`` if no seed has losses
            of both runs.
    """

    dataset: str
    task: str
    metric: str
    scale: Scale
    score: Comparison
    loss: Comparison | None


@dataclass(frozen=True)
class Shares:
    """The fractions of datasets that gain and that are harmed.

    Args:
        gain: Fraction of the datasets that gain.
        harmed: Fraction of the datasets that are harmed.
        net: ``gain`` minus ``harmed``.
        certain_gain: Fraction of the datasets whose gain is certain.
        certain_harmed: Fraction of the datasets whose harm is certain.
        certain_net: ``certain_gain`` minus ``certain_harmed``.
        sign_p: p value of the exact sign test over the datasets without the ties.
        ties: Datasets that neither gain nor are harmed.
        datasets: Number of datasets.
    """

    gain: Estimate
    harmed: Estimate
    net: Estimate
    certain_gain: float
    certain_harmed: float
    certain_net: float
    sign_p: float
    ties: tuple[str, ...]
    datasets: int


@dataclass(frozen=True)
class ArmTransfer:
    """The comparison of two regimes in one arm.

    Args:
        arm: Key of the arm.
        rows: The comparisons of the datasets.
        shares: Shares by the primary metric.
        loss_shares: Shares by the validation loss; ``None`` without losses.
        missing: Datasets that do not have results under both regimes, because a cell is not finished or its
            test has no value of the primary metric.
    """

    arm: str
    rows: tuple[DatasetTransfer, ...]
    shares: Shares
    loss_shares: Shares | None
    missing: tuple[str, ...] = ()


RunOf = Callable[[str, str, int], FinishedRun | None]
"""A function that returns the finished run for an arm, a dataset and a seed; ``None`` if there is none."""


@dataclass
class Resampling:
    """Resamples of seeds and of questions that all comparisons share.

    Args:
        resamples: Number of resamples.
        seed: Seed of the random draws.
    """

    resamples: int = 2000
    seed: int = 0
    _counts: dict[tuple[str, ...], Draws] = field(default_factory=dict, repr=False)

    def questions(self, ids: tuple[str, ...]) -> Draws:
        """Return how often each of N questions is drawn in each of R resamples, ``(R, N)``.

        The same questions always get the same counts.
        """
        if ids not in self._counts:
            self._counts.clear()  # keep only one dataset, since the counts may be large
            rng = np.random.default_rng([self.seed, zlib.crc32("\n".join(ids).encode())])
            self._counts[ids] = drawn_counts(len(ids), self.resamples, rng)
        return self._counts[ids]

    def seeds(self, seeds: Sequence[int]) -> Draws:
        """Return the weight of each seed in each resample, ``(R, seeds)``; the weights of a row sum to 1."""
        rng = np.random.default_rng([self.seed, *sorted(seeds)])
        return drawn_counts(len(seeds), self.resamples, rng) / len(seeds)


def compared(
    before: Mapping[int, tuple[float, Statistic | None]],
    after: Mapping[int, tuple[float, Statistic | None]],
    higher_is_better: bool,
    resampling: Resampling,
    note: str = "",
) -> Comparison:
    """Compare two regimes on one dataset.

    Args:
        before: For each seed, the value and the statistic of the baseline.
        after: For each seed, the value and the statistic of the other regime.
        higher_is_better: Whether higher values of the quantity are better.
        resampling: The resamples of seeds and questions.
        note: The reason why there is no statistic, if there is none.

    Returns:
        The comparison over the seeds of both regimes. Its gain has an interval if every statistic is known
        and the runs have questions in common.
    """
    seeds = tuple(sorted(before.keys() & after.keys()))
    sign = 1.0 if higher_is_better else -1.0
    statistics = [(before[s][1], after[s][1]) for s in seeds]
    pairs = [(a, b) for a, b in statistics if a is not None and b is not None]
    means = [float(np.mean([side[s][0] for s in seeds])) for side in (before, after)]

    def gained() -> float:
        value = sign * (means[1] - means[0])
        return 0.0 if abs(value) <= TIE else value  # the rounding of a mean is not a gain

    if len(pairs) < len(seeds):
        return Comparison(means[0], means[1], Estimate(gained()), 0, seeds, note or "no interval")
    ids = tuple(sorted(set.intersection(*(set(s.ids) for pair in pairs for s in pair))))
    known = {s.ids for pair in pairs for s in pair}
    if not ids:
        note = "no question is common to the runs"
        return Comparison(means[0], means[1], Estimate(gained()), 0, seeds, note)
    if any(set(own) != set(ids) for own in known):
        note = f"these numbers come from the {len(ids)} questions that all runs answered"
        values = [(a.of(ids).value(), b.of(ids).value()) for a, b in pairs]
        means = [float(np.mean([pair[i] for pair in values])) for i in (0, 1)]
    counts = resampling.questions(ids)
    weights = resampling.seeds(seeds)
    gains = np.stack([b.of(ids).at(counts) - a.of(ids).at(counts) for a, b in pairs], axis=1)
    drawn: Draws = sign * (gains * weights).sum(1)
    drawn = np.where(np.abs(drawn) < TIE, 0.0, drawn)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    gain = Estimate(gained(), float(low), float(high), p_value(drawn, len(ids)))
    return Comparison(means[0], means[1], gain, len(ids), seeds, note, drawn)


def _corrected(found: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Return the comparisons of several datasets with their p values corrected together by Holm's method."""
    known = {name: one.gain.p for name, one in found.items() if one.gain.p is not None}
    corrected = dict(zip(known, holm(list(known.values())), strict=True))
    return {n: replace(one, gain=replace(one.gain, p_holm=corrected.get(n))) for n, one in found.items()}


def shares_of(found: Mapping[str, Comparison]) -> Shares:
    """Return the fractions of datasets that gain and that are harmed.

    Args:
        found: The comparisons of the datasets, with corrected p values. A comparison without an interval has
            the same gain in all resamples.
    """
    gains = [one.gain.value for one in found.values()]
    drawn = [one.drawn for one in found.values()]
    up, down = (np.array([s * g > TIE for g in gains]) for s in (1, -1))
    size = next((len(d) for d in drawn if d is not None), 1)
    columns = [np.full(size, g) if d is None else d for g, d in zip(gains, drawn, strict=True)]
    table = np.stack(columns, axis=1) if columns else np.zeros((size, 0))
    ups, downs = (table > TIE).mean(1), (table < -TIE).mean(1)

    def share(value: float, draws: Draws) -> Estimate:
        low, high = np.percentile(draws, [2.5, 97.5])
        return Estimate(value, float(low), float(high))

    sure = [one.gain.certain for one in found.values()]
    certain_gain, certain_harmed = (float(np.mean(side & np.array(sure))) for side in (up, down))
    return Shares(
        gain=share(float(up.mean()), ups),
        harmed=share(float(down.mean()), downs),
        net=share(float(up.mean() - down.mean()), ups - downs),
        certain_gain=certain_gain,
        certain_harmed=certain_harmed,
        certain_net=certain_gain - certain_harmed,
        sign_p=sign_test(gains),
        ties=tuple(name for name, one in found.items() if abs(one.gain.value) <= TIE),
        datasets=len(gains),
    )


def arm_transfer(
    arm: str,
    datasets: Sequence[str],
    seeds: Sequence[int],
    before: RunOf,
    after: RunOf,
    resampling: Resampling,
) -> ArmTransfer | None:
    """Compare two regimes in one arm, dataset by dataset.

    Args:
        arm: Key of the arm.
        datasets: The datasets.
        seeds: The seeds.
        before: Function that finds the runs of the baseline.
        after: Function that finds the runs of the other regime.
        resampling: The resamples of seeds and questions.

    Returns:
        ``None`` if no dataset has results under both regimes.
    """
    rows: list[DatasetTransfer] = []
    for dataset in datasets:
        runs: dict[int, tuple[FinishedRun, FinishedRun]] = {}
        for seed in seeds:
            first, second = before(arm, dataset, seed), after(arm, dataset, seed)
            if first is not None and second is not None:
                runs[seed] = first, second
        if (made := compared_runs(dataset, runs, resampling)) is not None:
            rows.append(made)
    if not rows:
        return None
    scores = _corrected({row.dataset: row.score for row in rows})
    losses = _corrected({row.dataset: row.loss for row in rows if row.loss is not None})
    missing = tuple(name for name in datasets if name not in scores)
    corrected = (replace(r, score=scores[r.dataset], loss=losses.get(r.dataset)) for r in rows)
    return ArmTransfer(
        arm, tuple(corrected), shares_of(scores), shares_of(losses) if losses else None, missing
    )


def compared_runs(
    dataset: str, runs: Mapping[int, tuple[FinishedRun, FinishedRun]], resampling: Resampling
) -> DatasetTransfer | None:
    """Compare pairs of runs on one dataset, without a correction of the p values.

    Args:
        dataset: Key of the dataset.
        runs: For each seed, the run of the baseline and the run of the other regime.
        resampling: The resamples of seeds and questions.

    Returns:
        ``None`` if no pair of runs has values of the primary metric on the dataset.
    """
    heads: dict[int, tuple[Headline, Headline]] = {}
    for seed, (first, second) in runs.items():
        a, b = headline_of(first, dataset), headline_of(second, dataset)
        if a is not None and b is not None:
            heads[seed] = a, b
    if not heads:
        return None
    some = next(iter(heads.values()))[0]
    sides = [{s: (pair[i].value, pair[i].statistic) for s, pair in heads.items()} for i in (0, 1)]
    note = next((h.note for pair in heads.values() for h in pair if h.note), "")
    score = compared(sides[0], sides[1], some.scale.higher_is_better, resampling, note)
    loss = _loss_compared(dataset, runs, resampling)
    return DatasetTransfer(dataset, some.task, some.metric, some.scale, score, loss)


def _loss_compared(
    dataset: str, runs: Mapping[int, tuple[FinishedRun, FinishedRun]], resampling: Resampling
) -> Comparison | None:
    sides: tuple[dict[int, tuple[float, Statistic | None]], ...] = ({}, {})
    for seed, pair in runs.items():
        for side, run in zip(sides, pair, strict=True):
            found = loss_of(read_sample_losses(run.folder).get(dataset, {}))
            if found is not None and math.isfinite(found.value()):
                side[seed] = found.value(), found
    if not sides[0].keys() & sides[1].keys():
        return None
    return compared(sides[0], sides[1], False, resampling)
