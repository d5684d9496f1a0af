from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crab_lightning.data.sampling.mixture import Mixture
from crab_lightning.data.sampling.samplers import EvalBatches, TrainBatches


def items(batches: TrainBatches | EvalBatches) -> list[list[int]]:
    return [[draw.item for draw in batch] for batch in batches]


def train(world: int, batch_size: int = 4, rows: int = 103, window: int = 1) -> list[TrainBatches]:
    mixture = Mixture({"a": rows})
    lengths = np.arange(rows) % 17
    return [TrainBatches(mixture, batch_size, rank, world, window, lengths) for rank in range(world)]


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_processes_share_an_epoch_without_repeating_or_losing_a_sample(world: int, window: int) -> None:
    ranks = [items(batches) for batches in train(world, window=window)]
    assert sorted(i for rank in ranks for batch in rank for i in batch) == list(range(103))
    assert len({len(rank) for rank in ranks}) == 1
    assert all(1 <= len(batch) <= 4 for rank in ranks for batch in rank)
    assert [len(rank) for rank in ranks] == [len(batches) for batches in train(world, window=window)]


def test_one_process_takes_the_mixture_in_order() -> None:
    (batches,) = train(1)
    assert [i for batch in items(batches) for i in batch] == Mixture({"a": 103}).order(0).tolist()


def test_grouping_narrows_batches_and_gives_ranks_neighbours() -> None:
    mixture = Mixture({"a": 4096})
    lengths = np.random.default_rng(0).integers(100, 1300, 4096)

    def spread(window: int) -> tuple[float, float]:
        ranks = [items(TrainBatches(mixture, 4, rank, 2, window, lengths)) for rank in range(2)]
        widest = np.array([[lengths[batch].max() for batch in rank] for rank in ranks])
        padding = 1 - lengths.sum() / (4 * widest.sum())
        idle = 1 - widest.mean() / widest.max(axis=0).mean()
        return float(padding), float(idle)

    loose, grouped = spread(1), spread(32)
    assert loose[0] > 0.2
    assert grouped[0] < 0.03
    assert loose[1] > 0.05
    assert grouped[1] < 0.03


def test_grouping_keeps_samples_inside_their_window() -> None:
    order = Mixture({"a": 103}).order(0).tolist()
    (batches,) = train(1, window=8)
    flat = [i for batch in items(batches) for i in batch]
    assert flat != order
    assert sorted(flat[:31]) == sorted(order[:31])  # 8 of 26 batches of 103 samples


@pytest.mark.parametrize("window", [1, 8])
def test_resumed_batches_continue_exactly(window: int) -> None:
    (whole,), (half,), (resumed,) = train(1, window=window), train(1, window=window), train(1, window=window)
    whole.set_epoch(3)
    half.set_epoch(3)
    resumed.load_state_dict(half.state_dict(step=11))
    assert len(resumed) == len(whole)
    assert items(resumed) == items(whole)[11:]
    assert items(resumed) == items(whole), "a second pass over the epoch starts at its beginning"


@pytest.mark.parametrize("window", [1, 8])
def test_changed_number_of_processes_loses_and_repeats_nothing(window: int) -> None:
    seen: list[int] = []
    state = None
    for world, batch_size, steps in ((2, 4, 5), (3, 2, 4), (1, 4, None)):
        ranks = train(world, batch_size, window=window)
        done = 0 if state is None else state["step"]
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(state)
        taken = [items(rank)[:steps] for rank in ranks]
        seen += [i for rank in taken for batch in rank for i in batch]
        if steps is None:
            assert len(ranks[0]) == done + len(taken[0])
        else:
            # as after a restart: the state is read from the loaded position, not from the exhausted iterator
            fresh = train(world, batch_size, window=window)[0]
            if state is not None:
                fresh.load_state_dict(state)
            state = fresh.state_dict(step=done + steps)
    assert sorted(seen) == list(range(103))


def test_next_epoch_forgets_the_loaded_position() -> None:
    (batches,), (fresh,) = train(1), train(1)
    batches.load_state_dict(fresh.state_dict(step=7))
    batches.set_epoch(1)
    fresh.set_epoch(1)
    assert items(batches) == items(fresh)


def test_epoch_smaller_than_the_number_of_processes_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"3 samples is too small for 4 processes; increase data\.epoch_size"
    ):
        train(4, rows=3)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("counts", [(5, 7), (1, 0), (0, 0), (16, 16)])
