"""``Trainer.test`` from answer text to metrics.json, with decoders whose masks are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from crab_lightning.evaluation import Evaluator
from crab_lightning.evaluation.scores import make_ready
from crab_lightning.segmentation import MaskRequest
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks import ImageGrounding, ReferringSegmentation, Segmentation
from crab_lightning.tasks.segmentation import BOXES_ALONE, NO_MASKS
from tests.evaluation.fakes import Parrot, Rows
from tests.metrics.oracle import approx, mask, oracle_cases
from tests.quiet import quiet_trainer

VALID = "<answer>true</answer> [0,0,9,9],[1,1],[2,2],[3,3]"


class Rectangle:
    """The box filled, or the points alone."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def decode(self, requests: Sequence[MaskRequest]) -> list[Tensor]:
        self.calls.append(len(requests))
        masks = []
        for request in requests:
            found = torch.zeros(request.image.shape[-2:], dtype=torch.bool)
            if (box := request.prompt.box_xyxy_px) is not None:
                x1, y1, x2, y2 = (int(side) for side in box)
                found[y1 : y2 + 1, x1 : x2 + 1] = True
            else:
                for x, y in request.prompt.points_xy_px:
                    found[int(y), int(x)] = True
            masks.append(found)
        return masks


class Replay:
    """Gives stored masks or logits; the grey level of an image is its number."""

    def __init__(self, masks: list[Tensor]) -> None:
        self.masks = masks

    def decode(self, requests: Sequence[MaskRequest]) -> list[Tensor]:
        return [self.masks[int(request.image[0, 0, 0])] for request in requests]


def write_png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def row(
    root: Path,
    index: int,
    says: str,
    truth: Tensor | None,
    clip: str = "clip",
    subset: str | None = None,
    truncated: bool = False,
) -> Sample:
    """A test sample whose image has the grey level ``index``."""
    shape = (224, 224) if truth is None else tuple(truth.shape)
    place = root / "AVUIE_2" / "s4" / "AVS" / "v1s" / clip
    image = write_png(place / "frames" / f"{index}.png", np.full((*shape, 3), index, np.uint8))
    file = place / "labels_rgb" / f"{index}.png"
    if truth is not None:
        write_png(file, truth.numpy().astype(np.uint8) * 200)
    fields: dict[str, Any] = {
        "says": says,
        "truncated": truncated,
        "expression": "it",
        "mask_candidates": (file,),
    }
    if subset is not None:
        fields["subset"] = subset
    return Sample(
        id=f"spatial/{index}", dataset="spatial", task="spatial", split="test", clip=f"AVS/v1s/{clip}",
        images=(image,), fields=fields, row=index,
    )  # fmt: skip


def run_test(
    folder: Path,
    task: Any,
    rows: list[Sample],
    metrics: list[str] | None = None,
    *,
    print_table: bool = False,
    model: Parrot | None = None,
) -> dict[str, Any]:
    """Return the dataset's entry in metrics.json after ``Trainer.test``."""
    data = Rows({"train": [], "val": [], "test": rows})
    data.tasks = {"spatial": task}
    data.datasets = {"spatial": DatasetSpec(task="spatial", layout="s4", metrics=metrics)}
    trainer = quiet_trainer(folder, callbacks=[Evaluator(print_table=print_table)])
    trainer.test(model or Parrot(), data, verbose=False)
    content = json.loads((folder / "metrics.json").read_text())
    return dict(content["test"]["datasets"]["spatial"])


