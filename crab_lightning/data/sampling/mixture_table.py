"""The table of the mixture that is printed before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crab_lightning.data.manifests.rows import Rows
from crab_lightning.data.sampling.mixture import Mixture

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class MixtureRow:
    """One dataset of the mixture.

    Args:
        dataset: Key under ``data.datasets``.
        task: Key under ``data.tasks``.
        train: Training rows.
        val: Validation rows.
        test: Rows that ``test`` scores; the validation rows where no test manifest was released.
        own_test: Whether it has a test manifest.
        weight: Sampling weight.
        share: Chance that a drawn sample is from here.
        drawn: Samples that it gives to an epoch, on average.
    """

    dataset: str
    task: str
    train: int
    val: int
    test: int
    own_test: bool
    weight: float
    share: float
    drawn: float


def mixture_rows(rows: Rows, mixture: Mixture) -> list[MixtureRow]:
    """Return what is mixed, a row for each dataset."""
    shares = mixture.shares
    return [
        MixtureRow(
            dataset=name,
            task=spec.task,
            train=len(rows.splits["train"][name]),
            val=len(rows.splits["val"][name]),
            test=len(rows.splits["test"][name]),
            own_test=rows.splits["test"][name] is not rows.splits["val"][name],
            weight=float(mixture.weights.get(name, mixture.rows[name])),
            share=shares[name],
            drawn=shares[name] * len(mixture),
        )
        for name, spec in rows.specs.items()
    ]


def mixture_table(
    mixed: Sequence[MixtureRow], unsplit: Mapping[str, int], epoch: int, temperature: float
) -> Table:
    """Lay the mixture out as a table.

    Args:
        mixed: The datasets.
        unsplit: Rows that no validation split could be cut from, by dataset.
        epoch: Samples of an epoch.
        temperature: Temperature of the mixture.
    """
    from rich import box
    from rich.table import Table

    notes = []
    if any(not row.own_test for row in mixed):
        notes.append("* no test manifest was released: tested on the validation rows")
    notes += [
        f"{name}: two-clip questions tie {count:,} rows together, which therefore all stay in training"
        for name, count in unsplit.items()
    ]
    table = Table(
        title=f"Mixture: {epoch:,} samples an epoch, temperature {temperature:g}",
        caption="\n".join(notes) or None,
        caption_justify="left",
        box=box.SIMPLE,
        show_footer=True,
    )
    table.add_column("dataset", footer="total")
    table.add_column("task")
    totals = [sum(row.train for row in mixed), sum(row.val for row in mixed), sum(row.test for row in mixed)]
    for name, total in zip(("train", "val", "test"), totals, strict=True):
        table.add_column(name, footer=f"{total:,}", justify="right")
    table.add_column("weight", justify="right")
    table.add_column("share", footer="100.0 %", justify="right")
    table.add_column("drawn", footer=f"{epoch:,}", justify="right")
    for row in mixed:
        test = f"{row.test:,}" + ("" if row.own_test else "*")
        weight, share = f"{row.weight:,g}", f"{100 * row.share:.1f} %"
        cells = (
            row.dataset,
            row.task,
            f"{row.train:,}",
            f"{row.val:,}",
            test,
            weight,
            share,
            f"{row.drawn:,.1f}",
        )
        table.add_row(*cells)
    return table
