"""Mini AV-UIE in the owners' forms and back: all 17 datasets, equal in meaning to the real reader."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crab_lightning.builder import IMPORTERS, Settings, import_dataset
from crab_lightning.commands import main
from crab_lightning.media import read_audio
from crab_lightning.structures import Sample
from tests.builder.official import WRITERS, Tree
from tests.builder.trees import check_answers, mixture, samples

SETTINGS = {
    "arig": Settings(frames=5),
    "avs": Settings(frames=5),
    "ref_avs": Settings(frames=10),
    "unav": Settings(all_clips=True),
    "vgg_cm": Settings(pairs=4, test_pairs=2),
}
EVERY_FRAME = ("arig", "s4", "ms3", "ref_avs")
"""More frames become rows than Mini AV-UIE asks about: its rows are among them."""


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mini tree with a few rows of every dataset."""
    from crab_lightning.mini import write_mini

    root = tmp_path_factory.mktemp("mini") / "tree"
    write_mini(root, 70, seed=5, workers=0, progress=False)
    return root


@pytest.fixture(scope="module")
def rebuilt(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root imported from the official forms of the Mini tree."""
    root = tmp_path_factory.mktemp("rebuilt")
    for name, write in WRITERS.items():
        owner = root / "owner" / name
        write(Tree(mini), owner)
        report = import_dataset(name, [owner], root / "root", SETTINGS.get(name), workers=0)
        assert [one for one in report.lost if one.kind != "unusable"] == [], name
    return root / "root"


def meaning(sample: Sample, spec: Any, task: Any) -> Any:
    """What a row asks and what its answer is, and which file it is about."""
    file = (sample.videos or sample.images)[0]
    fields = sample.fields
    told: list[Any] = [file.resolve().stat().st_ino, sample.unit, str(task.prompt(sample))]
    if spec.task in ("segmentation", "referring_segmentation"):
        told += [fields.get("object"), fields["frame"], fields.get("subset")]
        told += [task.parse(sample.target, sample, spec)] if sample.target else []
    else:
        told += [
            task.truth(sample, spec),
            fields.get("question_type"),
            fields.get("modality"),
            fields.get("frame"),
        ]
    return repr(told)


@pytest.mark.parametrize(
    "task", sorted({t for one in IMPORTERS.values() for t in one.tasks} - {"a2v", "v2a"})
)
def test_a_rebuilt_manifest_means_what_the_original_means(mini: Path, rebuilt: Path, task: str) -> None:
    tasks, specs = mixture()
    spec = specs[task]
    maker = tasks[spec.task]
    for split in ("train", "test"):
        if not (mini / f"AVUIE_2/{task}/{split}.json").is_file():
            continue
        rows, again = samples(mini, task, split), samples(rebuilt, task, split)
        own = replace(spec, classes=spec.classes or maker.class_names([*rows, *again]))
        original, made = (Counter(meaning(s, own, maker) for s in group) for group in (rows, again))
        assert rows
        if task in EVERY_FRAME:
            assert original <= made
        else:
            assert original == made
        for sample in again[:3]:
            sound = read_audio(sample.audios[0]).numpy()
            assert len(sound) > 60_000
            if sample.videos:  # the track of the clip, sample for sample
                track = read_audio(sample.videos[0]).numpy()
                size = min(len(sound), len(track))
                assert abs(len(sound) - len(track)) < 1600
                assert np.corrcoef(sound[:size], track[:size])[0, 1] > 0.9
    check_answers(rebuilt, task)


def test_vgg_cm_has_true_pairs_at_even_odds(rebuilt: Path) -> None:
    sides: Counter[int] = Counter()
    recordings: dict[str, set[str]] = {"train": set(), "test": set()}
    for split in ("train", "test"):
        for task in ("a2v", "v2a"):
            for sample in samples(rebuilt, task, split):
                recordings[split] |= set(sample.clips)
                if split == "train":
                    sides[sample.fields["match"]] += 1
    assert sides == {1: 2, 2: 2}
    assert not recordings["train"] & recordings["test"]


def test_data_points_changes_no_row_of_a_fresh_tree(
    mini: Path, rebuilt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for root in (mini, rebuilt):
        assert main(["data", "points", "--root", str(root)]) == 0
        told = [line for line in capsys.readouterr().out.splitlines() if " rows: " in line]
        assert len(told) == 4
        assert all(" changed" not in line for line in told), told
        assert all("the same" in line for line in told)


def test_data_check_finds_no_error_in_a_rebuilt_tree(rebuilt: Path) -> None:
    assert main(["data", "check", "--root", str(rebuilt), "--workers", "0"]) == 0
