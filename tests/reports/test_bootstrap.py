"""The paired interval: where it lies, how wide it is, and that a seed fixes it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from crab_lightning.reports.bootstrap import bootstrap_mean, paired_difference


def test_interval_is_that_of_a_binomial_share() -> None:
    found = bootstrap_mean([1.0] * 300 + [0.0] * 700)
    width = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert found.mean == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.3 - width, 0.3 + width), abs=0.003)


def test_drawing_counts_of_distinct_values_equals_drawing_samples() -> None:
    values = np.random.default_rng(1).normal(size=60)
    rng = np.random.default_rng(2)
    means = values[rng.integers(0, 60, (20_000, 60))].mean(axis=1)
    found = bootstrap_mean(values)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.01)


def test_pairing_takes_out_what_both_runs_find_hard() -> None:
    rng = np.random.default_rng(0)
    a = {str(i): float(v) for i, v in enumerate(rng.random(400))}
    b = {i: v + 0.01 for i, v in a.items()}
    found = paired_difference(a, b)
    assert found is not None
    assert found.differs
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))


def test_only_common_samples_count() -> None:
    found = paired_difference({"a": 0.0, "b": 1.0, "c": 1.0}, {"b": 0.0, "c": 1.0, "d": 1.0})
    assert found is not None
    assert (found.samples, found.mean) == (2, -0.5)
    assert not found.differs
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None


def test_same_seed_gives_the_same_interval() -> None:
    values = list(np.random.default_rng(5).random(50))
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


@pytest.mark.parametrize("distinct", [3, 40, 1000])
def test_both_ways_of_drawing_give_the_interval_of_scipy(distinct: int) -> None:
    from scipy.stats import bootstrap

    rng = np.random.default_rng(7)
    values = rng.choice(rng.normal(size=distinct), 1000)
    wanted = bootstrap((values,), np.mean, n_resamples=10_000, batch=500, method="percentile", rng=1)
    found = bootstrap_mean(values)
    interval = wanted.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.004)


def test_an_interval_of_nine_thousand_distinct_scores_takes_a_moment() -> None:
    values = np.random.default_rng(0).random(9000)
    began = time.process_time()
    bootstrap_mean(values)
    assert time.process_time() - began < 5  # 0.5 s where drawing counts took 6 to 10
