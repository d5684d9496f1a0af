"""Makes the table of the mixture that is printed before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crab_lightning.data.manifests.rows import Rows
from crab_lightning.data.sampling.mixture import Mixture

if TYPE_CHECKING:
    from rich.table import Table


def mixture_table(rows: Rows, mixture: Mixture) -> Table:
    """Return the mixture as a table, with a row for each dataset.

    ``test`` is the number of samples that a test scores, which are the validation rows if there is no test
    manifest. ``share`` is the probability that a drawn sample is from the dataset, and ``drawn`` is the mean
    number of its samples in an epoch.

    Args:
        rows: The samples of every dataset and split.
        mixture: The mixture of the training samples.
    """
    from rich import box
    from rich.table import Table

    own = {name: rows.splits["test"][name] is not rows.splits["val"][name] for name in rows.specs}
    notes = [] if all(own.values()) else ["* no test manifest was released: tested on the validation rows"]
    notes += [
        f"{name}: questions about two clips connect {count:,} rows, so all of them stay in training"
        for name, count in rows.unsplit.items()
    ]
    table = Table(
        title=f"Mixture: {len(mixture):,} samples an epoch, temperature {mixture.temperature:g}",
        caption="\n".join(notes) or None,
        caption_justify="left",
        box=box.SIMPLE,
        padding=0,
        show_footer=True,
    )
    table.add_column("dataset", footer="total")
    table.add_column("task")
    for split in ("train", "val", "test"):
        total = sum(map(len, rows.splits[split].values()))
        table.add_column(split, footer=f"{total:,}", justify="right")
    table.add_column("weight", justify="right")
    table.add_column("share", footer="100.0 %", justify="right")
    table.add_column("drawn", footer=f"{len(mixture):,}", justify="right")
    for name, share in mixture.shares.items():
        train, val, test = (f"{len(rows.splits[split][name]):,}" for split in ("train", "val", "test"))
        weight = f"{float(mixture.weights.get(name, mixture.rows[name])):,g}"
        drawn = f"{share * len(mixture):,.1f}"
        test += "" if own[name] else "*"
        table.add_row(name, rows.specs[name].task, train, val, test, weight, f"{100 * share:.1f} %", drawn)
    return table
