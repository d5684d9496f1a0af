"""Import AVSBench: S4 and MS3 (tasks ``s4`` and ``ms3``), and the boxes of S4 (task ``arig``)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from crab_lightning.builder.points import new_text
from crab_lightning.builder.rows import Imported, Importer, Media, Row, Settings
from crab_lightning.builder.source import AnnotationError, Source, read_table

if TYPE_CHECKING:
    from crab_lightning.segmentation import Prompt

FRAMES = 5
_LABELS = {"s4": "v1s", "ms3": "v1m", "arig": "v1s"}


def read(source: Source, settings: Settings, tasks: tuple[str, ...]) -> Imported:
    """Read some tasks; the boxes and points of the sounding objects come from their masks."""
    found = Imported()
    older = source.file("s4_meta_data.csv")
    if source.file("metadata.csv") is None and older is not None:
        raise AnnotationError(
            f"{older}: this is AVSBench-object (2022). The released layout is that of AVSBench-semantic "
            "(2023), which contains the same clips; download it, and give its folder with metadata.csv"
        )
    path = source.annotation("metadata.csv")
    for line, row in read_table(path, ",", ("vid", "uid", "a_obj", "split", "label")):
        if row["split"] not in ("train", "val", "test"):
            raise AnnotationError(
                f"{path}, line {line}: split is {row['split']!r}; train, val or test is expected. "
                "Is it the metadata.csv of Ref-AVS?"
            )
        split = "train" if row["split"] == "val" and settings.val == "train" else row["split"]
        if split == "val":
            continue
        for task in tasks:
            if row["label"] == _LABELS[task]:
                found.rows += _rows(source, settings, task, split, row)
    return found


def frames_of(task: str, split: str, frames: int | None) -> list[int]:
    """Return the numbers of the frames of a clip that become rows.

    For training, this is the first frame of S4 (the only frame with a mask, and the one whose sound the
    released layout uses), evenly spread frames of MS3, and the first frames of ARIG. For test, it is all five
    frames.

    Args:
        task: ``s4``, ``ms3`` or ``arig``.
        split: ``train`` or ``test``.
        frames: Number of training frames; by default, 2 for MS3 and 1 for ARIG. S4 always has 1.
    """
    if split == "test":
        return list(range(FRAMES))
    if task == "ms3":
        return spread(frames or 2, FRAMES)
    return [0] if task == "s4" else list(range(min(frames or 1, FRAMES)))


def spread(count: int, of: int) -> list[int]:
    """Return the middles of ``count`` equal parts of ``of`` frames; all frames if ``count`` >= ``of``."""
    return list(range(of)) if count >= of else [int((i + 0.5) * of / count) for i in range(count)]


def _rows(source: Source, settings: Settings, task: str, split: str, row: dict[str, str]) -> Iterator[Row]:
    folder = f"{row['label']}/{row['uid']}"
    named = row["a_obj"].replace("_", " and ")  # "_" joins several names; a name itself contains "-"
    for frame in frames_of(task, split, settings.frames):
        image, sound = f"{folder}/frames/{frame}.jpg", f"{folder}/audio.wav"
        mask = source.file(f"{folder}/labels_rgb/{frame}.png") or source.file(
            f"{folder}/labels_semantic/{frame}.png"
        )
        media = (
            Media(f"AVS/{image}", source.file(image), image),
            Media(f"AVS/{sound}", source.file(sound), sound),
            # In both kinds of masks, the object is where the value is above 0.
            Media(f"AVS/{folder}/labels_rgb/{frame}.png", mask, f"{folder}/labels_rgb/{frame}.png"),
        )
        names: dict[str, Any] = {"audio_path": f"AVS/{sound}", "a_obj": named}
        names["image_path" if split == "train" else "visual_path"] = f"AVS/{image}"
        if task != "arig":
            names |= {"vid": row["vid"], "uid": row["uid"]}
        if split == "test" or task == "ms3":
            names["frame_idx"] = frame
        yield Row(task, split, f"{row['uid']} frame {frame}", names, media, mask, _finish(task, split, named))


def _finish(task: str, split: str, named: str) -> Any:
    if split == "train":
        return partial(_text, task, named)
    return _corners if task == "arig" else None


def _text(task: str, named: str, values: dict[str, Any], prompt: Prompt | None) -> str | None:
    text, trouble = new_text(task, "", prompt, named)
    values["label_content"] = text
    return None if trouble is None else "its mask is empty: nothing sounds in this frame"


def _corners(values: dict[str, Any], prompt: Prompt | None) -> str | None:
    if prompt is None or prompt.box_xyxy_px is None:
        return "its mask is empty: there is no box"
    x1, y1, x2, y2 = (int(side) for side in prompt.box_xyxy_px)
    values |= {"top_left": [x1, y1], "bottom_right": [x2, y2]}
    return None


_ACCESS = "on request, form or mail (OpenNLPLab/AVSBench)"
_FILES = "metadata.csv of AVSBench-semantic; {}/<uid>/audio.wav, frames/<i>.jpg, labels_rgb/<i>.png"

MASKS = Importer(
    title="AVSBench S4 and MS3",
    tasks=("s4", "ms3"),
    read=partial(read, tasks=("s4", "ms3")),
    expected={
        ("s4", "train"): 3452,
        ("s4", "test"): 740 * FRAMES,
        ("ms3", "train"): 296 * 2,
        ("ms3", "test"): 64 * FRAMES,
    },
    paper_k=4.0,
    access=_ACCESS,
    files=_FILES.format("v1s and v1m"),
    options=("val", "frames"),
)
BOXES = Importer(
    title="ARIG, the boxes of AVSBench S4",
    tasks=("arig",),
    read=partial(read, tasks=("arig",)),
    expected={("arig", "train"): 3452, ("arig", "test"): 740 * FRAMES},
    paper_k=3.4,
    access=_ACCESS,
    files=_FILES.format("v1s"),
    options=("val", "frames"),
)