def box_mask(box: list[int] | None) -> Tensor:
    frame = torch.zeros(224, 224, dtype=torch.bool)
    if box is not None:
        frame[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    return frame


@pytest.mark.parametrize("case", oracle_cases("seg_pipeline_crabplus"))
def test_answers_to_masks_to_means_as_the_released_pipeline(case: dict[str, Any], tmp_path: Path) -> None:
    inputs, expected = case["inputs"], case["expected"]
    null = inputs.get("split") == "test_n" or "mean_s_metric" in expected
    rows = [
        row(tmp_path, i, item["text"], box_mask(item["gt_box"]), subset="test_n" if null else None)
        for i, item in enumerate(inputs["items"])
    ]
    task = Segmentation if inputs["variant"] == "s4_ms3" else ReferringSegmentation
    result = run_test(tmp_path, task(mask_decoder=Rectangle()), rows)
    found, tolerance = result["valid_only"], case["tolerance"]
    assert result["counts"]["unparsed"] == len(expected["invalid"])
    if expected.get("no_result"):
        assert found["crabplus_j"] is None
    elif null:
        assert found["crabplus_null_s"] == approx(expected["mean_s_metric"], tolerance)
        assert found["crabplus_null_s_infinite"] == expected["infinite_s_metric_count"]
    else:
        assert found["crabplus_j"] == approx(expected["mean_jaccard"], tolerance)
        assert found["crabplus_f"] == approx(expected["mean_f_score"], tolerance)
        missed = len(expected["invalid"])
        share = (len(rows) - missed) / len(rows)
        assert result["strict"]["crabplus_j"] >= expected["mean_jaccard"] * share - 1e-9


@pytest.mark.parametrize("case", oracle_cases("avs_jf_crabplus"))
def test_binary_masks_score_as_the_oracle(case: dict[str, Any], tmp_path: Path) -> None:
    shape, expected = case["inputs"]["shape"], case["expected"]
    masks = [mask(runs, shape) for runs in case["inputs"]["pred"]]
    rows = [row(tmp_path, i, VALID, mask(runs, shape)) for i, runs in enumerate(case["inputs"]["gt"])]
    result = run_test(tmp_path, Segmentation(mask_decoder=Replay(masks), mask_size="native"), rows)
    for protocol in ("strict", "valid_only"):
        assert result[protocol]["crabplus_native_j"] == approx(expected["J"], case["tolerance"])
        assert result[protocol]["crabplus_native_f"] == approx(expected["F"], case["tolerance"])


def decoded(entry: Any, shape: list[int]) -> Tensor:
    return torch.tensor(entry["logits"]) if isinstance(entry, dict) else 20.0 * mask(entry, shape) - 10


@pytest.mark.parametrize("case", oracle_cases("avs_jf_official"))
def test_probabilities_score_as_the_oracle_one_clip_a_batch(case: dict[str, Any], tmp_path: Path) -> None:
    inputs, expected, tolerance = case["inputs"], case["expected"], case["tolerance"]
    logits: list[Tensor] = []
    rows = []
    for number, batch in enumerate(inputs["batches"]):
        for entry, runs in zip(batch["pred"], batch["gt"], strict=True):
            rows.append(row(tmp_path, len(logits), VALID, mask(runs, inputs["shape"]), clip=f"clip{number}"))
            logits.append(decoded(entry, inputs["shape"]))
    task = Segmentation(mask_decoder=Replay(logits), mask_size="native")
    # Frames of different clips arrive mixed, as a sampler sorted by length brings them.
    found = run_test(tmp_path, task, rows[::2] + rows[1::2], ["avsbench", "framewise"])["strict"]
    assert found["avsbench_native_j"] == approx(expected["avsbench"]["J"], tolerance)
    assert found["avsbench_native_f"] == approx(expected["avsbench"]["F"], tolerance)
    assert found["avsbench_native_frames_per_batch"] == pytest.approx(len(rows) / len(inputs["batches"]))
    assert found["framewise_native_j"] == approx(expected["framewise"]["J"], tolerance)
    assert found["framewise_native_f"] == approx(expected["framewise"]["F"], tolerance)


def test_test_killed_within_a_clip_scores_the_clip_as_one(tmp_path: Path) -> None:
    rows = []
    for i in range(6):
        truth = torch.zeros(224, 224, dtype=torch.bool)
        truth[20:100, 30 : 150 - 10 * i] = True
        rows.append(
            row(tmp_path / "media", i, f"[{9 * i},9,120,{90 + i}],[20,20]", truth, clip=f"clip{i % 2}")
        )
    task = Segmentation(mask_decoder=Rectangle())
    whole = run_test(tmp_path / "whole", task, rows, ["avsbench"])
    with pytest.raises(RuntimeError, match="killed"):
        run_test(tmp_path / "killed", task, rows, ["avsbench"], model=Parrot(die_after=2))
    again = Parrot()
    assert run_test(tmp_path / "killed", task, rows, ["avsbench"], model=again) == whole
    assert len(again.asked) == 4
    assert whole["strict"]["avsbench_frames_per_batch"] == 3
    assert 0 < whole["strict"]["avsbench_f"] < 1


@pytest.mark.parametrize("case", oracle_cases("refavs_official"))
def test_referred_objects_score_as_the_oracle(case: dict[str, Any], tmp_path: Path) -> None:
    inputs, expected, tolerance = case["inputs"], case["expected"], case["tolerance"]
    null = inputs["mode"] == "null"
    logits = [torch.tensor(frame) for batch in inputs["batches"] for frame in batch["logits"]]
    rows = []
    for number, batch in enumerate(inputs["batches"]):
        for i in range(len(batch["logits"])):
            blank = torch.zeros(inputs["shape"], dtype=torch.bool)
            truth = blank if null else mask(batch["gt"][i], inputs["shape"])
            subset = "test_n" if null else "test_s"
            rows.append(row(tmp_path, len(rows), VALID, truth, f"clip{number}", subset))
    task = ReferringSegmentation(mask_decoder=Replay(logits), mask_size="native")
    found = run_test(tmp_path, task, rows, ["crabplus", "framewise", "refavs"])["strict"]
    if null:
        assert found["refavs_native_null_s"] == approx(expected["S_refavs"], tolerance)
        assert found["framewise_native_null_s"] == approx(expected["S_crab_framewise"], tolerance)
        assert found["crabplus_native_null_s"] == approx(expected["S_crabplus"], tolerance)
        assert found["refavs_native_j"] is None
    else:
        for key in ("j", "f"):
            assert found[f"refavs_native_{key}"] == approx(expected[key.upper()], tolerance)
            assert found[f"refavs_native_seen_{key}"] == approx(expected[key.upper()], tolerance)
        assert found["refavs_native_unseen_j"] is None


def test_strict_scores_what_valid_only_leaves_out(tmp_path: Path) -> None:
    truth = box_mask([20, 30, 100, 120])
    good = "[20,30,100,120],[50,50]"
    rows = [
        row(tmp_path, 0, good, truth),
        row(tmp_path, 1, "no idea", truth),
        row(tmp_path, 2, good, truth, truncated=True),
    ]
    result = run_test(tmp_path, Segmentation(mask_decoder=Rectangle()), rows)
    assert result["strict"]["crabplus_j"] == pytest.approx(2 / 3)
    assert result["valid_only"]["crabplus_j"] == 1.0
    assert result["strict"]["iou"] == pytest.approx(2 / 3)
    assert result["headline"] == "crabplus_j"
    assert result["note"] is None


def test_masks_lie_where_the_dataset_has_its_own(tmp_path: Path) -> None:
    truth = box_mask([20, 30, 100, 120])
    rows = [
        row(tmp_path / "data", 0, "[20,30,100,120],[50,50]", truth),
        row(tmp_path / "data", 1, "?", truth),
    ]
    run_test(tmp_path / "run", Segmentation(mask_decoder=Rectangle()), rows)
    folder = tmp_path / "run" / "masks" / "spatial" / "AVS" / "v1s" / "clip" / "labels_rgb"
    saved = [np.array(Image.open(folder / f"{i}.png")) for i in (0, 1)]
    assert [s.dtype for s in saved] == [np.uint8] * 2
    assert np.array_equal(saved[0], truth.numpy() * np.uint8(255))
    assert not saved[1].any()


def test_answers_of_a_batch_are_decoded_together_and_once(tmp_path: Path) -> None:
    rows = [row(tmp_path, i, f"[{i},30,100,120],[50,50]", box_mask([20, 30, 100, 120])) for i in range(5)]
    decoder = Rectangle()
    run_test(tmp_path, Segmentation(mask_decoder=decoder), rows)
    assert decoder.calls == [2, 2, 1]


def test_without_a_decoder_boxes_are_scored_and_the_result_says_so(tmp_path: Path) -> None:
    rows = [row(tmp_path, 0, "[20,30,100,120],[50,50]", box_mask([20, 30, 100, 120]))]
    result = run_test(tmp_path, Segmentation(), rows)
    assert result["strict"] == {"iou": 1.0, "auc": 1.0, "success_at_50": 1.0}
    assert result["headline"] == "iou"
    assert result["note"] == NO_MASKS
    assert not (tmp_path / "masks").exists()


def absent(reason: str = "no such weights") -> Any:
    """Return a decoder whose weights are not there."""

    class Absent(Rectangle):
        def load(self) -> None:
            raise FileNotFoundError(reason)

    return Absent()


def test_without_weights_boxes_are_scored_where_that_is_allowed_and_the_table_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row(tmp_path, 0, "[20,30,100,120],[50,50]", box_mask([20, 30, 100, 120]))]
    task = Segmentation(mask_decoder=absent(), mask_decoder_optional=True)
    with caplog.at_level("INFO"):
        result = run_test(tmp_path, task, rows, print_table=True)
    assert result["strict"] == {"iou": 1.0, "auc": 1.0, "success_at_50": 1.0}
    assert result["headline"] == "iou"
    said = f"{BOXES_ALONE}: the weights of the mask decoder cannot be loaded (no such weights)"
    assert result["note"] == said
    assert [r.message for r in caplog.records if BOXES_ALONE in r.message] == [f"data.tasks.spatial: {said}"]
    assert f"spatial: {said}" in " ".join(capsys.readouterr().out.split())


