"""Import MAFW (task ``mafw``): single labels, first split."""

from __future__ import annotations

from crab_lightning.builder.rows import Imported, Importer, Settings, answer
from crab_lightning.builder.source import AnnotationError, Source, read_lines, stem_of

CLASSES = (
    "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety",
    "helplessness", "disappointment",
)  # fmt: skip
_SHORT = {"happy": "happiness", "sad": "sadness"}


def read(source: Source, settings: Settings) -> Imported:
    """Read the two lists; ``happy`` and ``sad`` become ``happiness`` and ``sadness``."""
    found = Imported()
    for split in ("train", "test"):
        path = source.annotation(f"single/no_caption/set_1/{split}.txt", f"set_1/{split}.txt")
        for line, text in read_lines(path):
            file, _, word = text.strip().rpartition(" ")
            emotion = _SHORT.get(word, word)
            if emotion not in CLASSES or not file:
                raise AnnotationError(
                    f"{path}, line {line}: {text!r}; a file and one of {', '.join(CLASSES)} expected"
                )
            name = stem_of(file.strip())
            values, taught = {"emotion": emotion}, {"label": answer(emotion)}
            found.add_clip("mafw", split, name, source.media(name), name, values, taught, audio=".wav")
    return found


IMPORTER = Importer(
    title="MAFW",
    tasks=("mafw",),
    read=read,
    expected={},
    paper_k=6.4,
    access="on request, signed form, academic and non-commercial (MAFW-database/MAFW)",
    files="single/no_caption/set_1/train.txt, test.txt; clips/<5 digits>.mp4",
)
