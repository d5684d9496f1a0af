"""Cost of judging and drawing: answers scored, masks scored, pictures drawn, callbacks that wait.

    python benchmarks/evaluator.py                       # on a Mini AV-UIE tree made here
    python benchmarks/evaluator.py --root DIR            # on your data (the answers are its target texts)
    python benchmarks/evaluator.py --only masks idle

Times are of the process (user and system), since the machine may be busy; medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader

from crab_lightning.adapters import AdapterConfig, insert_adapters
from crab_lightning.commands import main as command
from crab_lightning.configuration.files import compose
from crab_lightning.dashboards import Pictures, RunProgress, TrainScalars
from crab_lightning.dashboards.figures.matrices import routes_figure
from crab_lightning.dashboards.figures.sheet import png
from crab_lightning.dashboards.routing import RouteMeans
from crab_lightning.data import AVDataModule
from crab_lightning.evaluation import Evaluator
from crab_lightning.evaluation.prediction_files import PredictionFiles
from crab_lightning.evaluation.scores import DatasetScores
from crab_lightning.metrics import MaskJF
from crab_lightning.runs import RunCheckpoint
from crab_lightning.structures import Batch, Prediction, Sample
from crab_lightning.tasks.masks import ProtocolJF

_BATCH = 16


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def load_data(root: Path) -> AVDataModule:
    """All datasets of the released configuration under a root, manifests read."""
    from jsonargparse import ArgumentParser

    section = dict(compose(["data/av_uie_v2.yaml"])) | {"root": str(root)}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AVDataModule, "data", fail_untyped=False)
    data: AVDataModule = parser.instantiate(parser.parse_object({"data": section})).data
    data.setup("validate")
    return data


def answered(data: AVDataModule, name: str, count: int) -> list[Prediction]:
    """The target texts of a dataset as answers, again from the first when there are too few."""
    task = data.tasks[data.datasets[name].task]
    said = [Prediction(s, task.target(s, "reasoning"), 60) for s in data.samples("train", name)]
    return list(islice(cycle(said), count))


def score(data: AVDataModule, name: str, answers: list[Prediction], folder: Path) -> DatasetScores:
    """Judge answers as the Evaluator does, batch by batch, and write them."""
    spec = data.datasets[name]
    scores = DatasetScores(name, data.tasks[spec.task], spec, data.tasks[spec.task].parse(
        answers[0].text, answers[0].sample, spec))  # fmt: skip
    files = PredictionFiles(folder, "val")
    files.start({}, fresh=False)
    for first in range(0, len(answers), _BATCH):
        batch = answers[first : first + _BATCH]
        scores.prepare(batch)
        files.append([scores.add(answer) for answer in batch])
    files.close()
    return scores


def answers_table(data: AVDataModule, count: int, rounds: int) -> Table:
    """Seconds per answer set of every dataset: parsing, three collections of metrics, the file."""
    table = Table(title=f"{count:,} answers of each dataset, batches of {_BATCH}")
    for column in ("dataset", "task", "parse, score, write, s", "compute, s"):
        table.add_column(column, justify="left" if column in ("dataset", "task") else "right")
    total = 0.0
    for name, spec in data.datasets.items():
        answers = answered(data, name, count)
        judged, computed = [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                began = time.process_time()
                scores = score(data, name, answers, Path(folder))
                judged.append(time.process_time() - began)
            computed.append(seconds(lambda scores=scores: scores.result(scores.sums(), None)))
        total += statistics.median(judged)
        table.add_row(
            name, spec.task, f"{statistics.median(judged):.2f}", f"{statistics.median(computed):.3f}"
        )
    table.add_row("[bold]mean[/bold]", "", f"{total / len(data.datasets):.2f}", "")
    return table


def masks_table(count: int, side: int, rounds: int) -> Table:
    """Seconds to take in masks at once, and one by one as the Evaluator feeds them."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.linspace(-1, 1, side)
    centre = torch.rand(2, count, 1, 1, generator=generator) - 0.5
    pred = (grid[:, None] - centre[0]) ** 2 + (grid[None, :] - centre[1]) ** 2 < 0.25
    target = pred.roll(7, dims=-1)

    def singly() -> None:
        metric = ProtocolJF("crabplus", "crabplus")
        for a, b in zip(pred, target, strict=True):
            metric.add("clip", a, b)

    table = Table(title=f"J and F of {count:,} masks, {side} x {side}")
    table.add_column("fed")
    table.add_column("s", justify="right")
    for name, work in (
        ("all at once", lambda: MaskJF("crabplus").update(pred, target)),
        ("one by one", singly),
    ):
        table.add_row(name, f"{statistics.median(seconds(work) for _ in range(rounds)):.2f}")
    return table


