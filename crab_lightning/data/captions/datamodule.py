"""The data of stage 1: captions, with which a connector is aligned with the language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torchmetrics import MetricCollection

from crab_lightning.data.captions.files import PLACEHOLDER, TASK, CaptionSource, read_captions
from crab_lightning.data.datamodule import AVDataModule
from crab_lightning.data.manifests.rows import Rows, split_rows
from crab_lightning.spelling import counted
from crab_lightning.structures import AudioWindow, Conversation, DatasetSpec, Media, Sample
from crab_lightning.tasks.base import Task


class Describe(Task[str]):
    """Uses the question and the caption of a row. Only the loss is computed, and answers are not scored."""

    def prompt(self, sample: Sample) -> Conversation:
        """Return the question of the row, with each placeholder replaced by a medium."""
        parts: list[str | Media] = []
        for i, text in enumerate(PLACEHOLDER.split(sample.fields["asked"])):
            if i % 2:  # the name in a placeholder
                parts.append(Media(text))
            elif text:
                parts.append(text)
        return tuple(parts)

    def direct(self, sample: Sample) -> str:
        """Return the caption."""
        return sample.target or ""

    def truth(self, sample: Sample, spec: DatasetSpec) -> None:
        """Return ``None``, because many captions are right."""

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> str | None:
        """Return the answer unchanged, or ``None`` if it is empty."""
        return text or None

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return no metric."""
        return MetricCollection({})

    def update(
        self, metrics: MetricCollection, answer: str | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Do nothing, because there are no metrics."""


class CaptionDataModule(AVDataModule):
    """Mixes caption sources for the pre-training of connectors (stage 1).

    The split, the order and the loaders are those of :class:`AVDataModule`.

    Args:
        root: Folder to which the paths of the sources are relative.
        sources: The files of captions, by a key of your choice.
        batch_size: Number of training samples that one process loads for a step.
        val_share: Fraction of the clips that is used for the validation loss.
        val_generate_per_dataset: Number of validation samples of each source for which the model generates an
            answer.
        options: The arguments of ``AVDataModule``. ``only`` has keys of the sources.

    Raises:
        ValueError: If there are no sources, or an argument is not valid.
    """

    def __init__(
        self,
        root: str | Path,
        sources: dict[str, CaptionSource],
        *,
        batch_size: int = 8,
        val_share: float = 0.01,
        val_generate_per_dataset: int = 0,
        **options: Any,
    ) -> None:
        if not sources:
            raise ValueError(
                "data.sources is empty; give it at least one row, e.g. pretrain: {file: x.json, ...}"
            )
        self.sources = dict(sources)
        super().__init__(
            root,
            {TASK: Describe()},
            # These entries read no manifest, so the layout is not used and only has to exist.
            {
                name: DatasetSpec(
                    TASK,
                    "avcap",
                    weight=s.weight,
                    limit=s.limit,
                    frames=s.frames,
                    size_px=s.size_px,
                    audio=AudioWindow("all"),
                )
                for name, s in self.sources.items()
            },
            batch_size=batch_size,
            val_share=val_share,
            val_generate_per_dataset=val_generate_per_dataset,
            **options,
        )

    def setup(self, stage: str | None = None) -> None:
        """Read the sources once, report their unusable rows, and print the mixture before training.

        Raises:
            ManifestError: If a source cannot be read or has more unusable rows than it allows.
        """
        if self._rows is None:
            self._rows = self._read_sources()
        super().setup(stage)

    def _read_sources(self) -> Rows:
        rows: dict[str, list[Sample]] = {}
        for name in self.datasets:
            source = self.sources[name]
            found = read_captions(name, source, self.root)
            rows[name] = found.samples
            if found.broken or found.unlisted:
                shown = "".join(f"\n  {line}" for line in found.broken[:3])
                rank_zero_info(
                    f"data.sources.{name}: {counted(len(found.samples), 'sample')}; "
                    f"{counted(len(found.broken), 'unusable row')} left out, {found.unlisted:,} not in the "
                    f"segment list{shown}"
                )
        return split_rows(rows, {}, self.tasks, self.datasets, self.val_share, self.seed)

    def _answers(self, samples: Sequence[Sample]) -> list[str]:
        return [sample.id for sample in samples]  # every caption is different, so there is nothing to balance
