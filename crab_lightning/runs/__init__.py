"""Run folders: their names, checkpoints, interruption and random state."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.runs.checkpoint import RunCheckpoint as RunCheckpoint
    from crab_lightning.runs.folder_callback import RunFolder as RunFolder
    from crab_lightning.runs.run_folder import find_checkpoint as find_checkpoint
    from crab_lightning.runs.run_folder import find_run as find_run

__getattr__, __all__ = lazy_exports(__name__, __file__)
