"""Build a data root in the AV-UIE v2 layout from the datasets as their owners publish them."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.builder.datasets import IMPORTERS as IMPORTERS
    from crab_lightning.builder.datasets import get_importer as get_importer
    from crab_lightning.builder.importing import import_dataset as import_dataset
    from crab_lightning.builder.rows import Settings as Settings
    from crab_lightning.builder.source import Source as Source
    from crab_lightning.builder.statistics import read_statistics as read_statistics
    from crab_lightning.builder.statistics_page import write_statistics as write_statistics

__getattr__, __all__ = lazy_exports(__name__, __file__)
