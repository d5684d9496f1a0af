"""The data of a run that points, for commands that are tested without a model."""

from __future__ import annotations

from types import SimpleNamespace

from crab_lightning.structures import AudioWindow, DatasetSpec
from crab_lightning.tasks import ReferringSegmentation, Segmentation


def pointing() -> SimpleNamespace:
    """Return two datasets with their tasks; a command may give a task masks."""
    return SimpleNamespace(
        tasks={"segmentation": Segmentation(), "referring_segmentation": ReferringSegmentation()},
        datasets={
            "s4": DatasetSpec("segmentation", "s4", audio=AudioWindow("one_unit", 5)),
            "ref_avs": DatasetSpec("referring_segmentation", "ref_avs", audio=AudioWindow("one_unit", 10)),
        },
        taught=["s4", "ref_avs"],
    )
