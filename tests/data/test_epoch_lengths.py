"""Epochs of unequal length are whole, under Lightning's one idea of how long an epoch is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from crab_lightning.data import AVDataModule
from tests.data.test_trainer import Reader, StopAt
from tests.data.world import DATASETS, TASKS
from tests.quiet import quiet_trainer

EPOCHS = 2


def fit(root: Path, out: Path, *callbacks: Any, ckpt: Path | None = None, **data: Any) -> Reader:
    model = Reader()
    trainer = quiet_trainer(
        out,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        max_epochs=EPOCHS,
        limit_val_batches=1,
        num_sanity_val_steps=0,
    )
    chosen = {name: DATASETS[name] for name in ("ks", "s4", "a2v")}
    trainer.fit(model, AVDataModule(root, TASKS, chosen, val_share=0.2, **data), ckpt_path=ckpt)
    return model


def flat(batches: list[list[str]]) -> list[str]:
    return [name for batch in batches for name in batch]


@pytest.mark.parametrize(("before", "after", "stop"), [(1, 3, 5), (3, 1, 3), (2, 3, 15)])
def test_run_resumed_with_another_batch_size_sees_every_sample_of_every_epoch_once(
    root: Path, tmp_path: Path, before: int, after: int, stop: int
) -> None:
    whole = Counter(flat(fit(root, tmp_path, batch_size=3).seen["train"]))
    save = ModelCheckpoint(
        tmp_path, filename="last", every_n_train_steps=1, save_top_k=1, enable_version_counter=False
    )
    stopped = Reader()
    with pytest.raises(RuntimeError, match="killed"):
        stopped = fit(root, tmp_path, save, StopAt(stop), batch_size=before)
    assert not stopped.seen["train"]
    first = fit(root, tmp_path / "plain", batch_size=before).seen["train"][:stop]
    resumed = fit(root, tmp_path, ckpt=tmp_path / "last.ckpt", batch_size=after).seen
    assert Counter(flat(first) + flat(resumed["train"])) == whole
    assert set(whole.values()) == {EPOCHS}
    assert len(resumed["val"]) == 2 * EPOCHS - 2 * (sum(map(len, first)) >= len(whole))


def test_epochs_with_a_budget_of_tokens_are_whole_though_their_batches_differ_in_number(
    root: Path, tmp_path: Path
) -> None:
    seen = fit(root, tmp_path, batch_tokens=500, length_window=4).seen
    assert set(Counter(flat(seen["train"])).values()) == {EPOCHS}
    assert len({len(batch) for batch in seen["train"]}) > 1
    assert len(seen["val"]) == 2 * EPOCHS, "validated once an epoch, at its end"
