"""Runs a test on some gloo processes of unequal shares and writes what rank 0 made of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from crab_lightning.evaluation import Evaluator
from tests.evaluation.fakes import Rows, collate
from tests.evaluation.test_evaluator import splits
from tests.evaluation.test_likelihoods import Closed, Weigher


class Shares(Rows):
    """Gives each rank its own samples; padded with repeats, as samplers do that keep ranks equal.

    Args:
        shares: Indices into the test samples for each rank.
    """

    def __init__(self, shares: list[list[int]]) -> None:
        super().__init__(splits())
        self.tasks = {"naming": Closed()}
        self.shares = shares

    def test_dataloader(self) -> Any:
        assert self.trainer is not None
        rows, longest = self.splits["test"], max(map(len, self.shares))
        own = self.shares[self.trainer.global_rank]
        padded = [(rows[i], False) for i in own] + [(rows[0], True)] * (longest - len(own))
        batches: Any = [collate([s], True, [again]) for s, again in padded]
        return DataLoader(batches, batch_size=None)


def main(folder: Path, shares: list[list[int]]) -> None:
    """Test with one process for each share."""
    trainer = Trainer(
        accelerator="cpu",
        devices=len(shares),
        strategy=DDPStrategy(process_group_backend="gloo", start_method="fork")
        if len(shares) > 1
        else "auto",
        logger=TensorBoardLogger(folder.parent, name="", version=folder.name),
        callbacks=[Evaluator(print_table=False, decoding="both")],
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.test(Weigher(), datamodule=Shares(shares), verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [[int(i) for i in share.split(",") if i] for share in sys.argv[2].split("/")])
