"""Write boxes and points from masks into the training texts of the spatial datasets (paper, eq. 1)."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crab_lightning.segmentation import Prompt
    from crab_lightning.structures import Sample

SPATIAL = ("s4", "ms3", "ref_avs", "arig")
_TASKS = {"ref_avs": "referring_segmentation", "arig": "image_grounding"}
_KEYS = {"ref_avs": "output"}
_BOX = re.compile(r"\[\s*\d+\s*,\s*\d+\s*,\s*\d+\s*,\s*\d+\s*\]")
_POINT = r"\[\s*\d+\s*,\s*\d+\s*\]"
_POINTS = re.compile(rf"{_POINT}(?:[\s,]*(?:and\s+)?{_POINT})*")
_CORNERS = re.compile(r"\(\s*\d+\s*,\s*\d+\s*\)\s*\(\s*\d+\s*,\s*\d+\s*\)")
_FALSE = "<answer>false</answer>"


@dataclass
class Rebuilt:
    """The new content of one training file.

    Args:
        path: The file.
        rows: The rows of the file, with the new texts.
        counts: Number of rows by outcome, such as ``changed``.
        notes: For each problem, a message that names the first row with it.
        example: A text before and after the change; ``None`` if no text changed.
    """

    path: Path
    rows: list[dict[str, Any]]
    counts: Counter[str] = field(default_factory=Counter)
    notes: dict[str, str] = field(default_factory=dict)
    example: tuple[str, str] | None = None


def rebuild(root: Path, dataset: str, frame_px: int, max_iou: float) -> Rebuilt:
    """Return one training file with boxes and points computed again from the masks; write nothing.

    Args:
        root: Data root.
        dataset: ``s4``, ``ms3``, ``ref_avs`` or ``arig``.
        frame_px: Side of the square frame in pixels.
        max_iou: Largest allowed IoU of two inscribed circles, whose centres are the points.

    Raises:
        ValueError: If the manifest or a mask is missing or cannot be read.
    """
    from crab_lightning.data import read_manifest
    from crab_lightning.media import read_mask
    from crab_lightning.segmentation import prompt_of
    from crab_lightning.structures import DatasetSpec

    spec = DatasetSpec(task=_TASKS.get(dataset, "segmentation"), layout=dataset)
    path = root / "AVUIE_2" / dataset / "train.json"
    samples = read_manifest(root, dataset, spec, "train", check_media=False)
    result = Rebuilt(path, json.loads(path.read_text(encoding="utf-8-sig")))  # readable: it was read above
    key = _KEYS.get(dataset, "label_content")
    for sample in samples:
        row = result.rows[sample.row]
        before = str(row.get(key) or "")
        where = f"row {sample.row} ({sample.images[0].name} of {sample.clip})"
        mask = _mask_file(sample)
        if mask is None:
            raise ValueError(
                f"{path}, {where}: the image has no mask. Download the masks of {dataset}, or leave this "
                "dataset out with --datasets"
            )
        prompt = prompt_of(read_mask(mask, frame_px).numpy(), max_iou=max_iou)
        after, trouble = new_text(dataset, before, prompt, str(sample.fields.get("object", "")))
        if trouble is not None:
            result.counts[trouble] += 1
            result.notes.setdefault(trouble, f"{trouble}, first {where}")
            continue
        changed = after != before
        result.counts["changed" if changed else "the same"] += 1
        if changed:
            row[key] = after
            result.example = result.example or (before, after)
        x1, y1, x2, y2 = prompt.box_xyxy_px if prompt is not None and prompt.box_xyxy_px else (0, 0, 1, 1)
        if x1 == x2 or y1 == y2:
            text = "of these have a box one pixel wide or high, which the answer parser rejects"
            result.counts[text] += 1
            result.notes.setdefault(text, f"box of one pixel's width, first {where}: {after}")
    return result


def new_text(dataset: str, before: str, prompt: Prompt | None, named: str) -> tuple[str, str | None]:
    """Return the new text of one row, or the old text and the reason why it is not changed.

    Args:
        dataset: Layout of the row: ``s4``, ``ms3``, ``ref_avs`` or ``arig``.
        before: The old text; may be empty.
        prompt: Box and points of the mask; ``None`` for an empty mask.
        named: Name of the object; may be empty for ``ref_avs``.

    Returns:
        The text, and the reason why it is not changed; the reason is ``None`` for a new text.
    """
    from crab_lightning.segmentation import prompt_text

    if dataset == "ref_avs" and prompt is None:
        if _FALSE in before:
            return before, None
        return f"{_FALSE} The object is absent.", None
    if prompt is None:
        return before, "left alone: the mask is empty"
    if dataset == "ref_avs" and _FALSE in before:
        return before, "left alone: the text says that the object is absent, its mask is not empty"
    box, points = prompt_text(prompt)
    if dataset == "arig":
        x1, y1, x2, y2 = (int(side) for side in prompt.box_xyxy_px or ())
        corners = f"({x1},{y1})({x2},{y2})"
        found = len(_CORNERS.findall(before)) + len(_BOX.findall(before))
        if found > 1:
            return before, "left alone: the text has several boxes"
        if found:
            return _BOX.sub(box, _CORNERS.sub(corners, before)), None
        return f"The sounding object is {named}. Its coordinates are <obj>{corners}</obj>.", None
    boxes, runs = len(_BOX.findall(before)), len(_POINTS.findall(before))
    if boxes > 1 or runs > 1:
        return before, "left alone: the text has several boxes or scattered points"
    if boxes == 1 and runs == 1:
        return _POINTS.sub(points, _BOX.sub(box, before)), None
    told = f"Its bounding box is {box} and its points are {points}."
    if dataset == "ref_avs":
        name = f". The object is the {named}." if named else ""
        return f"<answer>true</answer>{name} {told}", None
    return f"The object making the sound is the {named}. {told}", None


def _mask_file(sample: Sample) -> Path | None:
    from crab_lightning.tasks.masks import find_mask

    if "mask_candidates" in sample.fields:
        return find_mask(sample)
    # The clips of arig are those of s4 and have the same masks, but the released layout of arig has no key
    # for them.
    image = sample.images[0]
    mask = image.parent.parent / "labels_rgb" / f"{image.stem}.png"
    return mask if image.parent.name == "frames" and mask.is_file() else None
