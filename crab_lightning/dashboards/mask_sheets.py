"""Pictures of the masks of a test: a sheet with the best, median and worst answers of each dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from crab_lightning.compat import datamodule_of
from crab_lightning.dashboards.figures.sheet import cut
from crab_lightning.evaluation.prediction_files import read_records
from crab_lightning.metrics.mask_scores import binary_scores
from crab_lightning.runs.boards import log_picture
from crab_lightning.runs.folder_callback import folder_of
from crab_lightning.segmentation.overlays import (
    Overlay,
    best_median_worst,
    contact_sheet,
    overlay_figure,
    save_figure,
)
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.segmentation import Segmentation


class MaskSheets(Callback):
    """Draws pictures of masks after a test, from the predictions that the Evaluator wrote.

    It writes the sheet ``figures/<dataset>_masks.png`` and single pictures
    ``figures/<dataset>/<row>_<number>.png`` into the run folder, and logs the sheet as
    ``test/<task>/<dataset>/masks``. Tasks without a mask decoder have no sheet. Only the first process draws.

    Args:
        each: Number of answers in each row of the sheet.
    """

    def __init__(self, each: int = 3) -> None:
        self.each = each

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the sheets on the first process."""
        folder = folder_of(trainer)  # a collective call, so every process makes it
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        data: Any = datamodule_of(trainer)
        samples = {sample.id: sample for sample in data.samples("test")}
        for name, spec in data.datasets.items():
            task, answers = data.tasks[spec.task], folder / "predictions" / f"{name}.jsonl"
            if not isinstance(task, Segmentation) or task.masks is None or not answers.is_file():
                continue
            records = [r for r in read_records(answers) if r["score"] is not None and r["id"] in samples]
            if not records:
                continue
            figure = self._sheet(records, samples, task, spec, folder / "figures" / name)
            path = save_figure(figure, folder / "figures" / f"{name}_masks.png")
            rank_zero_info(f"{name}: overlays are in {path}")
            tag = f"test/{spec.task}/{name}/masks"
            log_picture(trainer.loggers, tag, path.read_bytes(), trainer.global_step)

    def _sheet(
        self,
        records: list[dict[str, Any]],
        samples: dict[str, Sample],
        task: Segmentation,
        spec: DatasetSpec,
        folder: Path,
    ) -> Any:
        rows = []
        for name, chosen in best_median_worst([r["score"] for r in records], self.each).items():
            overlays = [_overlay(records[i], samples[records[i]["id"]], task, spec) for i in chosen]
            for number, overlay in enumerate(overlays):
                save_figure(overlay_figure(overlay), folder / f"{name}_{number}.png")
            rows.append((name, overlays))
        mean = sum(r["score"] for r in records) / len(records)
        return contact_sheet(
            [row for row in rows if row[1]],
            f"{records[0]['dataset']}: {len(records)} answers, mean J {100 * mean:.1f}",
        )


def _overlay(record: dict[str, Any], sample: Sample, task: Segmentation, spec: DatasetSpec) -> Overlay:
    assert task.masks is not None  # there are sheets only for tasks with a mask decoder
    answer = task.parse(record["answer"], sample, spec)
    picture, truth = task.masks.picture(sample), task.masks.truth(sample)
    pred = task.masks.mask(answer, sample, truth)
    pred = pred if pred.dtype == torch.bool else pred > 0
    jaccard, f_score = (float(value) for value in binary_scores(pred[None], truth[None]))
    if picture.shape[-2:] != truth.shape:  # native masks may have another size than their frame
        picture = torch.nn.functional.interpolate(picture[None].float(), truth.shape)[0].to(torch.uint8)
    prompt = None if answer is None or answer.absent else task.masks.prompt(answer, picture)
    subject = sample.fields.get("expression") or sample.fields.get("object") or ""
    said = "unreadable: " if answer is None else ""
    return Overlay(
        picture, pred, truth, prompt,
        title=cut(f"{Path(sample.clip).name}  {subject}", 40),
        scores={"J": jaccard, "F": f_score},
        note=said + _end(record["answer"].replace("\n", " "), 120),
    )  # fmt: skip


def _end(text: str, length: int) -> str:
    """Return the last words of a long text, because coordinates are at the end of an answer."""
    return text if len(text) <= length else "… " + text[-length + 2 :].partition(" ")[2]
