from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from crab_lightning.data import AVDataModule, SampleError
from crab_lightning.data.dataset import AVDataset
from crab_lightning.data.deadline import LoadTimeout, deadline
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.data.quarantine import OnError, Quarantine, QuarantineError
from crab_lightning.data.sampling.samplers import Draw
from crab_lightning.structures import Example, Sample
from tests.data.world import DATASETS, TASKS, Letters

HALF = OnError("quarantine", max_share=0.5)
BROKEN = (1, 4)


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    """A root whose training clips 1 and 4 of ks cannot be read."""
    copy = Path(shutil.copytree(root, tmp_path / "root"))
    for number in BROKEN:
        clip = copy / f"AVUIE_2/ks/video/{number}.mp4"
        clip.unlink()
        clip.write_bytes(b"no video at all")
    return copy


def dataset(root: Path, budget: OnError = HALF, split: Any = "train", run: str = "run") -> AVDataset:
    samples = read_manifest(root, "ks", DATASETS["ks"], split)
    quarantine = Quarantine(root / run / "quarantine.jsonl", budget, samples, seed=7)
    learns = split == "train"
    return AVDataset(samples, TASKS, DATASETS, Letters(), with_target=learns, quarantine=quarantine)


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "run/quarantine.jsonl").read_text().splitlines()]


def loaded(data: AVDataset, item: int, epoch: int = 0) -> Sample:
    ((encoded, repeated),) = data.__getitems__([Draw(item, epoch=epoch)])
    assert not repeated
    return encoded.sample


def test_without_a_quarantine_a_broken_clip_fails_by_name(broken: Path) -> None:
    samples = read_manifest(broken, "ks", DATASETS["ks"], "train")
    with pytest.raises(SampleError, match=r"sample 'ks/train/1' \(row 1 of ks/train\).*1.mp4"):
        AVDataset(samples, TASKS, DATASETS, Letters()).__getitems__([Draw(0), Draw(1)])


def test_a_broken_clip_is_replaced_by_a_whole_sample_of_its_dataset_and_listed(broken: Path) -> None:
    data = dataset(broken)
    other = loaded(data, 1)
    assert other.dataset == "ks"
    assert other.row not in BROKEN
    first = lines(broken)[0]
    assert (first["id"], first["dataset"], first["split"], first["row"]) == ("ks/train/1", "ks", "train", 1)
    assert "UnreadableMedia" in first["error"]
    assert "1.mp4" in first["error"]
    assert loaded(data, 0).row == 0


def test_replacement_follows_from_seed_epoch_and_sample_alone(broken: Path) -> None:
    def drawn(order: list[tuple[int, int]], run: str) -> dict[tuple[int, int], int]:
        data = dataset(broken, run=run)
        return {place: loaded(data, *place).row for place in order}

    order = [(item, epoch) for epoch in range(4) for item in BROKEN]
    one, other = drawn(order, "one"), drawn(order[::-1], "other")
    assert one == other
    resumed = drawn(order[3:], "one")  # a process that finds the list already written
    assert resumed == {place: one[place] for place in order[3:]}
    assert len(set(one.values())) > 1


def test_a_listed_sample_is_not_tried_again(broken: Path, root: Path) -> None:
    loaded(dataset(broken), 1)
    shutil.copy(root / "source/1.mp4", broken / "AVUIE_2/ks/video/1.mp4")
    assert loaded(dataset(broken), 1).row != 1
    assert loaded(dataset(broken, run="another"), 1).row == 1


@pytest.mark.parametrize(
    "budget", [OnError("quarantine", max_count=1, max_share=1.0), OnError("quarantine", max_share=0.12)]
)
def test_past_the_budget_the_run_fails_and_says_what_to_do(broken: Path, budget: OnError) -> None:
    data = dataset(broken, budget)
    with pytest.raises(
        QuarantineError, match=r"2 of 9 train samples cannot be read.*allows 1 .*increase the lim"
    ):
        data.__getitems__([Draw(item) for item in range(9)])


def test_the_budget_counts_what_other_processes_listed(broken: Path) -> None:
    budget = OnError("quarantine", max_count=1, max_share=1.0)
    one, other = (Quarantine(broken / "list", budget, dataset(broken).samples, 7) for _ in range(2))
    samples = dataset(broken).samples
    one.add(samples[1], samples[0], ValueError("no"))
    with pytest.raises(QuarantineError, match="2 of 9"):
        other.add(samples[4], samples[0], ValueError("no"))
    assert other.counts() == {"ks": 2}


