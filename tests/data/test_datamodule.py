from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import crab_lightning
from crab_lightning.data import AVDataModule, ManifestError
from crab_lightning.data.manifests.split import clips_of
from crab_lightning.data.sampling.seeding import balanced_subset
from crab_lightning.media import MediaLimits
from crab_lightning.structures import DatasetSpec
from tests.data.world import DATASETS, TASKS, Letters


def module(root: Path, names: str = "", **options: Any) -> AVDataModule:
    datasets = {name: DATASETS[name] for name in names.split()} or DATASETS
    options = {"val_share": 0.2, "batch_size": 3, **options}
    data = AVDataModule(root, options.pop("tasks", TASKS), options.pop("datasets", datasets), **options)
    data.processor = Letters(data.geometry)
    return data


def ready(root: Path, names: str = "", **options: Any) -> AVDataModule:
    data = module(root, names, **options)
    data.setup("test")
    return data


def test_training_epoch_is_every_training_row_once(root: Path) -> None:
    data = ready(root)
    batches = list(data.train_dataloader())
    seen = [sample.id for batch in batches for sample in batch.samples]
    assert sorted(seen) == sorted(sample.id for sample in data.samples("train"))
    assert len(batches) == len(data.train_dataloader())
    assert all(batch.labels is not None and not any(batch.repeated) for batch in batches)


def test_nothing_to_train_on_names_the_files(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "root")
    name = next(iter(DATASETS))
    path = tmp_path / "root/AVUIE_2" / (DATASETS[name].folder or DATASETS[name].layout) / "train.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match=f"no training rows in .*{path}"):
        ready(tmp_path / "root", name).mixture_table()


def test_workers_change_nothing(root: Path) -> None:
    def ids(workers: int) -> list[list[str]]:
        loader = ready(root, "ks s4", num_workers=workers).train_dataloader()
        return [[sample.id for sample in batch.samples] for batch in loader]

    assert ids(0) == ids(2)


def test_no_recording_is_on_both_sides_of_the_split(root: Path) -> None:
    data = ready(root)
    train, val = ({c for s in data.samples(split) for c in clips_of(s)} for split in ("train", "val"))
    assert val
    assert not train & val
    assert {s.split for s in data.samples("val")} == {"val"}


def test_split_is_the_same_for_datasets_that_share_recordings(root: Path) -> None:
    data = ready(root, "s4 arig")
    s4, arig = ({s.clip for s in data.samples("val", name)} for name in ("s4", "arig"))
    assert s4 == arig != set()


def test_dataset_without_test_manifest_is_tested_on_its_validation_rows(root: Path) -> None:
    data = ready(root, "mer24 ks")
    assert data.samples("test", "mer24") == data.samples("val", "mer24") != []
    assert {s.split for s in data.samples("test", "ks")} == {"test"}
    tested = [s.id for batch in data.test_dataloader() for s in batch.samples]
    assert sorted(tested) == sorted(s.id for s in data.samples("test"))


def test_prompts_carry_no_labels_and_one_dataset_a_batch(root: Path) -> None:
    data = ready(root, eval_batch_size=4)
    loss, prompts = data.val_dataloader()
    for batch in [*prompts, *data.test_dataloader(), *data.predict_dataloader()]:
        assert batch.labels is None
        assert len({sample.dataset for sample in batch.samples}) == 1
    assert all(batch.labels is not None for batch in loss)
    assert sorted(s.id for b in loss for s in b.samples) == sorted(s.id for s in data.samples("val"))


def test_generated_subset_is_small_balanced_and_the_same_each_time(root: Path) -> None:
    data = ready(root, "ks mer24", val_share=0.9, val_generate_per_dataset=3)
    first, second = ([s.id for b in data.val_dataloader()[1] for s in b.samples] for _ in range(2))
    assert first == second
    chosen = [s for b in data.val_dataloader()[1] for s in b.samples if s.dataset == "mer24"]
    assert sorted(s.fields["class_name"] for s in chosen) == ["class0", "class1", "class2"]


