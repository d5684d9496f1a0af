"""The published frames and masks of three spatial datasets, from training text to scored masks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crab_lightning.commands import main
from crab_lightning.data import read_manifest
from crab_lightning.media import read_mask
from crab_lightning.segmentation import prompt_of, prompt_text
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks import ReferringSegmentation, Segmentation
from crab_lightning.tasks.masks import find_mask
from tests.segmentation.test_test_loop import Rectangle, run_test

TASKS = {"s4": Segmentation, "ms3": Segmentation, "ref_avs": ReferringSegmentation}
PLACES = {
    "s4": "AVS/v1s/*/labels_rgb/*.png",
    "ms3": "AVS/v1m/*/labels_rgb/*.png",
    "ref_avs": "REFAVS/gt_mask/*/fid_*/*.png",
}


def told(sample: Sample) -> Sample:
    """A model that answers with the prompt of the true mask."""
    file = find_mask(sample)
    assert file is not None
    prompt = prompt_of(read_mask(file).numpy())
    assert prompt is not None
    says = "<answer>true</answer> " + " ".join(prompt_text(prompt))
    return replace(
        sample, dataset="spatial", task="spatial", fields={**sample.fields, "says": says, "truncated": False}
    )


@pytest.mark.parametrize("size", ["frame", "native"])
@pytest.mark.parametrize("dataset", TASKS)
def test_true_prompts_of_real_masks_score_as_their_boxes(
    dataset: str, size: str, real_clips: Path, tmp_path: Path
) -> None:
    spec = DatasetSpec(task="spatial", layout=dataset)
    rows = [told(sample) for sample in read_manifest(real_clips, dataset, spec, "test")]
    task = TASKS[dataset](mask_decoder=Rectangle(), mask_size=size)  # type: ignore[arg-type]
    found = run_test(tmp_path, task, rows)["strict"]
    assert found["iou"] == 1.0
    label = "crabplus" if size == "frame" else "crabplus_native"
    truth = read_mask(find_mask(rows[0]), 224 if size == "frame" else None)  # type: ignore[arg-type]
    ys, xs = np.nonzero(truth.numpy())
    filled = len(xs) / ((xs.max() - xs.min() + 1) * (ys.max() - ys.min() + 1))
    assert found[f"{label}_j"] == pytest.approx(filled, abs=0.02)  # coordinates are whole pixels of the frame
    (saved,) = (tmp_path / "masks" / "spatial").glob(PLACES[dataset])
    assert Image.open(saved).size == tuple(truth.shape[::-1])


def test_training_text_is_rebuilt_from_real_masks(
    real_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(real_clips, tmp_path / "root")
    words = ["data", "points", "--root", str(tmp_path / "root"), "--only", "s4,ms3,ref_avs"]
    assert main([*words, "--write"]) == 0
    for dataset, task in TASKS.items():
        spec = DatasetSpec(task="spatial", layout=dataset)
        for sample in read_manifest(tmp_path / "root", dataset, spec, "train"):
            truth = task().truth(sample, spec)
            mask = read_mask(find_mask(sample)).numpy()  # type: ignore[arg-type]
            assert truth is not None
            assert all(mask[y, x] for x, y in truth.points_xy_px)
    assert main(["data", "points", "--root", str(tmp_path / "root"), "--only", "arig"]) == 1
    assert "the image has no mask" in capsys.readouterr().err  # arig came without


@pytest.mark.slow
def test_real_clips_are_learnt_tested_and_drawn(real_clips: Path, tmp_path: Path) -> None:
    """Training text from masks, fit, test with masks, pictures: one clip of each set, learnt by heart."""
    root, run = tmp_path / "root", tmp_path / "run"
    shutil.copytree(real_clips, root)
    assert main(["data", "points", "--root", str(root), "--only", *TASKS, "--write"]) == 0
    words = ["--config", "demo.yaml", "--data.root", str(root), "--only", f"{','.join(TASKS)},arig"]
    words += ["--data.num_workers", "0", "--run.folder", str(run)]
    steps = ["--data.epoch_size", "160", "--trainer.max_epochs", "1", "--trainer.callbacks", "[]"]
    assert main(["fit", *words, *steps]) == 0
    assert main(["test", *words, "--ckpt_path", str(run)]) == 0
    results = json.loads((run / "metrics.json").read_text())["test"]["datasets"]
    assert set(results) == {*TASKS, "arig"}
    assert np.mean([entry["strict"]["iou"] for entry in results.values()]) > 0.6
    for dataset, place in PLACES.items():
        assert results[dataset]["strict"]["crabplus_ceiling_j"] > 0
        assert len(list((run / "masks" / dataset).glob(place))) == 1
        assert (run / "figures" / f"{dataset}_masks.png").is_file()
