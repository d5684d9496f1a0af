"""The part of the data module that loads samples, without the choice of samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning

from crab_lightning.data.cache.store import MediaCache
from crab_lightning.data.dataset import AVDataset
from crab_lightning.data.loading import DropModality
from crab_lightning.data.quarantine import FILE_NAME, OnError, Quarantine
from crab_lightning.media import MediaLimits, Resizer
from crab_lightning.processing import Geometry, Processor
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.base import Task


class SampleLoading(lightning.LightningDataModule):
    """Loads samples with the settings of a data section. A subclass sets these and chooses the samples."""

    tasks: dict[str, Task[Any]]
    datasets: dict[str, DatasetSpec]
    geometry: Geometry
    drop_modality: DropModality | None
    audio_swap: bool
    cache: str | Path | None
    cache_gb: float | None
    on_error: OnError
    load_timeout_s: float | None
    limits: MediaLimits | None
    resize: Resizer
    seed: int
    explain_answers: bool
    run_folder: Path | None = None
    """Folder for the list of broken clips. By default, this is the run folder of the Trainer."""
    _processor: Processor | None = None

    @property
    def processor(self) -> Processor:
        """The processor that encodes the samples: the one that was set, or else that of the Trainer's model.

        Raises:
            RuntimeError: If there is neither.
            ValueError: If the processor was made for another geometry.
        """
        processor = self._processor
        if processor is None:
            if self.trainer is None:
                raise RuntimeError("set datamodule.processor to use the data module without a Trainer")
            model: Any = self.trainer.lightning_module
            processor = model.processor
        assert processor is not None
        if processor.geometry != self.geometry:
            raise ValueError(
                f"data.geometry is '{self.geometry}', but the model's processor is made for "
                f"'{processor.geometry}'; set data.geometry and the model's geometry to the same"
            )
        return processor

    @processor.setter
    def processor(self, processor: Processor) -> None:
        self._processor = processor

    def dataset(
        self,
        samples: Sequence[Sample],
        *,
        with_target: bool = False,
        of_split: bool = False,
        window_s: float | None = None,
    ) -> AVDataset:
        """Return a dataset that loads samples with all settings of the data section.

        Use this also for samples outside the splits, such as the question of a user, so that the model gets
        input of the same form as in training.

        Args:
            samples: Samples of any datasets under ``data.datasets``.
            with_target: Encode the target text too. With ``False``, only prompts are encoded.
            of_split: Apply ``audio_swap`` and ``on_error``. With ``False``, sounds are not swapped, and a
                broken sample raises an error.
            window_s: Use a random window of this length in seconds of each longer clip; ``None`` uses whole
                clips.

        Raises:
            RuntimeError: If there is no processor, or no folder for the list of broken clips.
            ValueError: If the geometry differs from that of the processor, or sounds cannot be swapped.
        """
        return AVDataset(
            samples,
            self.tasks,
            self.datasets,
            self.processor,
            geometry=self.geometry,
            drop_modality=self.drop_modality,
            audio_swap=of_split and self.audio_swap,
            with_target=with_target,
            seed=self.seed,
            cache=self._media_cache,
            limits=self.limits,
            resize=self.resize,
            timeout_s=self.load_timeout_s,
            quarantine=self._quarantine(samples) if of_split else None,
            explain=self.explain_answers,
            window_s=window_s,
        )

    @cached_property
    def _media_cache(self) -> MediaCache | None:
        if self.cache is None:
            return None
        return MediaCache(self.cache, None if self.cache_gb is None else int(self.cache_gb * 1e9))

    def _quarantine(self, samples: Sequence[Sample]) -> Quarantine | None:
        if self.on_error.policy == "fail":
            return None
        folder = self.run_folder
        if folder is None:
            if self.trainer is None:
                raise RuntimeError(
                    "set datamodule.run_folder, since `on_error: quarantine` lists broken clips"
                )
            folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)  # without RunFolder
        return Quarantine(folder / FILE_NAME, self.on_error, samples, self.seed)