def test_weights_that_one_process_lacks_are_used_by_none() -> None:
    task = Segmentation(mask_decoder=Rectangle(), mask_decoder_optional=True)
    make_ready({"spatial": task}, lambda here: True)
    assert task.masks is None
    assert "on another process" in str(task.note(DatasetSpec(task="spatial", layout="s4")))


def test_weights_that_are_needed_end_the_run_before_it_begins(tmp_path: Path) -> None:
    rows = [row(tmp_path, 0, "[20,30,100,120],[50,50]", box_mask([20, 30, 100, 120]))]
    with pytest.raises(FileNotFoundError, match="no such weights"):
        run_test(tmp_path, Segmentation(mask_decoder=absent()), rows)


def test_validation_row_that_teaches_absence_is_scored_by_s_without_a_mask_file(tmp_path: Path) -> None:
    sample = row(tmp_path, 0, "<answer>true</answer> [20,30,100,120],[50,50]", None)
    sample = replace(sample, split="val", target="<answer>false</answer>")
    spec = DatasetSpec(task="spatial", layout="ref_avs")
    task = ReferringSegmentation(mask_decoder=Rectangle())
    task.check([sample], spec)
    metrics = task.metrics(spec)
    task.update(metrics, task.parse(sample.fields["says"], sample, spec), sample, spec)
    found = metrics.compute()
    assert found["crabplus_null_s"] > 0
    assert found["crabplus_j"].isnan()


