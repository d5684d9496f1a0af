"""Whether training tasks together helps or hurts: gains, their fractions, and how certain they are.

A gain is the score of the joint run minus that of the run on the dataset alone, with the sign changed where
lower is better. The gain share is the fraction of datasets whose gain is above zero, the harmed share is that
of those below, and the net score is their difference (Figure 6 of arXiv:2603.04128); ties count for neither.

Intervals come from a bootstrap on two levels: seeds are drawn with replacement, and questions are, the
same ones for both runs, all seeds and all arms, since they were asked the same questions. Everything is
computed anew in each resample: the metrics from the answers, the gains, their shares.
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
from crab_lightning.studies.statistics import (
    TIE,
    Draws,
    Headline,
    Statistic,
    drawn_counts,
    headline_of,
    holm,
    loss_of,
    p_value,
    sign_test,
)

LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Args:
        value: The number.
        low: Lower end of the 95 % interval; ``None`` where there is no interval.
        high: Upper end.
        p: Two-sided p value of its being zero, from the bootstrap.
        p_holm: The same, corrected by Holm over the datasets of the arm.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def certain(self) -> bool:
        """Whether it differs from zero after Holm's correction."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True)
class Comparison:
    """A quantity of one dataset under two regimes.

    Args:
        before: Mean over seeds under the baseline.
        after: Mean over seeds under the other regime.
        gain: What is gained; above zero is better whatever the direction of the quantity.
        questions: Number of questions or samples.
        seeds: Seeds that both have results of.
        note: What the reader has to know; empty when there is nothing.
        drawn: The gain in each resample ``(R,)``; ``None`` without statistics.
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
    """Transfer to one dataset.

    Args:
        dataset: Key of the dataset.
        task: Key of its task.
        metric: Name of its headline metric.
        scale: How the metric is printed, and its direction.
        score: The metric.
        loss: The validation loss per target token, in nats; ``None`` where a run wrote none.
    """

    dataset: str
    task: str
    metric: str
    scale: Scale
    score: Comparison
    loss: Comparison | None


@dataclass(frozen=True)
class Shares:
    """How many datasets gain and how many are harmed.

    Args:
        gain: Fraction of datasets that gain.
        harmed: Fraction that is harmed.
        net: Their difference.
        certain_gain: Fraction whose gain is certain.
        certain_harmed: Fraction whose harm is certain.
        certain_net: Their difference.
        sign_p: p value of the exact sign test over the datasets, ties left out.
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
    """Transfer in one arm.

    Args:
        arm: Key of the arm.
        rows: The datasets.
        shares: Shares by the metric.
        loss_shares: Shares by the validation loss; ``None`` without losses.
        missing: Datasets without results under both regimes: a cell is not finished, or its test has no value
            of the primary metric.
    """

    arm: str
    rows: tuple[DatasetTransfer, ...]
    shares: Shares
    loss_shares: Shares | None
    missing: tuple[str, ...] = ()


RunOf = Callable[[str, str, int], FinishedRun | None]
"""Arm, dataset and seed -> the finished run of a regime that has it; ``None`` where there is none."""


@dataclass
class Resampling:
    """Resamples of seeds and of questions that all comparisons share.

    Args:
        resamples: Number of resamples.
        seed: Seed of the drawing.
    """

    resamples: int = 2000
    seed: int = 0
    _counts: dict[tuple[str, ...], Draws] = field(default_factory=dict, repr=False)

    def questions(self, ids: tuple[str, ...]) -> Draws:
        """Return how often each question is drawn; the same questions are always drawn alike."""
        if ids not in self._counts:
            self._counts.clear()  # one dataset at a time: this may be large
            rng = np.random.default_rng([self.seed, zlib.crc32("\n".join(ids).encode())])
            self._counts[ids] = drawn_counts(len(ids), self.resamples, rng)
        return self._counts[ids]

    def seeds(self, seeds: Sequence[int]) -> Draws:
        """Return the weight of each seed in each resample, ``(R, seeds)``; rows add up to 1."""
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
        before: Seed -> value and statistic of the baseline.
        after: Seed -> value and statistic of the other.
        higher_is_better: Direction of the quantity.
        resampling: The resamples.
        note: Why there is no statistic, where there is none.
    """
    seeds = tuple(sorted(before.keys() & after.keys()))
    sign = 1.0 if higher_is_better else -1.0
    statistics = [(before[s][1], after[s][1]) for s in seeds]
    pairs = [(a, b) for a, b in statistics if a is not None and b is not None]
    means = [float(np.mean([side[s][0] for s in seeds])) for side in (before, after)]

    def gained() -> float:
        value = sign * (means[1] - means[0])
        return 0.0 if abs(value) <= TIE else value  # the rounding of a mean is no gain

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
    """Correct the p values of several datasets' comparisons together."""
    known = {name: one.gain.p for name, one in found.items() if one.gain.p is not None}
    corrected = dict(zip(known, holm(list(known.values())), strict=True))
    return {n: replace(one, gain=replace(one.gain, p_holm=corrected.get(n))) for n, one in found.items()}


def shares_of(found: Mapping[str, Comparison]) -> Shares:
    """Count who gains and who is harmed.

    Args:
        found: Dataset -> its comparison, corrected; one without draws keeps its sign in all resamples.
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
        before: Finds runs of the baseline.
        after: Finds runs of the other regime.
        resampling: The resamples.

    Returns:
        ``None`` where no dataset has results under both regimes.
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
    """Compare pairs of runs on one dataset; p values are not corrected yet.

    Args:
        dataset: Key of the dataset.
        runs: Seed -> the run of the baseline and the other.
        resampling: The resamples.

    Returns:
        ``None`` where no pair has a headline on the dataset.
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
