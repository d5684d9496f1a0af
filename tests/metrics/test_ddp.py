"""Several processes with unequal shares, one of them empty, give the digits of one process."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchmetrics import MetricCollection

from tests.metrics.cases import Case
from tests.metrics.test_every_metric import EVERY, digits


def _alone(case: Case) -> Case:
    return Case(lambda: MetricCollection({"metric": case.make()}), case.samples)


def _sharing() -> MetricCollection:
    """Metrics that keep one state between them, which the process without samples never finds out."""
    return MetricCollection({name: EVERY[name].make() for name in ("war", "uar", "waf", "confusion")})


COLLECTIONS = {name: _alone(case) for name, case in EVERY.items()}
COLLECTIONS["shared state"] = Case(_sharing, EVERY["war"].samples)


def _work(rank: int, world: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found = {}
    for name, case in COLLECTIONS.items():
        # The second process never sees a sample; the others' shares differ in size.
        first = 2 * len(case.samples) // 3 if world > 2 else len(case.samples)
        share = [case.samples[:first], [], case.samples[first:]][rank]
        collection = case.make()
        for arguments in share:
            collection.update(*arguments)
        found[name] = digits(collection.compute())
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.parametrize("world", [2, 3])
def test_unequal_and_empty_shares_give_the_digits_of_one_process(world: int, tmp_path: Path) -> None:
    alone = {}
    for name, case in COLLECTIONS.items():
        collection = case.make()
        for arguments in case.samples:
            collection.update(*arguments)
        alone[name] = digits(collection.compute())
    # The server imports torch once and forks every process from there.
    multiprocessing.set_forkserver_preload([__name__])
    mp.start_processes(_work, args=(world, str(tmp_path)), nprocs=world, start_method="forkserver")
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name in COLLECTIONS:
            assert found[name] == alone[name], f"{name} on process {rank} of {world}"