def test_evaluation_counts_every_sample_once_and_keeps_ranks_equal(
    counts: tuple[int, int], world: int
) -> None:
    first, second = list(range(counts[0])), list(range(counts[0], sum(counts)))
    lengths = np.arange(sum(counts)) * 7 % 11
    ranks = [list(EvalBatches([first, second], lengths, 4, rank, world)) for rank in range(world)]
    counted = [draw.item for rank in ranks for batch in rank for draw in batch if not draw.repeated]
    assert sorted(counted) == first + second
    assert len({len(rank) for rank in ranks}) == 1
    for batch in (batch for rank in ranks for batch in rank):
        assert len({draw.item < counts[0] for draw in batch}) == 1, "a batch holds one dataset"


def test_evaluation_starts_with_the_longest_and_never_mixes_far_lengths() -> None:
    lengths = np.random.default_rng(0).permutation(100)
    batches = items(EvalBatches([range(100)], lengths, 10))
    assert [lengths[batch].max() for batch in batches] == list(range(99, 0, -10))


def test_fillers_are_single_samples() -> None:
    ranks = [list(EvalBatches([range(9)], np.ones(9, int), 4, rank, 4)) for rank in range(4)]
    assert [[len(batch) for batch in rank] for rank in ranks] == [[4], [4], [1], [1]]
    assert [draw.repeated for draw in ranks[3][0]] == [True]


def budgeted(world: int, tokens: int = 3000, rows: int = 2000, **options: Any) -> list[TrainBatches]:
    mixture = Mixture({"a": rows})
    lengths = np.random.default_rng(0).integers(100, 1300, rows)
    return [TrainBatches(mixture, 4, rank, world, 32, lengths, tokens, **options) for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_batches_keep_to_a_budget_of_tokens_and_hold_every_sample_once(world: int) -> None:
    ranks = budgeted(world)
    lengths = ranks[0].lengths
    assert lengths is not None
    taken = [items(rank) for rank in ranks]
    assert sorted(i for rank in taken for batch in rank for i in batch) == list(range(2000))
    assert [len(rank) for rank in taken] == [len(rank) for rank in ranks]
    assert len({len(rank) for rank in taken}) == 1
    padded = np.array([[len(batch) * lengths[batch].max() for batch in rank] for rank in taken])
    assert padded.max() <= 3000
    assert 1 - lengths.sum() / padded.sum() < 0.03
    assert 1 - padded.mean() / padded.max(axis=0).mean() < 0.03, "processes wait for each other"


def test_sample_beyond_the_budget_stands_alone() -> None:
    (batches,) = budgeted(1, tokens=600)
    lengths = batches.lengths
    assert lengths is not None
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= 600 for batch in items(batches))


def test_windows_with_a_budget_mix_what_the_order_mixes() -> None:
    (batches,) = budgeted(1)
    order = batches.mixture.order(0)
    place = {int(item): i for i, item in enumerate(order)}
    seen = [place[i] for batch in items(batches) for i in batch]
    assert max(abs(i - p) for i, p in enumerate(seen)) < 2 * 32 * 5  # about 4.3 samples a batch


def test_resumed_budget_continues_exactly_and_another_budget_loses_nothing() -> None:
    (whole,), (resumed,), (other,) = budgeted(1), budgeted(1), budgeted(1, tokens=5000)
    state = whole.state_dict(step=100)
    resumed.load_state_dict(state)
    assert items(resumed) == items(whole)[100:]
    other.load_state_dict(state)
    length = len(other)
    rest = items(other)
    assert length == 100 + len(rest)
    assert sorted(i for b in [*items(whole)[:100], *rest] for i in b) == list(range(2000))


@pytest.mark.parametrize("tokens", [None, 3000])
def test_rest_smaller_than_the_number_of_processes_is_filled_with_marked_repeats(tokens: int | None) -> None:
    mixture, lengths = Mixture({"a": 8}), np.full(8, 1000)
    (one,) = (TrainBatches(mixture, 1, lengths=lengths),)
    ranks = [TrainBatches(mixture, 4, r, 3, 1, lengths, tokens) for r in range(3)]
    for rank in ranks:
        rank.load_state_dict(one.state_dict(step=7))
    draws = [draw for rank in ranks for batch in rank for draw in batch]
    assert len(draws) == 3
    assert [draw.item for draw in draws if not draw.repeated] == [int(mixture.order(0)[7])]
