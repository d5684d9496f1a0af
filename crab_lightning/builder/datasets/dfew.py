"""Import DFEW (task ``dfew``): single labels as numbers, first split."""

from __future__ import annotations

from crab_lightning.builder.rows import Imported, Importer, Settings, answer
from crab_lightning.builder.source import AnnotationError, Source, read_table, whole

CLASSES = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
"""The emotions of the labels 1 to 7."""


def read(source: Source, settings: Settings) -> Imported:
    """Read the two tables and find the original clips: only these have sound."""
    found = Imported()
    for split in ("train", "test"):
        path = source.annotation(f"{split}(single-labeled)/set_1.csv", f"single_{split}set_1.csv")
        for line, row in read_table(path, ",", ("video_name", "label")):
            number = whole(path, line, "video_name", row["video_name"].removesuffix(".mp4"))
            label = whole(path, line, "label", row["label"])
            if label == 0:
                found.reject(
                    "dfew", split, str(number), "label 0: its annotators do not agree on one emotion"
                )
                continue
            if not 1 <= label <= len(CLASSES):
                raise AnnotationError(
                    f"{path}, line {line}: label is {label}; 1 to {len(CLASSES)} is expected"
                )
            emotion, name = CLASSES[label - 1], str(number)
            video, wanted = source.media(name, inside="original"), f"original/part_*/{name}.mp4"
            values, taught = {"emotion": emotion}, {"label": answer(emotion)}
            found.add_clip("dfew", split, name, video, name, values, taught, audio=".wav", wanted=wanted)
    return found


IMPORTER = Importer(
    title="DFEW",
    tasks=("dfew",),
    read=read,
    expected={},
    paper_k=9.3,
    access="on request (dfew-dataset.github.io)",
    files="EmoLabel_DataSplit/{train,test}(single-labeled)/set_1.csv; Clip/original/part_*/<n>.mp4",
)