def test_balanced_subset_takes_rare_answers_whole() -> None:
    answers = ["common"] * 50 + ["rare"] * 2 + ["some"] * 9
    ids = [str(i) for i in range(len(answers))]
    counts = Counter(answers[i] for i in balanced_subset(ids, answers, 12, seed=0))
    assert counts == {"common": 5, "some": 5, "rare": 2}
    assert balanced_subset(ids, answers, 12, 0) != balanced_subset(ids, answers, 12, 1)
    assert balanced_subset(ids, answers, None, 0) == list(range(61))


def test_row_limit_is_seeded_and_nested_and_keeps_the_sides(root: Path) -> None:
    def ids(limit: int | None, seed: int = 42) -> set[str]:
        datasets = {"s4": replace(DATASETS["s4"], limit=limit)}
        return {s.id for s in ready(root, datasets=datasets, seed=seed).samples("train")}

    assert ids(2) < ids(5) < ids(None)
    assert [len(ids(n)) for n in (2, 5)] == [2, 5]
    assert ids(2) != ids(2, seed=7)


def test_classes_are_filled_in_from_both_manifests(root: Path, tmp_path: Path) -> None:
    assert ready(root, "ks").datasets["ks"].classes == ["class0", "class1", "class2"]
    given = {"ks": replace(DATASETS["ks"], classes=["class2", "class1", "class0"])}
    assert ready(root, datasets=given).datasets["ks"].classes == ["class2", "class1", "class0"]
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    manifest = copy / "AVUIE_2/ks/test.json"
    rows = json.loads(manifest.read_text())
    rows[0]["action"] = "alone"
    manifest.write_text(json.dumps(rows))
    assert ready(copy, "ks").datasets["ks"].classes == ["alone", "class0", "class1", "class2"]


def test_ranks_divide_training_and_evaluation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train: list[str] = []
    tested: list[str] = []
    sizes = set()
    for rank in range(2):
        data = ready(root)
        monkeypatch.setattr(data, "_place", lambda rank=rank: (rank, 2))
        train += [s.id for b in data.train_dataloader() for s in b.samples]
        loader = data.test_dataloader()
        sizes.add(len(loader))
        tested += [s.id for b in loader for s, r in zip(b.samples, b.repeated, strict=True) if not r]
    assert sorted(train) == sorted(s.id for s in data.samples("train"))
    assert sorted(tested) == sorted(s.id for s in data.samples("test"))
    assert len(sizes) == 1


def test_answered_samples_are_left_out_of_a_resumed_test(root: Path) -> None:
    data = ready(root, "ks mer24")
    done = data.samples("test")[0].id
    data.test_skip_ids = frozenset([done])
    left = {s.id for b in data.test_dataloader() for s in b.samples}
    assert left == {s.id for s in data.samples("test")} - {done}
    assert done in {s.id for b in data.predict_dataloader() for s in b.samples}


def test_mixture_is_told_in_numbers_and_as_a_table(root: Path) -> None:
    datasets = {"ks": replace(DATASETS["ks"], weight=3.0), "mer24": replace(DATASETS["mer24"], weight=1.0)}
    data = ready(root, datasets=datasets, epoch_size=40)
    columns = {str(column.header): list(column.cells) for column in data.mixture_table().columns}
    assert columns["dataset"] == ["ks", "mer24"]
    assert [columns[name][0] for name in ("task", "weight", "share", "drawn")] == [
        "recognition", "3", "75.0 %", "30.0",
    ]  # fmt: skip
    assert (int(columns["train"][0]) + int(columns["val"][0]), columns["test"][0]) == (9, "3")
    assert columns["test"][1] == f"{columns['val'][1]}*"
    out = StringIO()
    Console(width=120, file=out).print(data.mixture_table())
    text = " ".join(out.getvalue().split())
    for words in ("40 samples an epoch", "recognition", "75.0 %", "25.0 %", "tested on the validation rows"):
        assert words in text


