"""Makes batches from data on disk: manifests, splits, the mixture and the DataModule."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.data.captions.datamodule import CaptionDataModule as CaptionDataModule
    from crab_lightning.data.captions.files import CaptionSource as CaptionSource
    from crab_lightning.data.captions.files import read_captions as read_captions
    from crab_lightning.data.captions.files import read_segments as read_segments
    from crab_lightning.data.datamodule import AVDataModule as AVDataModule
    from crab_lightning.data.dataset import AVDataset as AVDataset
    from crab_lightning.data.loader import BatchLoader as BatchLoader
    from crab_lightning.data.loader import TrainLoader as TrainLoader
    from crab_lightning.data.loading import LoadedMedia as LoadedMedia
    from crab_lightning.data.loading import SampleError as SampleError
    from crab_lightning.data.loading import load_media as load_media
    from crab_lightning.data.manifests.column_types import ColumnError as ColumnError
    from crab_lightning.data.manifests.files import has_test as has_test
    from crab_lightning.data.manifests.layout import LAYOUTS as LAYOUTS
    from crab_lightning.data.manifests.layout import Layout as Layout
    from crab_lightning.data.manifests.layout import Parts as Parts
    from crab_lightning.data.manifests.reader import ManifestError as ManifestError
    from crab_lightning.data.manifests.reader import read_manifest as read_manifest
    from crab_lightning.data.manifests.split import carve_validation as carve_validation
    from crab_lightning.data.sampling.mixture import Mixture as Mixture
    from crab_lightning.data.sampling.samplers import Draw as Draw
    from crab_lightning.data.sampling.samplers import EvalBatches as EvalBatches
    from crab_lightning.data.sampling.samplers import TrainBatches as TrainBatches

__getattr__, __all__ = lazy_exports(__name__, __file__)
