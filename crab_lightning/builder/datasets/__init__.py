"""The importers of the datasets, each in its own file."""

from __future__ import annotations

from importlib import import_module

from crab_lightning.builder.datasets import avsbench
from crab_lightning.builder.rows import Importer
from crab_lightning.spelling import did_you_mean


def _named(*names: str) -> dict[str, Importer]:
    return {name: import_module(f"{__name__}.{name}").IMPORTER for name in names}


IMPORTERS = (
    _named("ks", "ucf", "meld", "mafw", "dfew", "mer24", "cremad", "vgg_cm", "unav", "ave", "avvp")
    | {"arig": avsbench.BOXES, "avs": avsbench.MASKS}
    | _named("ref_avs", "avcap", "avqa", "avqa_thu")
)
"""The importers by their name on the command line, in the order of the paper's Table 1."""


def get_importer(name: str) -> Importer:
    """Return an importer by its name.

    Raises:
        ValueError: If there is no such importer; the message names the importer of the task of this name, or
            a similar name and all names.
    """
    if name in IMPORTERS:
        return IMPORTERS[name]
    owner = next((key for key, one in IMPORTERS.items() if name in one.tasks), None)
    if owner is not None:
        hint = f"; the task {name} is filled by --dataset {owner}"
    else:
        hint = f"{did_you_mean(name, IMPORTERS)}; there are: {', '.join(IMPORTERS)}"
    raise ValueError(f"--dataset {name}: there is no such dataset{hint}")
