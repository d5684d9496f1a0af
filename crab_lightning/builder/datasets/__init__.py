"""The importers, one file each: only what is special to a dataset stands there."""

from __future__ import annotations

from crab_lightning.builder.datasets import (
    avcap,
    ave,
    avqa,
    avqa_thu,
    avsbench,
    avvp,
    cremad,
    dfew,
    ks,
    mafw,
    meld,
    mer24,
    ref_avs,
    ucf,
    unav,
    vgg_cm,
)
from crab_lightning.builder.rows import Importer
from crab_lightning.spelling import did_you_mean

IMPORTERS: dict[str, Importer] = {
    "ks": ks.IMPORTER,
    "ucf": ucf.IMPORTER,
    "meld": meld.IMPORTER,
    "mafw": mafw.IMPORTER,
    "dfew": dfew.IMPORTER,
    "mer24": mer24.IMPORTER,
    "cremad": cremad.IMPORTER,
    "vgg_cm": vgg_cm.IMPORTER,
    "unav": unav.IMPORTER,
    "ave": ave.IMPORTER,
    "avvp": avvp.IMPORTER,
    "arig": avsbench.BOXES,
    "avs": avsbench.MASKS,
    "ref_avs": ref_avs.IMPORTER,
    "avcap": avcap.IMPORTER,
    "avqa": avqa.IMPORTER,
    "avqa_thu": avqa_thu.IMPORTER,
}
"""Name on the command line -> importer, in the order of the paper's Table 1."""


def get_importer(name: str) -> Importer:
    """Return an importer by its name.

    Raises:
        ValueError: If there is none; the message names the dataset that is meant, or all of them.
    """
    if name in IMPORTERS:
        return IMPORTERS[name]
    owner = next((key for key, one in IMPORTERS.items() if name in one.tasks), None)
    if owner is not None:
        hint = f"; the task {name} is filled by --dataset {owner}"
    else:
        hint = f"{did_you_mean(name, IMPORTERS)}; there are: {', '.join(IMPORTERS)}"
    raise ValueError(f"--dataset {name}: there is no such dataset{hint}")
