"""Import Ref-AVS (task ``ref_avs``): expressions for objects in audible scenes; some objects are absent."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from crab_lightning.builder.datasets.avsbench import spread
from crab_lightning.builder.points import new_text
from crab_lightning.builder.rows import Imported, Importer, Media, Row, Settings
from crab_lightning.builder.source import AnnotationError, Source, read_table, whole

if TYPE_CHECKING:
    from crab_lightning.segmentation import Prompt

FRAMES = 10
_SPLITS = {"train": "train", "val": "val", "test_s": "test", "test_u": "test", "test_n": "test"}
_NULL = "null"


def read(source: Source, settings: Settings) -> Imported:
    """Read the table: some frames of every training expression, and all ten of every test expression."""
    found = Imported()
    path = source.annotation("metadata.csv")
    seen: set[tuple[str, ...]] = set()
    for line, row in read_table(path, ",", ("vid", "uid", "split", "fid", "exp")):
        if row["split"] == "TODO":
            found.notes["rows of the split TODO, which the owners' code does not use"] += 1
            continue
        if row["split"] not in _SPLITS:
            known = ", ".join(_SPLITS)
            raise AnnotationError(f"{path}, line {line}: split is {row['split']!r}; one of {known} expected")
        split = _SPLITS[row["split"]]
        if split == "val":
            if settings.val != "train":
                continue
            split = "train"
        parts = row["uid"].rsplit("_", 2)
        if len(parts) != 3:
            raise AnnotationError(f"{path}, line {line}: uid {row['uid']!r}; <clip>_<object>_<n> is expected")
        if tuple(row.values()) in seen:
            found.notes["repeated rows, kept as published"] += 1
        seen.add(tuple(row.values()))
        expression = row["exp"].strip()
        if not expression or expression.startswith("[Error]"):
            found.reject("ref_avs", split, row["uid"], f"its expression is not a description: {expression!r}")
            continue
        object_id = whole(path, line, "fid", row["fid"])
        frames = range(FRAMES) if split == "test" else spread(settings.frames or 2, FRAMES)
        for frame in frames:
            found.rows.append(_row(source, split, row, parts[0], parts[1], object_id, expression, frame))
    return found


def _row(
    source: Source,
    split: str,
    row: dict[str, str],
    clip: str,
    named: str,
    object_id: int,
    expression: str,
    frame: int,
) -> Row:
    # The folder is the first part of uid: for an absent object, it has a prefix that vid does not have.
    image, sound = f"{clip}/frames/{frame}.jpg", f"{clip}/audio.wav"
    tail = f"{clip}/fid_{object_id}/{frame:05d}.png"
    picture, mask = source.file(image), source.file(tail)
    truth = Media(f"REFAVS/gt_mask/{tail}", mask, f"gt_mask/{tail}")
    if mask is None and named == _NULL:  # the empty mask of an absent object may not be published
        truth = Media(truth.place, picture, truth.wanted, "empty_mask")
    media = (
        Media(f"REFAVS/media/{image}", picture, f"media/{image}"),
        Media(f"REFAVS/media/{sound}", source.file(sound), f"media/{sound}"),
        truth,
    )
    values: dict[str, Any] = {"audio_path": f"REFAVS/media/{sound}", "vid": row["vid"], "uid": row["uid"]}
    values["fid"] = object_id
    if split == "test":
        values |= {
            "visual_path": f"REFAVS/media/{image}",
            "object": expression,
            "split": row["split"],
            "frame_idx": frame,
        }
        return Row("ref_avs", split, f"{row['uid']} frame {frame}", values, media)
    values |= {"image_path": f"REFAVS/media/{image}", "idx": frame, "description": expression}
    finish = partial(_text, named)
    return Row("ref_avs", split, f"{row['uid']} frame {frame}", values, media, mask, finish)


def _text(named: str, values: dict[str, Any], prompt: Prompt | None) -> str | None:
    absent = prompt is None or named == _NULL
    values["output"] = new_text("ref_avs", "", None if absent else prompt, named)[0]
    return None


IMPORTER = Importer(
    title="Ref-AVS",
    tasks=("ref_avs",),
    read=read,
    expected={("ref_avs", "train"): 14113 * 2, ("ref_avs", "test"): (2288 + 1656 + 1028) * FRAMES},
    paper_k=30.7,
    access="open from the project page (GeWu-Lab/Ref-AVS), MIT",
    files="metadata.csv; media/<clip>/audio.wav, frames/<i>.jpg; gt_mask/<clip>/fid_<n>/0000<i>.png",
    options=("val", "frames"),
)
