from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from crab_lightning.data.sampling.mixture import Mixture

ROWS = {"big": 700, "small": 30, "tiny": 3}


def test_epoch_is_every_row_once_when_nothing_is_weighted() -> None:
    mixture = Mixture(ROWS)
    for epoch in (0, 1, 7):
        assert sorted(mixture.order(epoch)) == list(range(733))


def test_epoch_is_every_row_once_under_weights_proportional_to_rows() -> None:
    weights = {name: 0.37 * count for name, count in ROWS.items()}
    assert sorted(Mixture(ROWS, weights).order(3)) == list(range(733))


def test_epochs_and_seeds_differ_in_order() -> None:
    mixture = Mixture(ROWS)
    assert not np.array_equal(mixture.order(0), mixture.order(1))
    assert not np.array_equal(mixture.order(0), Mixture(ROWS, seed=1).order(0))


def test_order_of_an_epoch_does_not_depend_on_what_was_drawn_before() -> None:
    mixture = Mixture(ROWS, {"tiny": 50.0}, epoch_size=100)
    for epoch in range(3):
        mixture.order(epoch)
    fresh = Mixture(ROWS, {"tiny": 50.0}, epoch_size=100)
    assert np.array_equal(mixture.order(3), fresh.order(3))


def test_order_is_stored_so_that_resumed_runs_on_other_machines_agree() -> None:
    assert Mixture({"a": 5, "b": 3}).order(2).tolist() == [3, 7, 5, 0, 6, 1, 2, 4]


def test_rows_repeat_only_after_all_of_their_dataset_across_epochs() -> None:
    mixture = Mixture(ROWS, {"big": 1.0, "small": 1.0, "tiny": 1.0}, epoch_size=50)
    drawn = np.concatenate([mixture.order(epoch) for epoch in range(12)])
    first, last = 700, 730
    for low, high in ((0, first), (first, last), (last, 733)):
        counts = Counter(int(i) for i in drawn if low <= i < high)
        total = sum(counts.values())
        assert set(counts.values()) <= {total // (high - low), -(-total // (high - low))}


def test_shares_follow_the_weights_and_the_temperature() -> None:
    rows = {"a": 100, "b": 400}
    assert Mixture(rows).shares == pytest.approx({"a": 0.2, "b": 0.8})
    assert Mixture(rows, temperature=2).shares == pytest.approx({"a": 1 / 3, "b": 2 / 3})
    assert Mixture(rows, {"a": 3.0, "b": 1.0}).shares == pytest.approx({"a": 0.75, "b": 0.25})
    assert Mixture(rows, temperature=1e6).shares == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-5)


def test_counts_stay_within_one_of_the_share_and_meet_it_on_average() -> None:
    mixture = Mixture({"a": 1000, "b": 7, "c": 90}, {"a": 1.0, "b": 0.05, "c": 0.3}, epoch_size=10)
    counts = [mixture.counts(epoch) for epoch in range(2000)]
    for name, share in mixture.shares.items():
        seen = np.array([count[name] for count in counts])
        assert abs(seen - 10 * share).max() < 1
        assert seen.mean() == pytest.approx(10 * share, abs=0.03)
    assert all(sum(count.values()) == 10 for count in counts)


def test_dataset_of_weight_zero_is_never_drawn() -> None:
    assert Mixture(ROWS, {"big": 0.0}).order(0).min() >= 700


def test_222_thousand_rows_are_ordered_in_well_under_a_second() -> None:
    mixture = Mixture({str(i): 222_000 // 19 for i in range(19)}, temperature=2.0)
    start = time.process_time()
    mixture.order(4)
    assert time.process_time() - start < 1.0  # 0.06 s here


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"rows": {"a": 0, "b": 1}, "weights": {"a": 1.0}},
            "data.datasets.a has weight 1.0 but no training rows",
        ),
        ({"rows": {"a": 0}}, "nothing to train on"),
    ],
)
def test_senseless_mixture_is_refused_by_key(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Mixture(**arguments)  # type: ignore[arg-type]