def test_weights_decide_what_is_drawn(root: Path) -> None:
    datasets = {"ks": replace(DATASETS["ks"], weight=3.0), "mer24": replace(DATASETS["mer24"], weight=1.0)}
    loader = ready(root, datasets=datasets, epoch_size=40).train_dataloader()
    drawn = Counter(s.dataset for batch in loader for s in batch.samples)
    assert drawn == {"ks": 30, "mer24": 10}


def spec(**fields: Any) -> dict[str, DatasetSpec]:
    return {"ks": replace(DATASETS["ks"], **fields)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"datasets": {}}, "data.datasets is empty"),
        (
            {"datasets": spec(task="recognise")},
            r"data\.datasets\.ks\.task is 'recognise'.*; data\.tasks has: listening, localiz",
        ),
        (
            {"datasets": spec(layout="kss")},
            r"data\.datasets\.ks\.layout is 'kss' \(did you mean 'ks'\?\); known layouts: .*a2v, arig",
        ),
        ({"datasets": spec(limit=0)}, r"data\.datasets\.ks\.limit is 0"),
        ({"datasets": spec(frames=0)}, r"data\.datasets\.ks\.frames is 0"),
        ({"datasets": spec(weight=-2.0)}, r"data\.datasets\.ks\.weight is -2"),
        ({"datasets": spec(target=1.5)}, r"data\.datasets\.ks\.target is 1\.5"),
        ({"datasets": {"a/b": DATASETS["ks"]}}, "data.datasets has the key 'a/b'"),
        ({"val_share": 1.0}, r"data\.val_share is 1\.0"),
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"temperature": 0.0}, r"data\.temperature is 0"),
    ],
)
def test_senseless_config_is_refused_by_key_before_anything_is_read(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        module(Path("nowhere"), **options)


def test_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"data\.datasets\.ks"):
        ready(tmp_path, "ks")


def test_processor_of_another_geometry_is_refused(root: Path) -> None:
    data = ready(root, "ks")
    data.processor = Letters("plain")
    with pytest.raises(
        ValueError, match=r"data\.geometry is 'released', but the model's processor is made for 'plain'"
    ):
        data.train_dataloader()


def test_processor_is_asked_for_without_a_trainer(root: Path) -> None:
    data = AVDataModule(root, TASKS, DATASETS)
    with pytest.raises(RuntimeError, match=r"set datamodule\.processor"):
        _ = data.processor
    with pytest.raises(RuntimeError, match=r"call datamodule\.setup"):
        data.samples("train")


def test_samples_beside_the_splits_are_loaded_with_every_setting_of_the_data_section(
    root: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "resize": "swscale",
        "limits": MediaLimits(pixels=2**20),
        "load_timeout_s": 7.0,
        "geometry": "plain",
        "drop_modality": "audio",
        "seed": 3,
    }
    data = ready(root, "ks", cache=tmp_path / "cache", **settings)
    (test, split) = data.dataset(data.samples("test")), data.test_dataloader().dataset
    names = "resize limits timeout_s geometry drop_modality seed cache with_target"
    for name in names.split():
        assert getattr(test, name) is getattr(split, name), name
    assert test.cache is not None
    assert test[0].inputs["facts"][0] == 0  # silence: the dropped modality is dropped here too


def test_only_the_data_module_builds_its_dataset() -> None:
    source = Path(crab_lightning.__file__).parent
    built = [path.name for path in source.rglob("*.py") if "AVDataset(" in path.read_text(encoding="utf-8")]
    assert sorted(built) == ["dataset.py", "sample_loading.py"]


def test_another_order_keeps_rows_and_split(root: Path) -> None:
    plain, other = ready(root), ready(root, order_seed=7)
    assert plain.samples("val") == other.samples("val")
    orders = [[s.id for batch in data.train_dataloader() for s in batch.samples] for data in (plain, other)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    same = ready(root, order_seed=plain.seed)
    assert [s.id for batch in same.train_dataloader() for s in batch.samples] == orders[0]
