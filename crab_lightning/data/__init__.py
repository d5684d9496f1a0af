"""AV-UIE v2 on disk to batches: manifests, splits, the mixture and the one DataModule."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crab_lightning.data.datamodule import AVDataModule
    from crab_lightning.data.dataset import AVDataset
    from crab_lightning.data.layouts import LAYOUTS, has_test
    from crab_lightning.data.loader import BatchLoader, TrainLoader
    from crab_lightning.data.loading import LoadedMedia, SampleError, load_media
    from crab_lightning.data.manifests import ManifestError, read_manifest
    from crab_lightning.data.mixture import Mixture
    from crab_lightning.data.mixture_table import MixtureRow
    from crab_lightning.data.samplers import Draw, EvalBatches, TrainBatches
    from crab_lightning.data.split import carve_validation
    from crab_lightning.data.stage1 import CaptionDataModule
    from crab_lightning.data.stage1_files import CaptionSource, read_captions, read_segments

# The DataModule imports Lightning, which takes seconds: only when it is asked for.
_HOMES = {
    "AVDataModule": "datamodule",
    "AVDataset": "dataset",
    "BatchLoader": "loader",
    "CaptionDataModule": "stage1",
    "CaptionSource": "stage1_files",
    "Draw": "samplers",
    "EvalBatches": "samplers",
    "LAYOUTS": "layouts",
    "LoadedMedia": "loading",
    "ManifestError": "manifests",
    "Mixture": "mixture",
    "MixtureRow": "mixture_table",
    "SampleError": "loading",
    "TrainBatches": "samplers",
    "TrainLoader": "loader",
    "carve_validation": "split",
    "has_test": "layouts",
    "load_media": "loading",
    "read_captions": "stage1_files",
    "read_manifest": "manifests",
    "read_segments": "stage1_files",
}

__all__ = [
    "LAYOUTS",
    "AVDataModule",
    "AVDataset",
    "BatchLoader",
    "CaptionDataModule",
    "CaptionSource",
    "Draw",
    "EvalBatches",
    "LoadedMedia",
    "ManifestError",
    "Mixture",
    "MixtureRow",
    "SampleError",
    "TrainBatches",
    "TrainLoader",
    "carve_validation",
    "has_test",
    "load_media",
    "read_captions",
    "read_manifest",
    "read_segments",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
