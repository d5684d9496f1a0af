"""The DataModule in a real Trainer: hooks, resuming, and what Lightning must not rebuild."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from crab_lightning.data import AVDataModule
from crab_lightning.structures import Batch
from tests.data.world import DATASETS, TASKS, Letters
from tests.quiet import quiet_trainer


class Reader(lightning.LightningModule):
    """A model that notes what it is given."""

    def __init__(self, geometry: str = "released") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.processor = Letters(geometry)  # type: ignore[arg-type]
        self.seen: dict[str, list[list[str]]] = {"train": [], "val": [], "test": [], "predict": []}

    def note(self, stage: str, batch: Batch) -> None:
        self.seen[stage].append([sample.id for sample in batch.samples])

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.note("train", batch)
        return self.weight * batch.inputs["facts"].float().mean()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert (batch.labels is None) == (dataloader_idx == 1)
        self.note("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.note("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self.note("predict", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-9)


def fit(
    root: Path,
    out: Path,
    *callbacks: Callback,
    ckpt: Path | None = None,
    workers: int = 0,
    names: Sequence[str] = ("ks", "s4", "a2v"),
    **options: Any,
) -> Reader:
    trainer = quiet_trainer(
        out,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        **{"max_epochs": 3, "num_sanity_val_steps": 0, **options},
    )
    data = AVDataModule(
        root,
        TASKS,
        {name: DATASETS[name] for name in names},
        batch_size=3,
        num_workers=workers,
        val_share=0.2,
        length_window=2,
    )
    model = Reader()
    trainer.fit(model, data, ckpt_path=ckpt)
    return model


class StopAt(Callback):
    """Leaves as a killed process does: by an exception in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    return fit(root, tmp_path_factory.mktemp("whole")).seen["train"]


@pytest.mark.parametrize(("killed_at", "workers"), [(5, 0), (9, 0), (10, 0), (14, 0), (14, 2)])
def test_killed_run_resumes_at_the_next_batch(
    root: Path, tmp_path: Path, whole: list[list[str]], killed_at: int, workers: int
) -> None:
    steps = len(whole) // 3
    assert steps == 9, "the cases stop within epochs and between them"
    save = ModelCheckpoint(
        tmp_path, filename="last", every_n_train_steps=1, save_top_k=1, enable_version_counter=False
    )
    with pytest.raises(RuntimeError, match="killed"):
        fit(root, tmp_path, save, StopAt(killed_at), workers=workers)
    resumed = fit(root, tmp_path, ckpt=tmp_path / "last.ckpt", workers=workers)
    assert resumed.seen["train"] == whole[killed_at:]


def test_run_resumed_from_an_epochs_end_starts_the_next(
    root: Path, tmp_path: Path, whole: list[list[str]]
) -> None:
    steps = len(whole) // 3
    save = ModelCheckpoint(tmp_path, filename="last", every_n_epochs=1, enable_version_counter=False)
    with pytest.raises(RuntimeError, match="killed"):
        fit(root, tmp_path, save, StopAt(steps + 3))
    resumed = fit(root, tmp_path, ckpt=tmp_path / "last.ckpt")
    assert resumed.seen["train"] == whole[steps:]


def test_position_within_an_epoch_of_other_data_is_refused(root: Path, tmp_path: Path) -> None:
    save = ModelCheckpoint(
        tmp_path, filename="last", every_n_train_steps=1, save_top_k=1, enable_version_counter=False
    )
    with pytest.raises(RuntimeError, match="killed"):
        fit(root, tmp_path, save, StopAt(4))
    trainer = quiet_trainer(tmp_path, max_epochs=3)
    data = AVDataModule(root, TASKS, {"ks": DATASETS["ks"]}, batch_size=3, val_share=0.2)
    with pytest.raises(ValueError, match=r"was saved at step 4 of 9 of epoch 0 of other data: .*rows was"):
        trainer.fit(Reader(), data, ckpt_path=tmp_path / "last.ckpt")


def test_data_may_change_between_epochs(root: Path, tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, filename="last", every_n_epochs=1, enable_version_counter=False)
    fit(root, tmp_path, save, max_epochs=1)
    with pytest.warns(
        UserWarning, match=r"continues with other data than before: .*rows was .*, is \{'s4': "
    ):
        resumed = fit(root, tmp_path, ckpt=tmp_path / "last.ckpt", names=("s4",), max_epochs=2)
    assert len(resumed.seen["train"]) == 6
    assert all(name.startswith("s4/") for batch in resumed.seen["train"] for name in batch)


def test_every_stage_sees_its_rows_once(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    data = AVDataModule(root, TASKS, DATASETS, val_share=0.2, val_generate_per_dataset=None)
    model = Reader()
    trainer.fit(model, data)
    assert "Mixture:" in capsys.readouterr().out
    trainer.test(model, data)
    trainer.predict(model, data, return_predictions=False)
    flat = {stage: sorted(i for batch in batches for i in batch) for stage, batches in model.seen.items()}
    ids = {split: sorted(s.id for s in data.samples(split)) for split in ("train", "val", "test")}
    assert flat["train"] == ids["train"]
    assert flat["val"] == sorted(ids["val"] * 2)
    assert flat["test"] == flat["predict"] == ids["test"]


def test_processor_comes_from_the_model(root: Path, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, fast_dev_run=True)
    data = AVDataModule(root, TASKS, {"ks": DATASETS["ks"]}, val_share=0.2)
    with pytest.raises(
        ValueError, match=r"data\.geometry is 'released', but the model's processor is made for 'plain'"
    ):
        trainer.fit(Reader("plain"), data)
