"""A whole tree on disk, read back through the project's own readers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.media import probe, read_audio, read_image, read_mask, read_video
from crab_lightning.mini import DATASETS, make_item, render_frames, render_masks, row_of, write_mini
from crab_lightning.mini.world import tree
from crab_lightning.mini.world.families.grounding import moment
from crab_lightning.mini.world.vocabulary import CATEGORIES
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks import (
    ActionRecognition,
    Captioning,
    CrossModalMatching,
    EmotionRecognition,
    EventLocalization,
    EventParsing,
    ImageGrounding,
    QuestionAnswering,
    ReferringSegmentation,
    Segmentation,
    Task,
)
from tests.tasks.released import AVE_CLASSES, LLP_CLASSES

CLIPS = 36
TASKS: dict[str, Task[Any]] = {
    **dict.fromkeys(("a2v", "v2a"), CrossModalMatching()),
    **dict.fromkeys(("ks", "ucf"), ActionRecognition()),
    **dict.fromkeys(("meld", "mer24", "cremad", "mafw", "dfew"), EmotionRecognition()),
    **dict.fromkeys(("avqa", "avqa_thu"), QuestionAnswering()),
    **dict.fromkeys(("ave", "unav"), EventLocalization()),
    "avvp": EventParsing(),
    **dict.fromkeys(("s4", "ms3"), Segmentation()),
    "ref_avs": ReferringSegmentation(),
    "arig": ImageGrounding(),
    "avcap": Captioning(),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini") / "tree"
    write_mini(folder, CLIPS, seed=0, workers=0, progress=False)
    return folder


def samples(root: Path, dataset: str, split: Any = "train") -> list[Sample]:
    return read_manifest(root, dataset, DatasetSpec(task="any", layout=dataset), split)


def text_only(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, bytes]:
    """Write everything but the media."""
    monkeypatch.setattr(tree, "_write_media", lambda *args: None)
    write_mini(folder, **options)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_manifest_is_there_and_every_file_it_names(root: Path) -> None:
    for name, entry in DATASETS.items():
        for split in ("train", "test"):
            path = root / "AVUIE_2" / name / f"{split}.json"
            assert path.is_file() == (split == "train" or bool(entry.test))
            if path.is_file():
                assert samples(root, name, split)  # the reader checks the media


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_tasks_read_the_true_answer_out_of_the_target(root: Path, dataset: str) -> None:
    task = TASKS[dataset]
    rows = samples(root, dataset)
    classes = sorted({str(s.fields["class_name"]) for s in rows if "class_name" in s.fields})
    named = {"ave": AVE_CLASSES, "avvp": LLP_CLASSES, "unav": tuple(c.unav for c in CATEGORIES)}
    spec = DatasetSpec(task="any", layout=dataset, classes=classes or list(named.get(dataset, ())) or None)
    for sample in rows:
        answer = task.parse(task.target(sample, "reasoning"), sample, spec)
        assert answer is not None
        assert answer == task.truth(sample, spec)
        assert task.parse(task.target(sample, "direct"), sample, spec) == answer


def test_same_seed_gives_the_same_bytes_and_another_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = text_only(tmp_path / "a", monkeypatch, clips=60, seed=1, workers=0, progress=False)
    two = text_only(tmp_path / "b", monkeypatch, clips=60, seed=1, workers=2, progress=False)
    three = text_only(tmp_path / "c", monkeypatch, clips=60, seed=2, workers=0, progress=False)
    assert one == two
    assert one.keys() == three.keys()
    assert one["AVUIE_2/ave/train.json"] != three["AVUIE_2/ave/train.json"]


def test_more_clips_keep_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = text_only(tmp_path / "a", monkeypatch, clips=60, progress=False)
    many = text_only(tmp_path / "b", monkeypatch, clips=200, progress=False)
    for name in DATASETS:
        short, long = (json.loads(t[f"AVUIE_2/{name}/train.json"]) for t in (few, many))
        assert len(short) < len(long)
        assert long[: len(short)] == short


def test_counts_of_one_dataset_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text_only(tmp_path / "a", monkeypatch, clips=40, counts={"avqa": (3, 2), "s4": (4, 1)}, progress=False)
    base = tmp_path / "a" / "AVUIE_2"
    assert len(json.loads((base / "avqa/test.json").read_text())) == 4  # two questions a clip
    assert len(json.loads((base / "arig/train.json").read_text())) == 4  # the clips of s4


def test_wrong_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="counts names 'vgg'; Mini AV-UIE has: a2v"):
        write_mini(tmp_path / "a", 40, counts={"vgg": (1, 1)})
    with pytest.raises(
        ValueError, match=r"counts\['unav'\] is \(3, 1\); it needs at least 1 in train and 0 in test"
    ):
        write_mini(tmp_path / "a", 40, counts={"unav": (3, 1)})
    assert not (tmp_path / "a").exists()


def test_rows_on_disk_are_the_rows_in_memory(root: Path) -> None:
    rows = json.loads((root / "AVUIE_2/avvp/test.json").read_text(encoding="utf-8"))
    assert rows == [row_of(make_item("avvp", "test", i)) for i in range(len(rows))]


def test_media_have_the_released_formats(root: Path) -> None:
    base = root / "AVUIE_2"
    suffixes = {
        name: sorted({p.suffix for p in (base / name).rglob("*") if p.is_file()} - {".json"})
        for name in DATASETS
    }
    wav = {"ks", "mer24", "cremad", "mafw", "dfew"}
    for name in DATASETS:
        if name in ("s4", "ms3", "ref_avs"):
            assert suffixes[name] == [".jpg", ".png", ".wav"]
        elif name == "ucf":
            assert suffixes[name] == [".avi", ".wav"]
        elif name != "arig":
            assert suffixes[name] == ([".mp4", ".wav"] if name in wav else [".mp3", ".mp4"])
    info = probe(samples(root, "ave")[0].videos[0])
    assert (info.width, info.height, info.fps) == (224, 224, 5)
    assert info.has_audio


def test_ten_decoded_frames_fall_into_ten_seconds_and_show_the_scene(root: Path) -> None:
    sample = samples(root, "ave")[0]
    clip = read_video(sample.videos[0], 10)
    assert [int(t + 1e-3) for t in clip.times_s] == list(range(10))
    drawn = render_frames(make_item("ave", "train", 0).videos[0], clip.times_s.tolist())
    decoded = clip.frames.permute(0, 2, 3, 1).numpy()
    assert np.abs(decoded.astype(int) - drawn.astype(int)).mean() < 6


@pytest.mark.parametrize("dataset", ["ave", "meld", "ks"])
def test_decoded_sound_keeps_its_place_in_time(root: Path, dataset: str) -> None:
    from crab_lightning.mini import render_audio

    sample = samples(root, dataset)[0]
    truth = render_audio(make_item(dataset, "train", 0).audios[0])
    decoded = read_audio(sample.audios[0]).numpy()
    assert abs(len(decoded) - len(truth)) < 1600
    size = min(len(decoded), len(truth)) // 160 * 160
    one, two = (np.log(np.square(a[:size].reshape(-1, 160)).mean(1) + 1e-7) for a in (decoded, truth))
    assert np.corrcoef(one, two)[0, 1] > 0.9


def test_masks_and_frames_on_disk_are_those_of_the_scene(root: Path) -> None:
    for dataset, index in (("s4", 0), ("ms3", 0)):
        sample = samples(root, dataset)[index]
        scene = make_item(dataset, "train", index).audios[0]
        time_s = moment(int(sample.images[0].stem))
        mask_path = Path(str(sample.images[0]).replace("/frames/", "/labels_rgb/")).with_suffix(".png")
        masks = render_masks(scene, time_s)
        union = np.any([masks[i] for i in scene.heard_at(time_s)], axis=0)
        assert (read_mask(mask_path, 224).numpy() == union).all()
        picture = read_image(sample.images[0], 224).permute(1, 2, 0).numpy()
        assert np.abs(picture.astype(int) - render_frames(scene, [time_s])[0]).mean() < 4


def test_absent_objects_of_ref_avs_have_an_empty_mask(root: Path) -> None:
    for split in ("train", "test"):
        for row in json.loads((root / f"AVUIE_2/ref_avs/{split}.json").read_text()):
            frame = row["idx"] if split == "train" else row["frame_idx"]
            mask = root / f"AVUIE_2/ref_avs/REFAVS/gt_mask/{row['vid']}/fid_{row['fid']}/{frame:05d}.png"
            absent = row["split"] == "test_n" if split == "test" else "false" in row["output"]
            assert (np.asarray(Image.open(mask)).max() == 0) == absent


def test_arig_links_to_the_clips_of_s4(root: Path) -> None:
    link = root / "AVUIE_2/arig/AVS"
    assert link.is_symlink()
    assert not link.readlink().is_absolute()  # the tree can be moved


def test_official_annotations_agree_with_the_manifests(root: Path) -> None:
    head, *lines = (root / "annotations/AVE/Annotations.txt").read_text().splitlines()
    assert head == "Category&VideoID&Quality&StartTime&EndTime"
    rows = [r for s in ("train", "test") for r in json.loads((root / f"AVUIE_2/ave/{s}.json").read_text())]
    assert lines == [f"{r['event']}&{r['vid']}&good&{r['start_time']}&{r['end_time']}" for r in rows]
    visual = (root / "annotations/LLP/AVVP_eval_visual.csv").read_text().splitlines()
    assert visual[0] == "filename\tonset\toffset\tevent_labels"
    for row in json.loads((root / "AVUIE_2/avvp/test.json").read_text()):
        mine = [line.split("\t") for line in visual if line.startswith(row["filename"])]
        assert len(mine) == row["event"].count("<visual_event>")
        assert all(f"<visual_event>{n},({a} {b})" in row["event"] for _, a, b, n in mine)


def test_a_folder_that_is_no_mini_tree_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="is not empty and holds no Mini AV-UIE"):
            write_mini(tmp_path, CLIPS, overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_settings_need_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    first = text_only(folder, monkeypatch, clips=CLIPS, seed=0, progress=False)
    with pytest.raises(FileExistsError, match="holds a Mini AV-UIE with other settings; its seed is 0"):
        write_mini(folder, CLIPS, seed=1, progress=False)
    second = text_only(folder, monkeypatch, clips=CLIPS, seed=1, overwrite=True, progress=False)
    assert first["mini.json"] != second["mini.json"]


def test_an_interrupted_tree_is_taken_up_again_by_workers(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(root, folder, symlinks=True)
    kept = samples(folder, "ave")[0].videos[0]
    lost = samples(folder, "ks")[0].videos[0]
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    (folder / "AVUIE_2/ks/train.json").unlink()
    (lost.parent / f".{lost.stem}.123.mp4").write_bytes(before[:100])
    write_mini(folder, CLIPS, seed=0, workers=1, progress=True)
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp
    assert not list(folder.rglob(".*"))
    assert json.loads((folder / "mini.json").read_text())["finished"]


def test_the_test_files_are_as_large_as_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_write_media", lambda *args: None)
    counts = write_mini(tmp_path / "half", 400, workers=0, test_fraction=0.5, progress=False)
    assert all(test in (train, train - 1, train + 1) for train, test in counts.values() if test)
    assert all((test > 0) == bool(DATASETS[name].test) for name, (_, test) in counts.items())
    for wrong in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"test_fraction is .* between 0 and 1"):
            write_mini(tmp_path / "wrong", 400, test_fraction=wrong)