def pictures_table(data: AVDataModule, rounds: int) -> Table:
    """Seconds of one validation's pictures: the first, which decodes the clips, and a later one."""
    first, later, counts = [], [], 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for dataset in data.datasets:
                said = [
                    Prediction(s, data.tasks[s.task].target(s, "reasoning"), 60)
                    for s in data.samples("val", dataset)
                ]
                score(data, dataset, said, folder)
            PredictionFiles(folder, "val").merge({})
            trainer: Any = SimpleNamespace(
                is_global_zero=True, sanity_checking=False, fast_dev_run=False, log_dir=str(folder),
                global_step=1, datamodule=data, loggers=[TensorBoardLogger(folder, name="", version="")],
            )  # fmt: skip
            pictures = Pictures()
            first.append(seconds(lambda p=pictures, t=trainer: p.on_validation_end(t, None)))
            later.append(seconds(lambda p=pictures, t=trainer: p.on_validation_end(t, None)))
            counts = len(list(folder.glob("figures/val/*/*.png")))
            trainer.loggers[0].experiment.close()  # its thread would write into the folder that is removed
    routes = {name: np.random.default_rng(0).dirichlet([9, 9, 9], 28) for name in data.datasets}
    groups = {name: spec.task for name, spec in data.datasets.items()}
    drawn = [seconds(lambda: png(routes_figure("routes", routes, groups))) for _ in range(rounds)]
    table = Table(title=f"Pictures of one validation ({counts} files, 3 samples of each task)")
    table.add_column("what")
    table.add_column("s", justify="right")
    table.add_row("first validation", f"{statistics.median(first):.2f}")
    table.add_row("each later one", f"{statistics.median(later):.2f}")
    table.add_row("heat map of routers (28 layers), with every one", f"{statistics.median(drawn):.2f}")
    plain, recorded = routes_cost(rounds)
    table.add_row(
        "recording routes of one batch of 4 x 256 tokens, 196 layers",
        f"{recorded - plain:.3f} (forward {plain:.2f})",
    )
    return table


def routes_cost(rounds: int) -> tuple[float, float]:
    """Seconds of a forward through 28 x 7 adapted layers, without and with routes recorded."""
    model = nn.Module()
    model.layers = nn.ModuleList(
        nn.ModuleDict({f"p{i}_proj": nn.Linear(256, 256) for i in range(7)}) for _ in range(28)
    )
    config = AdapterConfig(kind="ilora", target_modules=[f"p{i}_proj" for i in range(7)], within=None)
    insert_adapters(model, config)
    x, mask = torch.randn(4, 256, 256), torch.ones(4, 256, dtype=torch.int64)
    samples = [Sample(f"a/{i}", "a", "t", "val", str(i)) for i in range(4)]
    batch = Batch({"attention_mask": mask}, mask, samples, [False] * 4)

    @torch.no_grad()
    def forward() -> None:
        for layer in model.layers:
            for projection in layer.values():  # type: ignore[operator]
                projection(x)

    def recorded() -> None:
        means = RouteMeans(4)
        means.start(model, batch)
        forward()
        means.stop(batch)

    forward()
    pairs = [(seconds(forward), seconds(recorded)) for _ in range(max(rounds, 5))]
    return statistics.median(p for p, _ in pairs), statistics.median(r for _, r in pairs)


class Step(LightningModule):
    """The least a step can be."""

    adapter = None
    saves_parts = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return a loss that costs nothing."""
        return self.weight.square().sum()

    def configure_optimizers(self) -> Any:
        """Return the plainest optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def idle_table(rounds: int) -> Table:
    """Milliseconds a step that callbacks add when it is not their turn: slope between 100 and 1,100 steps."""
    ids = torch.ones(4, 16, dtype=torch.int64)
    samples = [Sample(f"a/{i}", f"d{i}", "t", "train", str(i)) for i in range(4)]
    batch = Batch({"input_ids": ids, "attention_mask": ids}, ids, samples, [False] * 4)
    cases: dict[str, Callable[[], list[Callback]]] = {
        "none": list,
        "TrainScalars": lambda: [TrainScalars()],
        "Evaluator": lambda: [Evaluator()],
        "Pictures and Evaluator": lambda: [Evaluator(), Pictures()],
        "RunProgress": lambda: [RunProgress()],
        "RunCheckpoint": lambda: [RunCheckpoint()],
    }

    def run(make: Callable[[], list[Callback]], steps: int) -> float:
        callbacks = make()
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                accelerator="cpu", max_steps=steps, logger=TensorBoardLogger(folder), callbacks=callbacks,
                log_every_n_steps=10**9, enable_model_summary=False, limit_val_batches=0,
                enable_checkpointing=any(isinstance(c, RunCheckpoint) for c in callbacks),
                enable_progress_bar=any(isinstance(c, RunProgress) for c in callbacks),
            )  # fmt: skip
            return seconds(lambda: trainer.fit(Step(), DataLoader([batch] * steps, batch_size=None)))

    slopes: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, make in cases.items():  # in turns, so that a slow minute hits all of them
            slopes[name].append((run(make, 1100) - run(make, 100)) / 1000 * 1000)
    table = Table(title="Callbacks with nothing to do, ms a step")
    for column in ("callbacks", "ms", "more than none"):
        table.add_column(column, justify="left" if column == "callbacks" else "right")
    middle = {name: statistics.median(values) for name, values in slopes.items()}
    for name, value in middle.items():
        table.add_row(name, f"{value:.3f}", f"{value - middle['none']:+.3f}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="data root (left out: 100 clips of Mini AV-UIE, made here)")
    parser.add_argument("--answers", type=int, default=1000, help="answers of each dataset")
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", choices=["answers", "masks", "pictures", "idle"], help="tables to make"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    wanted = args.only or ["answers", "masks", "pictures", "idle"]
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as made:
        root = args.root or Path(made) / "mini"
        if args.root is None and {"answers", "pictures"} & set(wanted):
            command(["data", "mini", "--root", str(root), "--clips", "100", "--workers", "0"])
        if {"answers", "pictures"} & set(wanted):
            data = load_data(root)
        if "answers" in wanted:
            console.print(answers_table(data, args.answers, args.rounds))
        if "masks" in wanted:
            console.print(masks_table(args.masks, args.side, args.rounds))
        if "pictures" in wanted:
            console.print(pictures_table(data, args.rounds))
        if "idle" in wanted:
            console.print(idle_table(args.rounds))


if __name__ == "__main__":
    main()
