"""The floor of J and F: the model's own answers when it hears another clip, scored in the same test."""

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

    The masks of these answers are scored as ``<protocol>_floor_j`` and ``<protocol>_floor_f`` in the same
    test, beside those of the model. They show which score is possible without the right sound. This needs a
    second answer to each of these questions. ``probe`` does the same for all datasets in a separate test. A
    dataset with one recording,
    and answers kept from a test that was interrupted, have no floor.

    On several processes each asks for the samples of its own batches. Where one has such samples in a batch,
    all of them ask: under strategies that spread the weights, every pass is a collective call.
    """

    def __init__(self) -> None:
        self._donors: dict[str, Sample] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the tasks for it, before the Evaluator asks them for metrics."""
        if stage != "test":
            return
        data: Any = datamodule_of(trainer)
        for task in data.tasks.values():
            if isinstance(task, Segmentation) and task.masks is not None:
                task.masks.floor = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose whose sound each sample is given."""
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
        """Answer the spatial questions of the batch with other sounds."""
        data: Any = datamodule_of(trainer)
        asked = [sample for sample in batch.samples if sample.id in self._donors]
        if not trainer.strategy.reduce_boolean_decision(bool(asked), all=False):
            return
        # A process without such questions puts another one, whose answer nobody reads.
        put = [with_sound_of(sample, self._donors[sample.id]) for sample in asked] or batch.samples[:1]
        rows = data.dataset(put)
        prompts = data.processor.collate([rows[i] for i in range(len(put))]).to(pl_module.device)
        # As the trainer calls a step: fsdp1 gathers the outermost weights in there.
        answers: Any = trainer.strategy.predict_step(prompts, batch_idx)
        for sample, answer in zip(asked, answers["predictions"][: len(asked)], strict=True):
            task = data.tasks[sample.task]
            task.masks.floor[sample.id] = task.parse(answer.text, sample, data.datasets[sample.dataset])


def _masks(data: Any, sample: Sample) -> Any:
    task = data.tasks[sample.task]
    return task.masks if isinstance(task, Segmentation) else None
