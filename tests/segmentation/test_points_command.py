from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crab_lightning.builder.points import SPATIAL
from crab_lightning.commands import main
from crab_lightning.data import read_manifest
from crab_lightning.media import read_mask
from crab_lightning.segmentation import prompt_of
from crab_lightning.structures import DatasetSpec
from crab_lightning.tasks import ImageGrounding, ReferringSegmentation, Segmentation
from crab_lightning.tasks.masks import find_mask

KEYS = {"s4": "label_content", "ms3": "label_content", "arig": "label_content", "ref_avs": "output"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the spatial datasets of Mini AV-UIE alone."""
    from crab_lightning.mini.world.datasets import make_item, row_of
    from crab_lightning.mini.world.tree import write_files

    base = tmp_path_factory.mktemp("points") / "AVUIE_2"
    for name in SPATIAL:
        items = [make_item(name, "train", i, 0) for i in range(3)]
        for item in items:
            files = tuple(f for f in item.files if f.kind in ("image", "mask"))
            for folder in {(base / f.path).parent for f in files}:
                folder.mkdir(parents=True, exist_ok=True)
            write_files(base, files)
        (base / name).mkdir(parents=True, exist_ok=True)
        # As released: in the right form, but not the points that the masks give.
        text = re.sub(r"\[\d+,\d+\]", "[1,1]", json.dumps([row_of(item) for item in items]))
        (base / name / "train.json").write_text(text)
    shutil.copytree(base / "s4" / "AVS", base / "arig" / "AVS", dirs_exist_ok=True)
    return base.parent


def rows(root: Path, name: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((root / "AVUIE_2" / name / "train.json").read_text())
    return content


def test_without_write_nothing_changes(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in tree.rglob("*.json")}
    assert main(["data", "points", "--root", str(tree)]) == 0
    said = capsys.readouterr().out
    assert "s4: 3 rows: " in said
    assert "before: " in said
    assert "Nothing was written. Add --write to write the files." in said
    assert {p: p.read_bytes() for p in tree.rglob("*.json*")} == before


def test_written_text_teaches_what_the_masks_give(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(tree, root)
    assert main(["data", "points", "--root", str(root), "--write"]) == 0
    for name, task in (("s4", Segmentation()), ("ms3", Segmentation()), ("ref_avs", ReferringSegmentation())):
        spec = DatasetSpec(task="t", layout=name)
        for sample in read_manifest(root, name, spec, "train", check_media=False):
            file, truth = find_mask(sample), task.truth(sample, spec)
            assert file is not None
            assert truth is not None
            made = prompt_of(read_mask(file).numpy())
            if made is None:
                assert truth.absent
            else:
                assert (truth.box_xyxy_px, truth.points_xy_px) == (made.box_xyxy_px, made.points_xy_px)
    spec = DatasetSpec(task="t", layout="arig")
    for sample, old in zip(
        read_manifest(root, "arig", spec, "train", check_media=False), rows(tree, "arig"), strict=True
    ):
        # the mini world's boxes are exact already
        assert sample.target == old["label_content"]
        assert ImageGrounding().truth(sample, spec) is not None
    kept = [row | {KEYS["s4"]: ""} for row in rows(root, "s4")]
    assert kept == [row | {KEYS["s4"]: ""} for row in rows(tree, "s4")]
    assert (root / "AVUIE_2" / "s4" / "train.json.before_points").read_bytes() == (
        tree / "AVUIE_2" / "s4" / "train.json"
    ).read_bytes()
    once = (root / "AVUIE_2" / "s4" / "train.json").read_bytes()
    assert main(["data", "points", "--root", str(root), "--write"]) == 0
    assert (root / "AVUIE_2" / "s4" / "train.json").read_bytes() == once


def test_the_words_of_a_text_stay(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(tree, root)
    main(["data", "points", "--root", str(root), "--only", "s4", "--write"])
    for old, new in zip(rows(tree, "s4"), rows(root, "s4"), strict=True):
        cut = old["label_content"].index("[")
        assert new["label_content"][:cut] == old["label_content"][:cut]


def test_texts_without_coordinates_and_other_frames(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(tree, root)
    path = root / "AVUIE_2" / "s4" / "train.json"
    path.write_text(json.dumps([row | {"label_content": "?"} for row in rows(root, "s4")]))
    assert main(["data", "points", "--root", str(root), "--only", "s4", "--frame", "112", "--write"]) == 0
    spec = DatasetSpec(task="t", layout="s4")
    for sample in read_manifest(root, "s4", spec, "train", check_media=False):
        made = prompt_of(read_mask(find_mask(sample), 112).numpy())  # type: ignore[arg-type]
        truth = Segmentation().truth(sample, spec)
        assert truth is not None
        assert made is not None
        assert truth.box_xyxy_px == made.box_xyxy_px
        assert str(sample.target).startswith(f"The object making the sound is the {sample.fields['object']}.")


def test_empty_and_missing_masks_are_said(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    shutil.copytree(tree, root)
    spec = DatasetSpec(task="t", layout="s4")
    first, second, _ = read_manifest(root, "s4", spec, "train", check_media=False)
    Image.fromarray(np.zeros((224, 224), np.uint8)).save(find_mask(first))  # type: ignore[arg-type]
    assert main(["data", "points", "--root", str(root), "--only", "s4"]) == 0
    assert "1 left alone: the mask is empty" in capsys.readouterr().out
    find_mask(second).unlink()  # type: ignore[union-attr]
    assert main(["data", "points", "--root", str(root), "--only", "s4"]) == 1
    assert "train.json, row 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "points", "--root", str(root), "--datasets", "ave"])  # the old name
    assert "--datasets is the old name of --only" in (said := capsys.readouterr().err)
    assert "--only names ave; there are: s4, ms3, ref_avs, arig" in said
    assert main(["data", "points", "--root", str(tmp_path)]) == 1
    assert "there is no AVUIE_2/<dataset>/train.json of s4, ms3, ref_avs, arig" in capsys.readouterr().err
