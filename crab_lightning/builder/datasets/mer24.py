"""Import MER2024 (task ``mer24``): the labelled part; the labels of the test parts are not published."""

from __future__ import annotations

from pathlib import Path

from crab_lightning.builder.rows import Imported, Importer, Settings, answer
from crab_lightning.builder.source import AnnotationError, Source, read_table

CLASSES = ("neutral", "angry", "happy", "sad", "worried", "surprise")


def read(source: Source, settings: Settings) -> Imported:
    """Read the table of discrete labels, and the labelled test set of ``test_labels`` if it is given."""
    found = Imported()
    _read(found, source, source.annotation("label-disdim.csv"), "train")
    if settings.test_labels is not None:
        _read(found, source, settings.test_labels, "test")
    else:
        found.notes[
            "no test rows: the owners publish no test labels; --test-labels takes a csv of your own"
        ] = 1
    return found


def _read(found: Imported, source: Source, path: Path, split: str) -> None:
    for line, row in read_table(path, ",", ("name", "discrete")):
        name, emotion = row["name"], row["discrete"]
        if emotion not in CLASSES:
            raise AnnotationError(
                f"{path}, line {line}: discrete is {emotion!r}; one of {', '.join(CLASSES)} is expected"
            )
        video = source.media(name, inside="video-labeled") or source.media(name)
        values, taught = {"discrete": emotion}, {"label": answer(emotion)}
        wanted = f"video-labeled/{name}.mp4"
        found.add_clip("mer24", split, name, video, name, values, taught, audio=".wav", wanted=wanted)


IMPORTER = Importer(
    title="MER2024",
    tasks=("mer24",),
    read=read,
    expected={("mer24", "train"): 5030},
    paper_k=4.8,
    access="on request, EULA, academic, no redistribution (zeroQiaoba/MERTools)",
    files="label-disdim.csv; video-labeled/<name>.mp4",
    options=("test_labels",),
)