def test_in_evaluation_the_replacement_carries_the_mark_that_metrics_skip(broken: Path) -> None:
    (broken / "AVUIE_2/ks/audio/10.wav").unlink()
    (broken / "AVUIE_2/ks/audio/10.wav").write_bytes(b"no sound")
    data = dataset(broken, split="test")
    results = data.__getitems__([Draw(item) for item in range(3)])
    assert [repeated for _, repeated in results] == [False, True, False]
    assert results[1][0].sample.row != 1
    assert [line["split"] for line in lines(broken)] == ["test"]


def test_a_mistake_in_the_program_is_not_taken_for_a_broken_clip(broken: Path) -> None:
    class Careless(Letters):
        def encode(self, example: Example) -> Any:
            raise KeyError("label")

    data = dataset(broken)
    data.processor = Careless()
    with pytest.raises(SampleError, match="KeyError"):
        loaded(data, 0)
    assert not (broken / "run/quarantine.jsonl").exists()


class Slow(Letters):
    """A decoder that does not come back."""

    def encode(self, example: Example) -> Any:
        if example.sample.row == 0:
            time.sleep(30)
        return super().encode(example)


def test_a_sample_that_takes_too_long_is_broken(broken: Path) -> None:
    data = dataset(broken)
    data.processor, data.timeout_s = Slow(), 2.0
    began = time.monotonic()
    assert loaded(data, 0).row != 0
    assert time.monotonic() - began < 15
    assert "LoadTimeout" in lines(broken)[0]["error"]


def test_a_deadline_leaves_no_alarm_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline(60):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) is before
    with pytest.raises(LoadTimeout, match="load_timeout_s"), deadline(0.01):
        time.sleep(5)


def module(root: Path, **options: Any) -> AVDataModule:
    data = AVDataModule(root, TASKS, {"ks": DATASETS["ks"]}, batch_size=3, val_share=0.0, **options)
    data.processor = Letters()
    data.run_folder = root / "run"
    data.setup()
    return data


def test_workers_share_the_list_and_every_batch_is_full(broken: Path) -> None:
    data = module(broken, on_error=HALF, num_workers=2, cache=broken / "cache")
    for epoch in range(2):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert [len(batch) for batch in batches] == [3, 3, 3]
        rows = [sample.row for batch in batches for sample in batch.samples]
        assert not set(rows) & set(BROKEN)
    data.teardown()
    assert {line["row"] for line in lines(broken)} == set(BROKEN)


def test_fail_is_the_default(broken: Path) -> None:
    with pytest.raises(SampleError, match="cannot be loaded"):
        list(module(broken).train_dataloader())


def test_cached_and_decoded_batches_are_equal(root: Path, tmp_path: Path) -> None:
    plain, cached = (module(root, cache=cache) for cache in (None, tmp_path / "cache"))
    for _ in range(2):
        for one, other in zip(plain.train_dataloader(), cached.train_dataloader(), strict=True):
            assert torch.equal(one.inputs["facts"], other.inputs["facts"])


@pytest.mark.parametrize(
    ("value", "policy"),
    [("fail", "fail"), ({"policy": "quarantine", "max_share": 0.2, "max_count": 3}, "quarantine")],
)
def test_on_error_is_read_from_a_config(root: Path, value: Any, policy: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AVDataModule, "data", fail_untyped=False)
    tasks = {"recognition": {"class_path": "tests.data.world.Pair"}}
    rows = {"ks": {"task": "recognition", "layout": "ks"}}
    section = {
        "root": str(root),
        "tasks": tasks,
        "datasets": rows,
        "on_error": value,
        "limits": {"streams": 3},
    }
    made = parser.instantiate_classes(parser.parse_object({"data": section})).data
    assert made.on_error.policy == policy
    assert made.limits.streams == 3
    if policy == "quarantine":
        assert (made.on_error.max_share, made.on_error.max_count) == (0.2, 3)


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.on_error\.max_share is 1\.5"):
        OnError("quarantine", max_share=1.5)
    with pytest.raises(ValueError, match=r"data\.on_error\.max_count is -1"):
        OnError("quarantine", max_count=-1)
