"""Names and places that follow from a media path of a manifest: recordings, frame numbers, masks.

All of these look at the relative path of the manifest only. A replacement on the whole path would break a
data root that happens to hold ``/media/`` or ``/frames/``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from crab_lightning.data.manifests.layout_columns import ColumnError

_UCF_CLIP = re.compile(r"(v_.+_g[0-9]+)_c[0-9]+")


def stem_clip(value: str) -> str:
    """Name a recording by its path without extension, so that its video and audio file agree."""
    # Strings, not paths: this runs for each of 222,000 rows.
    stem, _, extension = value.rpartition(".")
    return stem if stem and not stem.endswith("/") and "/" not in extension else value


def ucf_recording(value: str) -> str:
    """Name a UCF101 recording: clips ``v_Class_gNN_cMM`` of one group ``gNN`` were cut from one video."""
    stem = stem_clip(value)
    match = _UCF_CLIP.search(stem)
    return match[1] if match else stem


def image_clip(value: str) -> str:
    """Name the recording of a frame: the folder that holds ``frames/`` and the audio file."""
    path = PurePosixPath(value)
    parent = path.parent
    return str(parent.parent) if parent.name == "frames" else str(parent)


def arig_frame(image: str) -> int:
    """Return the frame number that an image file is named by.

    Raises:
        ColumnError: If the stem is not a whole number.
    """
    stem = PurePosixPath(image).stem
    if not (stem.isascii() and stem.isdigit()):
        raise ColumnError("an image file named by its frame number, such as 'frames/3.jpg'")
    return int(stem)


def avs_masks(fields: dict[str, Any], image: str, place: Callable[[str], Any]) -> None:
    """Add ``mask_candidates`` of AVSBench: ``frames/<i>.jpg`` has its mask in ``labels_rgb/<i>.png``.

    None for an image outside a ``frames`` folder: it would otherwise be taken for its own mask.
    """
    if "/frames/" not in image:
        fields["mask_candidates"] = ()
        return
    mask = str(PurePosixPath(image.replace("/frames/", "/labels_rgb/")).with_suffix(".png"))
    fields["mask_candidates"] = (place(mask),)


def ref_avs_masks(fields: dict[str, Any], image: str, place: Callable[[str], Any]) -> None:
    """Add ``mask_candidates`` of Ref-AVS: where the released code looks, then where its manual says."""
    tail = f"fid_{fields['object_id']}/0000{fields['frame']}.png"
    clip = image_clip(image)
    beside = f"{clip.replace('/media/', '/gt_mask/')}/{tail}"
    inside = f"{clip}/gt_mask/{tail}"
    fields["mask_candidates"] = (place(beside), place(inside))
