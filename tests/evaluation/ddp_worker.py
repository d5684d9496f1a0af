"""Runs a test on some gloo processes of unequal shares and writes what rank 0 made of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from crab_lightning.evaluation import Evaluator, evaluator
from crab_lightning.segmentation import MaskRequest
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks import ReferringSegmentation, Segmentation
from tests.evaluation.fakes import Rows, collate
from tests.evaluation.test_evaluator import splits
from tests.evaluation.test_likelihoods import Closed, Weigher
from tests.quiet import quiet_trainer
from tests.segmentation.test_test_loop import row


class Gradual:
    """Makes logits that fall off from the middle of the box, another way for each frame."""

    def decode(self, requests: Sequence[MaskRequest]) -> list[Tensor]:
        made = []
        for request in requests:
            assert request.prompt.box_xyxy_px is not None
            x1, y1, x2, y2 = request.prompt.box_xyxy_px
            y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
            far = ((x - (x1 + x2) / 2) / (x2 - x1)).abs() + ((y - (y1 + y2) / 2) / (y2 - y1)).abs()
            made.append((1 - far) * (2 + float(request.image[0, 0, 0]) % 3))
        return made


def masked(folder: Path) -> list[Sample]:
    """Return frames of three clips in the order in which no two of a clip are neighbours, asked twice."""
    rows = []
    for i in range(9):
        truth = torch.zeros(224, 224, dtype=torch.bool)
        truth[20 + i : 120, 30 : 150 - 5 * i] = i != 4
        says = f"<answer>true</answer> [{5 * i},{9 + i},{90 + 7 * i},{100 + i}],[20,20],[21,21],[22,22]"
        subset = "test_n" if i % 3 == 2 else "test_s"
        rows.append(row(folder / "media", i, says, truth, clip=f"clip{i % 3}", subset=subset))
    return [replace(r, id=f"{name}/{i}", dataset=name, task=name)
            for name in ("avs", "ref") for i, r in enumerate(rows)]  # fmt: skip


class Shares(Rows):
    """Gives each rank its own samples, one to a batch; padded with repeats, as samplers do for equal ranks.

    Args:
        folder: Where media lie.
        shares: Indices into the test samples for each rank.
    """

    def __init__(self, folder: Path, shares: list[list[int]]) -> None:
        rows = splits()
        super().__init__({**rows, "test": rows["test"] + masked(folder)})
        self.tasks = {
            "naming": Closed(),
            "avs": Segmentation(mask_decoder=Gradual()),
            "ref": ReferringSegmentation(mask_decoder=Gradual()),
        }
        self.datasets |= {
            "avs": DatasetSpec(task="avs", layout="s4", metrics=["crabplus", "avsbench", "framewise"]),
            "ref": DatasetSpec(task="ref", layout="ref_avs", metrics=["crabplus", "refavs", "framewise"]),
        }
        self.shares = shares

    def test_dataloader(self) -> Any:
        assert self.trainer is not None
        rows, longest = self.splits["test"], max(map(len, self.shares))
        own = self.shares[self.trainer.global_rank]
        padded = [(rows[i], False) for i in own] + [(rows[0], True)] * (longest - len(own))
        batches: Any = [collate([s], True, [again]) for s, again in padded if s.id not in self.test_skip_ids]
        return DataLoader(batches, batch_size=None)


class Readers(Callback):
    """Lets every process look for the results as soon as its test has ended.

    Args:
        folder: The run folder; that of the trainer would be asked of all processes, which waits for them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        assert (self.folder / "metrics.json").is_file(), "the results are not written yet"


def main(folder: Path, shares: list[list[int]]) -> None:
    """Test with one process for each share; the one that writes the results is slow."""
    write = evaluator.write_metrics

    def slowly(*args: Any) -> None:
        time.sleep(0.5)
        write(*args)

    evaluator.write_metrics = slowly
    trainer = quiet_trainer(
        run=folder,
        devices=len(shares),
        strategy=DDPStrategy(process_group_backend="gloo", start_method="fork")
        if len(shares) > 1
        else "auto",
        callbacks=[Evaluator(print_table=False, decoding="both"), Readers(folder)],
        use_distributed_sampler=False,
    )
    trainer.test(Weigher(), datamodule=Shares(folder.parent, shares), verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [[int(i) for i in share.split(",") if i] for share in sys.argv[2].split("/")])
