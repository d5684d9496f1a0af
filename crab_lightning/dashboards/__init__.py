"""The displays of a running run: scalars, progress, pictures and sheets of masks."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.dashboards.gradient_conflict import GradientConflict as GradientConflict
    from crab_lightning.dashboards.mask_sheets import MaskSheets as MaskSheets
    from crab_lightning.dashboards.pictures import Pictures as Pictures
    from crab_lightning.dashboards.progress import RunProgress as RunProgress
    from crab_lightning.dashboards.scalars import TrainScalars as TrainScalars

__getattr__, __all__ = lazy_exports(__name__, __file__)
