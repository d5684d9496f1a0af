"""Draws the pictures of a run: fixed samples of each task, confusion matrices, routes, answers as text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from crab_lightning.compat import callbacks_of, datamodule_of
from crab_lightning.dashboards.figures import clips, matrices, spatial
from crab_lightning.dashboards.figures.media import ClipMedia, load
from crab_lightning.dashboards.figures.sheet import png, verdict
from crab_lightning.dashboards.routing import RouteMeans
from crab_lightning.data.loading import heard_window
from crab_lightning.data.sampling.seeding import stable_hash
from crab_lightning.evaluation.evaluator import Evaluator
from crab_lightning.evaluation.prediction_files import Record, read_records
from crab_lightning.files import replace_bytes
from crab_lightning.runs.boards import log_picture, log_table
from crab_lightning.runs.folder_callback import folder_of
from crab_lightning.segmentation import enclosing_box
from crab_lightning.structures import Batch, DatasetSpec, Sample
from crab_lightning.tasks.masks import MaskMaker, find_mask, is_null, true_mask
from crab_lightning.tasks.spatial_text import FRAME_PX, SpatialPrompt

# TensorBoard squeezes a column whose head and cells are short until its words break.
ANSWER_COLUMNS = ("sample", "question", "answer of the model", "true answer", "how it was scored")


class Pictures(Callback):
    """Draws frames, sound and answers of some samples after each validation and each test.

    The pictures are a sheet of samples for each task, always of the same samples; confusion matrices of
    datasets with classes; and a heat map of the routers. They are sent to every logger that shows pictures,
    and written as PNG files to ``figures/<split>/step-<step>/`` of the run folder (after a test to
    ``figures/test/``). The answers of these samples are also logged as a table of texts.

    Only the first process draws, from the answers that the Evaluator wrote. Training steps are not slower,
    because it draws after a validation. The sheets of ten tasks and the heat map take 3 s on one CPU core
    (measured by ``benchmarks/evaluator.py``), and the chosen clips are decoded once. The time is logged as
    ``<split>/pictures_s``.

    Args:
        per_task: Number of samples that are drawn for each task, taken from its datasets in turn.
        routes: Number of samples of each dataset whose routes are recorded; 0 records none.
        seed: Seed of the choice of samples.

    Raises:
        ValueError: If ``per_task`` or ``routes`` is negative.
    """

    def __init__(self, per_task: int = 3, routes: int = 8, seed: int = 0) -> None:
        if per_task < 0 or routes < 0:
            raise ValueError(f"per_task is {per_task} and routes is {routes}; both must be at least 0")
        self.per_task, self.routes, self.seed = per_task, routes, seed
        self._media: dict[str, ClipMedia] = {}
        self._means: RouteMeans | None = None
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder, and check that the Evaluator writes answers.

        Raises:
            ValueError: If no Evaluator writes answers.
        """
        # Every process does this here, because it is a collective call.
        self._folder = folder_of(trainer)
        evaluators = [c for c in callbacks_of(trainer) if isinstance(c, Evaluator)]
        if not any(e.predictions for e in evaluators):
            raise ValueError(
                "Pictures draws the answers that the Evaluator writes, but no Evaluator writes any. Set "
                "evaluator.predictions to true, or remove Pictures from trainer.callbacks"
            )

    # Routes, while the validation loss is computed

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Delete the routes of the previous validation."""
        wanted = self.routes and self._draws(trainer)
        self._means = RouteMeans(self.routes) if wanted else None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Start recording the routes of a batch, if more samples are needed."""
        if self._means is not None and isinstance(batch, Batch) and batch.labels is not None:
            self._means.start(pl_module, batch)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Add the recorded routes of a batch."""
        if self._means is not None and isinstance(batch, Batch) and batch.labels is not None:
            self._means.stop(batch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop recording routes."""
        if self._means is not None:
            self._means.close()

    # Drawing

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the pictures of the validation."""
        if self._draws(trainer):
            self._draw(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the pictures of the test."""
        if self._draws(trainer):
            self._draw(trainer, "test")

    @staticmethod
    def _draws(trainer: Trainer) -> bool:
        quick = trainer.sanity_checking or getattr(trainer, "fast_dev_run", False)
        return bool(trainer.is_global_zero and not quick)

    def _draw(self, trainer: Trainer, split: str) -> None:
        began = time.perf_counter()
        data: Any = datamodule_of(trainer)
        folder = self._folder
        place = folder / "figures" / (split if split == "test" else f"{split}/step-{trainer.global_step:06d}")
        answers = folder / "predictions" / ("" if split == "test" else split)
        count = 0
        step = trainer.global_step
        for tag, figure in self._figures(data, answers, split):
            content = png(figure)
            replace_bytes(place / f"{tag.partition('/')[2].replace('/', '-')}.png", content)
            log_picture(trainer.loggers, tag, content, step)
            count += 1
        for task, records in self._chosen(data, answers).items():
            if records:
                rows = [answer_cells(record) for record in records]
                log_table(trainer.loggers, f"{split}/{task}/answers", ANSWER_COLUMNS, rows, step)
        seconds = time.perf_counter() - began
        for logger in trainer.loggers:
            logger.log_metrics({f"{split}/pictures_s": seconds}, step=trainer.global_step)
        if count:
            rank_zero_info(f"{count} pictures of this {split} are in {place} ({seconds:.1f} s)")

    def _figures(self, data: Any, answers: Path, split: str) -> Iterator[tuple[str, Any]]:
        """Yield tags and figures, one at a time."""
        for name, spec in data.datasets.items():
            if (file := answers / f"{name}.jsonl").is_file():
                confusion = matrices.confusion_of(read_records(file))
                if confusion is not None:
                    title = f"{name} ({spec.task}), {split}"
                    yield f"{split}/{spec.task}/{name}/confusion", matrices.confusion_figure(title, confusion)
        chosen = self._chosen(data, answers)
        wanted = {record["id"] for records in chosen.values() for record in records}
        samples = {s.id: s for s in data.samples(split) if s.id in wanted}
        for task, records in chosen.items():
            if figure := self._samples(
                data, task, [r for r in records if r["id"] in samples], samples, split
            ):
                yield f"{split}/{task}/samples", figure
        if split == "val" and self._means is not None and (routes := self._means.result()):
            ordered = {name: routes[name] for name in data.datasets if name in routes}
            groups = {name: spec.task for name, spec in data.datasets.items()}
            yield (
                f"{split}/routes",
                matrices.routes_figure("How the routers divide the weight among the heads", ordered, groups),
            )

    def _samples(
        self, data: Any, task: str, records: Sequence[Record], samples: dict[str, Sample], split: str
    ) -> Any:
        """Return a sheet of the samples of one task; ``None`` if there are no samples."""
        if not records:
            return None
        title = f"{task}, {split}{_altered(data)}"
        if samples[records[0]["id"]].images:
            frames = [self._frame_card(data, record, samples[record["id"]]) for record in records]
            return spatial.frame_sheet(title, frames)
        cards = []
        for record in records:
            sample, spec = samples[record["id"]], data.datasets[record["dataset"]]
            window = heard_window(spec, data.geometry)
            cards.append(
                clips.ClipCard(
                    record,
                    self._clip(sample),
                    window.head_s if window.kind == "head" else None,
                    spec.clip_s or getattr(data.tasks[spec.task], "clip_s", None),
                )
            )
        return clips.clip_sheet(title, cards)

    def _clip(self, sample: Sample) -> ClipMedia:
        """Return the decoded clip of a sample; each is decoded once in a run and takes some hundred kB."""
        if sample.id not in self._media:
            self._media[sample.id] = load(sample)
        return self._media[sample.id]

    def _frame_card(self, data: Any, record: Record, sample: Sample) -> spatial.FrameCard:
        spec: DatasetSpec = data.datasets[record["dataset"]]
        task = data.tasks[spec.task]
        card = spatial.FrameCard(record, self._clip(sample), asked=sample.fields.get("expression", ""))
        if is_null(sample):
            card.record = {**record, "truth": {"absent": True}}
        elif (file := find_mask(sample)) is not None:
            true = true_mask(file, sample)
            card.true_mask = true.numpy()
            if record["truth"] is None and (box := enclosing_box(true.numpy())) is not None:
                # A test manifest has no box; the box around the true mask is scored.
                card.record = {**record, "truth": {"box_xyxy_px": list(box), "points_xy_px": []}}
        maker = getattr(task, "masks", None)
        answer = task.parse(record["answer"], sample, spec)
        if isinstance(maker, MaskMaker) and isinstance(answer, SpatialPrompt):
            like = torch.zeros(FRAME_PX, FRAME_PX, dtype=torch.bool)
            mask = maker.mask(answer, sample, like)
            card.pred_mask = np.asarray(mask if mask.dtype == torch.bool else mask > 0)
        return card

    def _chosen(self, data: Any, answers: Path) -> dict[str, list[Record]]:
        """Return the records to show for each task, chosen from its datasets in turn by a seeded hash."""
        found: dict[str, list[list[Record]]] = {}
        for name, spec in data.datasets.items():
            if (file := answers / f"{name}.jsonl").is_file():
                ranked = sorted(read_records(file), key=lambda r: stable_hash(self.seed, "pictures", r["id"]))
                found.setdefault(spec.task, []).append(ranked[: self.per_task])
        chosen = {}
        for task, ranked_sets in found.items():
            turns = [(turn, r) for records in ranked_sets for turn, r in enumerate(records)]
            turns.sort(key=lambda pair: pair[0])  # stable, so datasets keep their order within a turn
            chosen[task] = [record for _, record in turns[: self.per_task]]
        return chosen


def _altered(data: Any) -> str:
    """Return a remark if the model got another input than the pictures show; else an empty text."""
    dropped = data.drop_modality
    if data.audio_swap:
        return "; the model heard the sound of other clips"
    return "" if dropped is None else f"; the model got no {dropped}"


def answer_cells(record: Record) -> list[str]:
    """Return the cells of an answer for the columns :data:`ANSWER_COLUMNS`."""
    truth = record["truth"]
    true = truth if isinstance(truth, str) else record["reference"] or clips.true_text(record)
    return [record["id"], record["prompt"], record["answer"], true, verdict(record)[0]]
