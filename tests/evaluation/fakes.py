"""A task, a model and a data module of a few lines each, which hold to the interfaces of the real ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from crab_lightning.data.dataset import AVDataset
from crab_lightning.metrics import Accuracy
from crab_lightning.structures import Batch, Conversation, DatasetSpec, Media, Prediction, Sample
from crab_lightning.tasks.base import Task

CLASSES = ["bell", "dog", "horn"]


class Naming(Task[int]):
    """Names one of three classes; ``???`` cannot be read."""

    def prompt(self, sample: Sample) -> Conversation:
        return ("Look: ", Media.VIDEO, "what is it?")

    def direct(self, sample: Sample) -> str:
        return str(sample.fields["label"])

    def truth(self, sample: Sample, spec: DatasetSpec) -> int:
        return CLASSES.index(sample.fields["label"])

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> int | None:
        return CLASSES.index(text) if text in CLASSES else None

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        return MetricCollection({"accuracy": Accuracy()})

    def update(
        self, metrics: MetricCollection, answer: int | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        metrics.update(
            torch.tensor([-1 if answer is None else answer]), torch.tensor([self.truth(sample, spec)])
        )

    def headline(self, spec: DatasetSpec) -> str:
        return "accuracy"

    def majority(self, samples: Sequence[Sample], spec: DatasetSpec) -> int:
        return Counter(self.truth(s, spec) for s in samples).most_common(1)[0][0]

    def jsonable(self, answer: int) -> str:
        return CLASSES[answer]


def sample(dataset: str, key: int, split: str, says: str, label: str, truncated: bool = False) -> Sample:
    """Return a sample whose answer by :class:`Parrot` is ``says``."""
    return Sample(
        id=f"{dataset}/{split}/{key}",
        dataset=dataset,
        task="naming",
        split=split,  # type: ignore[arg-type]
        clip=str(key),
        target=label if split == "train" else None,
        reference=label,
        fields={"label": label, "says": says, "truncated": truncated},
        row=key,
    )


def collate(samples: Sequence[Sample], prompts: bool, repeated: Sequence[bool] | None = None) -> Batch:
    ids = torch.ones(len(samples), 2, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Batch(inputs, None if prompts else ids, list(samples), list(repeated or [False] * len(samples)))


class Rows(LightningDataModule):
    """Serves given samples, two a batch.

    Args:
        splits: Samples of each split.
        repeat_last: Repeat the last sample of a split once, as a sampler does that keeps ranks equal.
    """

    def __init__(self, splits: dict[str, list[Sample]], repeat_last: bool = False) -> None:
        super().__init__()
        self.splits = splits
        self.repeat_last = repeat_last
        self.geometry = "released"
        self.drop_modality: str | None = None
        self.audio_swap = False
        self.processor: Any = None
        self.tasks: dict[str, Task[Any]] = {"naming": Naming()}
        names = sorted({s.dataset for rows in splits.values() for s in rows})
        self.datasets = {name: DatasetSpec(task="naming", layout=name) for name in names}
        self.test_skip_ids: frozenset[str] = frozenset()

    def samples(self, split: str, dataset: str | None = None) -> list[Sample]:
        return [s for s in self.splits[split] if dataset in (None, s.dataset)]

    def dataset(self, samples: Sequence[Sample]) -> AVDataset:
        return AVDataset(samples, self.tasks, self.datasets, self.processor, with_target=False)

    def _loader(self, split: str, prompts: bool) -> DataLoader[Any]:
        rows: list[Any] = [
            (s, False) for s in self.splits[split] if split != "test" or s.id not in self.test_skip_ids
        ]
        if self.repeat_last and prompts:
            rows.append((rows[-1][0], True))
        return DataLoader(
            rows,  # type: ignore[arg-type]
            batch_size=2,
            collate_fn=lambda pairs: collate([s for s, _ in pairs], prompts, [again for _, again in pairs]),
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", prompts=False)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return [self._loader("val", prompts=False), self._loader("val", prompts=True)]

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", prompts=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", prompts=True)


class Parrot(LightningModule):
    """Answers what the sample's field ``says`` says, and remembers whom it was asked about.

    Args:
        die_after: Raise after this many answers, as a killed process would stop.
    """

    def __init__(self, die_after: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.adapter = object()
        self.saves_parts = True
        self.die_after = die_after
        self.asked: list[str] = []

    def save_adapter(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter.json").write_text(str(self.weight.item()))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return (self.weight - 1).square().sum()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        if batch.labels is None:
            return self._answer(batch)
        losses = torch.tensor([float(s.row) for s in batch.samples])
        return {"loss_sum": losses, "target_tokens": torch.full((len(batch),), 2)}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self._answer(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self._answer(batch)

    def _answer(self, batch: Batch) -> dict[str, Any]:
        if self.die_after is not None and len(self.asked) >= self.die_after:
            raise RuntimeError("killed")
        self.asked += [s.id for s in batch.samples]
        said = [Prediction(s, s.fields["says"], 3, s.fields["truncated"]) for s in batch.samples]
        return {"predictions": said}
