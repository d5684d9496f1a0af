from __future__ import annotations

import mmap
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import torch
from lightning.pytorch.loggers import TensorBoardLogger

from crab_lightning.dashboards.scalars import TrainScalars, resident_gib, scalar_layout
from crab_lightning.structures import DatasetSpec
from tests.evaluation.fakes import Parrot, Rows, sample
from tests.quiet import quiet_trainer


def test_layout_shows_the_run_first_and_then_each_dataset() -> None:
    rows = {"a": DatasetSpec("x", "ks"), "b": DatasetSpec("y", "avcap")}
    layout = scalar_layout(rows, {"a": "accuracy", "b": None})
    assert next(iter(layout)) == "Overview"
    assert list(layout["Primary metrics, validation"]) == ["a: accuracy"]
    ((pattern,),) = (chart[1] for chart in layout["Primary metrics, validation"].values())
    assert re.match(pattern, "val/x/a/accuracy")
    assert not re.match(pattern, "val/x/a/accuracy_of_more")
    assert list(layout["Loss, training"]) == ["a", "b"]


def test_charts_of_the_overview_exist(tmp_path: Path) -> None:
    """The tags of a real run are in ``tests/models``; here those that this callback and Lightning write.

    The run is shorter than the interval: both steps are logged.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="run")
    trainer = quiet_trainer(
        logger=logger, callbacks=[TrainScalars()], max_epochs=1, log_every_n_steps=50, limit_val_batches=0
    )
    train = [sample("a", i, "train", "bell", "bell") for i in range(4)]
    trainer.fit(Parrot(), datamodule=Rows({"train": train, "val": train, "test": train}))
    board = EventAccumulator(str(tmp_path / "run")).Reload()
    assert "custom_scalars__config__" in board.Tags()["tensors"]
    assert [e.value for e in board.Scalars("train/naming/a/drawn")] == [2, 4]
    shown = {"train/grad_norm", "train/padding_share", "train/memory_rss_gib", "train/naming/a/drawn_share"}
    assert shown <= set(board.Tags()["scalars"])


def test_the_gradient_norm_is_taken_on_the_steps_that_are_logged() -> None:
    scalars, weight = TrainScalars(), torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer = torch.optim.SGD([weight], 0.1)
    taken = []
    for step in range(6):
        trainer = SimpleNamespace(
            loggers=[1], global_step=step, log_every_n_steps=3, strategy=SimpleNamespace(), world_size=1
        )
        scalars._grad_norm = None
        scalars.on_before_optimizer_step(trainer, None, optimizer)  # type: ignore[arg-type]
        if scalars._grad_norm is not None:
            assert float(scalars._grad_norm) == 5.0
            taken.append(step + 1)
    assert taken == [3, 6]


def test_what_was_drawn_is_counted_over_a_resume() -> None:
    first, second = TrainScalars(), TrainScalars()
    first._drawn = Counter({"x/a": 3})
    second.load_state_dict(first.state_dict())
    assert second._drawn == {"x/a": 3}


def test_resident_memory_is_that_of_this_process() -> None:
    before = resident_gib()
    # A mapping of its own: a tensor may get memory that an earlier test has freed and that is still resident.
    with mmap.mmap(-1, 80_000_000) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert 0.06 < resident_gib() - before < 0.2


def test_the_padding_share_is_that_of_the_batches_since_the_last_log() -> None:
    logged: list[float] = []
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append(values["train/padding_share"]))
    scalars = TrainScalars()
    for step, tokens in enumerate((3, 1), 1):
        trainer = SimpleNamespace(
            loggers=[logger],
            global_step=step,
            log_every_n_steps=1,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        inputs = {"attention_mask": (torch.arange(4) < tokens).long()[None]}
        batch = SimpleNamespace(samples=[sample("a", 0, "train", "bell", "bell")], inputs=inputs)
        scalars.on_train_batch_end(trainer, None, None, batch, 0)  # type: ignore[arg-type]
    assert logged == [0.25, 0.75]
