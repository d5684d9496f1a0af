from __future__ import annotations

import numpy as np
import pytest

from crab_lightning.data.mixture import Mixture
from crab_lightning.data.samplers import EvalBatches, TrainBatches


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
    with pytest.raises(ValueError, match=r"3 samples cannot feed 4 processes; raise data\.epoch_size"):
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