def test_prompts_of_the_frame_are_scaled_to_a_native_image(tmp_path: Path) -> None:
    truth = torch.zeros(448, 672, dtype=torch.bool)
    truth[60:242, 60:303] = True
    rows = [row(tmp_path, 0, "[20,30,100,120],[50,50]", truth)]
    result = run_test(tmp_path, Segmentation(mask_decoder=Rectangle(), mask_size="native"), rows)
    assert result["strict"]["crabplus_native_j"] == 1.0


def test_absence_is_an_empty_mask_and_null_answers_score_s(tmp_path: Path) -> None:
    truth = box_mask([20, 30, 100, 120])
    rows = [
        row(tmp_path, 0, "<answer>false</answer>", truth, subset="test_s"),
        row(tmp_path, 1, "<answer>true</answer> [20,30,100,120]", truth, subset="test_u"),
        row(tmp_path, 2, "<answer>false</answer>", None, subset="test_n"),
    ]
    found = run_test(tmp_path, ReferringSegmentation(mask_decoder=Rectangle()), rows)["strict"]
    assert (found["crabplus_seen_j"], found["crabplus_unseen_j"], found["crabplus_j"]) == (0.0, 1.0, 0.5)
    assert found["crabplus_null_s"] == 0.0


def test_a_missing_mask_is_named_with_its_row(tmp_path: Path) -> None:
    sample = row(tmp_path, 7, VALID, None)
    task = Segmentation(mask_decoder=Rectangle())
    spec = DatasetSpec(task="spatial", layout="s4")
    with pytest.raises(
        FileNotFoundError, match=r"spatial/7 \(row 7 of spatial\): there is no mask at .*7.png"
    ):
        task.check([sample], spec)
    with pytest.raises(ValueError, match="mask_size is 'full'; it must be frame or native"):
        Segmentation(mask_decoder=Rectangle(), mask_size="full")  # type: ignore[arg-type]


def test_the_ceiling_is_what_true_prompts_give(tmp_path: Path) -> None:
    truth = box_mask([20, 30, 100, 120])
    truth[30:40, 20:30] = False  # a decoder that fills boxes cannot have that corner
    rows = [row(tmp_path, 0, "nothing", truth), row(tmp_path, 1, "[20,30,60,120],[50,50]", truth)]
    found = run_test(tmp_path, Segmentation(mask_decoder=Rectangle(), ceiling=True), rows)["strict"]
    assert found["crabplus_ceiling_j"] == pytest.approx(int(truth.sum()) / (81 * 91))
    assert found["crabplus_j"] < found["crabplus_ceiling_j"] / 2


def test_grounded_boxes_leave_masks_and_the_box_score(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, i, says, None) for i, says in enumerate(["<obj>(20,30)(100,120)</obj>", "(9,9)(3,300)"])
    ]
    for sample in rows:
        sample.fields["box_xyxy_px"] = (20, 30, 100, 120)  # type: ignore[index]
    result = run_test(tmp_path / "run", ImageGrounding(mask_decoder=Rectangle()), rows)
    assert result["strict"]["iou"] == 0.5
    folder = tmp_path / "run" / "masks" / "spatial" / "AVS" / "v1s" / "clip" / "labels_rgb"
    assert np.array_equal(np.array(Image.open(folder / "0.png")) > 0, box_mask([20, 30, 100, 120]).numpy())
    assert not np.array(Image.open(folder / "1.png")).any()


def test_share_of_unread_answers_in_the_null_subset_is_shown(tmp_path: Path) -> None:
    said = ["no idea", "<answer>false</answer>", "nothing", "<answer>true</answer> [10,10,50,50]"]
    rows = [row(tmp_path, i, text, None, subset="test_n") for i, text in enumerate(said)]
    result = run_test(tmp_path, ReferringSegmentation(mask_decoder=Rectangle()), rows)
    assert result["strict"]["null_unread"] == 0.5
    assert result["counts"]["unparsed"] == 2
    assert "null_unread is the fraction" in result["note"]
