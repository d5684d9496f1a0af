"""Every importer on excerpts of the official files, with tiny made-up media under the official names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from crab_lightning.builder import Settings, import_dataset
from crab_lightning.builder.datasets.youtube import vggsound_name
from crab_lightning.builder.source import read_bare
from tests.builder.media import put
from tests.builder.trees import check_answers, fill, samples

CASES = {
    "ave": ("AVE", {("ave", "train"): (7, 6), ("ave", "test"): (4, 4)}),
    "unav": ("UnAV-100", {}),
    "avvp": ("LLP", {("avvp", "train"): (6, 6), ("avvp", "test"): (7, 7), ("avvp", "weak"): (8, 8)}),
    "meld": ("MELD", {("meld", "train"): (16, 16), ("meld", "test"): (8, 8)}),
    "cremad": ("CREMA-D", {("cremad", "train"): (12, 12), ("cremad", "test"): (7, 7)}),
    "ucf": ("UCF101", {("ucf", "train"): (6, 6), ("ucf", "test"): (6, 6)}),
    "ref_avs": ("Ref-AVS", {("ref_avs", "train"): (5, 4), ("ref_avs", "test"): (50, 50)}),
}


@pytest.mark.parametrize("name", CASES)
def test_an_excerpt_becomes_manifests_that_the_tasks_read(excerpts: Path, tmp_path: Path, name: str) -> None:
    folder, counts = CASES[name]
    source, root = tmp_path / "owner", tmp_path / "root"
    shutil.copytree(excerpts / folder, source)
    fill(source, name)
    report = import_dataset(name, [source], root, workers=0)
    assert not [one for one in report.lost if one.kind != "unusable"]
    found = {(s.task, s.split): (s.rows, s.written) for s in report.splits}
    for key, pair in counts.items():
        assert found[key] == pair
    for split in report.splits:
        if split.split == "train":
            assert check_answers(root, split.task) == split.written
        elif split.split == "test":
            assert len(samples(root, split.task, "test")) == split.written


def test_music_avqa(excerpts: Path, tmp_path: Path) -> None:
    source, root = tmp_path / "owner", tmp_path / "root"
    shutil.copytree(excerpts / "MUSIC-AVQA", source)
    for folder in ("json", "json_update"):  # the training files are not among the excerpts
        shutil.copy(source / "json_update/avqa-val.json", source / folder / "avqa-train.json")
    fill(source, "avqa")
    report = import_dataset("avqa", [source], root, workers=0)
    assert report.lost == []
    assert check_answers(root, "avqa") == report.splits[0].rows
    by_id = {s.fields["question_id"]: s.fields for s in samples(root, "avqa", "test")}
    assert by_id["35"]["question"] == "How many sounding violin in the video?"
    asked = "Is the banjo on the left more rhythmic than the acoustic_guitar on the right?"
    assert by_id["3952"]["question"] == asked
    assert by_id["4164"]["question"] == "Are there cello and accordion sound?"

    (source / "json_update").rename(source / "kept_away")
    shutil.rmtree(source / "kept_away")
    fill(source, "avqa")
    old = import_dataset("avqa", [source], tmp_path / "old", workers=0)
    assert old.notes["test: read from json/, the first release; json_update/ corrects it"] == 1
    assert [(one.kind, one.name) for one in old.lost] == [("unusable", "question 1138 of 00005778")]
    assert "a second answer, 'four'; the first one is 'two'" in old.lost[0].reason


def test_avqa(excerpts: Path, tmp_path: Path) -> None:
    source, root = tmp_path / "owner", tmp_path / "root"
    shutil.copytree(excerpts / "AVQA", source)
    entries = json.loads((source / "val_qa.json").read_text())
    entries[0]["multi_choice"] = ["cat", None, "dog"]  # the answer index is 3
    entries[1]["multi_choice"][3] = None
    entries[2]["multi_choice"] = ["cat", 4]
    (source / "train_qa.json").write_text(json.dumps(entries))
    fill(source, "avqa_thu")
    report = import_dataset("avqa_thu", [source], root, workers=0)
    assert [(one.kind, one.reason) for one in report.lost] == [
        ("unusable", "answer 3 is not an index of its 3 choices")
    ]
    assert report.notes["questions with an empty choice, written as NULL"] == 2
    assert report.notes["questions whose number of choices is not 4"] == 2
    assert check_answers(root, "avqa_thu") == len(entries) - 1
    first, second = samples(root, "avqa_thu")[:2]
    assert first.fields["options"] == ("Otter", "cat", "cricket", "NULL")
    assert second.target == "<answer>4</answer>."


def test_vgg_cm(excerpts: Path, tmp_path: Path) -> None:
    source, root = tmp_path / "owner", tmp_path / "root"
    source.mkdir()
    shutil.copy(excerpts / "VGGSound/vggsound.csv", source)
    clips = {vggsound_name(c[0], int(c[1])): c for _, c in read_bare(source / "vggsound.csv", 4)}
    for i, (clip, cells) in enumerate(clips.items()):
        put(source / "clips" / (f"{cells[0]}.mp4" if i % 2 else f"{clip}.mp4"))
    settings = Settings(pairs=4, test_pairs=1)
    report = import_dataset("vgg_cm", [source], root, settings, workers=0)
    assert [(s.task, s.split, s.written) for s in report.splits] == [
        ("a2v", "train", 2), ("a2v", "test", 1), ("v2a", "train", 2),
    ]  # fmt: skip
    for task in ("a2v", "v2a"):
        assert check_answers(root, task) == 2
        for sample in samples(root, task):
            one, two = sample.fields["candidate_events"]
            assert one != two
            assert sample.fields["query_event"] == (one, two)[sample.fields["match"] - 1]
            asked = (sample.audios if task == "a2v" else sample.videos)[0]
            shown = sample.videos if task == "a2v" else sample.audios
            assert shown[sample.fields["match"] - 1].stem == asked.stem


def test_kinetics_sounds(excerpts: Path, tmp_path: Path) -> None:
    source, root = tmp_path / "owner", tmp_path / "root"
    shutil.copytree(excerpts / "Kinetics-Sounds/kinetics400", source)
    table = (source / "validate.csv").read_text().splitlines()
    (source / "train.csv").write_text("\n".join([table[0] + ",is_cc", *(f"{row},1" for row in table[1:])]))
    fill(source, "ks")
    report = import_dataset("ks", [source], root, workers=0)
    kept = [
        line for line in table if "(not" not in line and "javelin" not in line and "massaging" not in line
    ]
    strumming = sum("strumming guitar" in line for line in kept)
    assert check_answers(root, "ks") == len(kept) - 1 - strumming == report.splits[1].written

    ogm = tmp_path / "ogm"
    shutil.copytree(excerpts / "Kinetics-Sounds/OGM-GE_KineticSound", ogm)
    settings = Settings(lists="ogm")
    fill(ogm, "ks", settings)
    import_dataset("ks", [ogm], tmp_path / "ogm_root", settings, workers=0)
    assert check_answers(tmp_path / "ogm_root", "ks") == 8
    first = samples(tmp_path / "ogm_root", "ks")[0]
    assert (first.videos[0].name, first.fields["class_name"]) == (
        "--4-0ihtnBU_000058_000068.mp4",
        "dribbling basketball",
    )
    tested = samples(tmp_path / "ogm_root", "ks", "test")[0]
    assert tested.videos[0].name == "-3Mwkq-7TV4_000002_000012.mp4"


def test_valor(excerpts: Path, tmp_path: Path) -> None:
    source, root = tmp_path / "owner", tmp_path / "root"
    source.mkdir()
    shutil.copy(excerpts / "VALOR-32K/desc_val.json", source / "desc_train.json")
    fill(source, "avcap")
    report = import_dataset("avcap", [source], root, workers=0)
    assert check_answers(root, "avcap") == 8
    assert report.notes == {"no test rows: there is no desc_test.json in the source": 1}
    assert samples(root, "avcap")[0].videos[0].name == "7G0CFAGswrw_240.000_250.000.mp4"
