"""Mask decoders (SAM2, SAM3, EdgeTAM), which make masks from prompts, and prompts made from true masks."""

from typing import TYPE_CHECKING

from crab_lightning.lazy import lazy_exports

if TYPE_CHECKING:
    from crab_lightning.segmentation.decoder import MaskDecoder as MaskDecoder
    from crab_lightning.segmentation.decoder import MaskRequest as MaskRequest
    from crab_lightning.segmentation.overlays import Overlay as Overlay
    from crab_lightning.segmentation.overlays import best_median_worst as best_median_worst
    from crab_lightning.segmentation.overlays import contact_sheet as contact_sheet
    from crab_lightning.segmentation.overlays import overlay_figure as overlay_figure
    from crab_lightning.segmentation.overlays import save_figure as save_figure
    from crab_lightning.segmentation.prompts import Prompt as Prompt
    from crab_lightning.segmentation.prompts import enclosing_box as enclosing_box
    from crab_lightning.segmentation.prompts import prompt_of as prompt_of
    from crab_lightning.segmentation.prompts import prompt_text as prompt_text
    from crab_lightning.segmentation.sam2 import Sam2Decoder as Sam2Decoder
    from crab_lightning.segmentation.sam2_package import Sam2PackageDecoder as Sam2PackageDecoder
    from crab_lightning.segmentation.sam3 import NameTracker as NameTracker
    from crab_lightning.segmentation.sam3 import Sam3Decoder as Sam3Decoder
    from crab_lightning.segmentation.tracker import Sam2Tracker as Sam2Tracker

__getattr__, __all__ = lazy_exports(__name__, __file__)
