"""The floor of J and F: in the same test, the model also answers with the sound of another clip."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from crab_lightning.compat import datamodule_of
from crab_lightning.data.swap import swapped_audio, with_sound_of
from crab_lightning.structures import Sample
from crab_lightning.tasks.segmentation import Segmentation


class SwappedAudioFloor(Callback):
    """Asks every question of a task with a mask decoder a second time, with the sound of another clip.

    The masks of these answers are scored in the same test as ``<protocol>_floor_j`` and
    ``<protocol>_floor_f``. They show which score is possible without the right sound. This needs a second
    answer to each of these questions. ``probe`` does the same for all datasets in a separate test. A dataset
    with only one recording has no floor, and answers kept from an interrupted test are not part of it.

    Each process asks about the samples of its own batches. If one process has such samples in a batch, all
    processes ask a question, because with sharded weights every forward pass is a collective call.
    """

    def __init__(self) -> None:
        self._donors: dict[str, Sample] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the tasks add the floor to their metrics, before the Evaluator gets the metrics."""
        if stage != "test":
            return
        data: Any = datamodule_of(trainer)
        for task in data.tasks.values():
            if isinstance(task, Segmentation) and task.masks is not None:
                task.masks.floor = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose for each sample another sample whose sound it gets."""
        data: Any = datamodule_of(trainer)
        self._donors = {}
        for name in data.datasets:
            samples = [s for s in data.samples("test", name) if _masks(data, s) is not None]
            if len({sample.audios for sample in samples}) < 2:
                if samples:
                    rank_zero_info(
                        f"{name}: the floor of J and F cannot be computed, because its test"
                        f" has only one recording"
                    )
                continue
            donors = swapped_audio(samples, data.seed)
            self._donors |= {s.id: samples[int(i)] for s, i in zip(samples, donors, strict=True)}

    @torch.no_grad()
    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Answer the questions of the batch that have a mask, with other sounds."""
        data: Any = datamodule_of(trainer)
        asked = [sample for sample in batch.samples if sample.id in self._donors]
        if not trainer.strategy.reduce_boolean_decision(bool(asked), all=False):
            return
        # A process without such questions asks another one, whose answer is not used.
        put = [with_sound_of(sample, self._donors[sample.id]) for sample in asked] or batch.samples[:1]
        rows = data.dataset(put)
        prompts = data.processor.collate([rows[i] for i in range(len(put))]).to(pl_module.device)
        # The strategy calls the step, because fsdp1 gathers the outermost weights there.
        answers: Any = trainer.strategy.predict_step(prompts, batch_idx)
        for sample, answer in zip(asked, answers["predictions"][: len(asked)], strict=True):
            task = data.tasks[sample.task]
            task.masks.floor[sample.id] = task.parse(answer.text, sample, data.datasets[sample.dataset])


def _masks(data: Any, sample: Sample) -> Any:
    task = data.tasks[sample.task]
    return task.masks if isinstance(task, Segmentation) else None
