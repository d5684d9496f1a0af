"""Import Kinetics-Sounds (task ``ks``): the 31 audible classes of Kinetics-400."""

from __future__ import annotations

from crab_lightning.builder.datasets.youtube import find_piece
from crab_lightning.builder.rows import Imported, Importer, Settings, answer
from crab_lightning.builder.source import AnnotationError, Source, read_bare, read_lines, read_table, whole

_NAMES = """
blowing nose; blowing out candles; bowling; chopping wood; dribbling basketball; laughing; mowing lawn;
playing accordion; playing bagpipes; playing bass guitar; playing clarinet; playing drums; playing guitar;
playing harmonica; playing keyboard; playing organ; playing piano; playing saxophone; playing trombone;
playing trumpet; playing violin; playing xylophone; ripping paper; shoveling snow; shuffling cards; singing;
stomping grapes; tap dancing; tapping guitar; tapping pen; tickling
"""
CLASSES = tuple(name.strip() for name in _NAMES.split(";"))
"""The 31 classes of AdaMML and of the OGM-GE lists, whose labels are indices in this order."""


def read(source: Source, settings: Settings) -> Imported:
    """Read the Kinetics-400 tables (the validation part becomes the test split), or the OGM-GE lists."""
    found = Imported()
    classes = CLASSES
    if settings.classes is not None:
        classes = tuple(line.strip() for _, line in read_lines(settings.classes))
    if settings.lists == "ogm":
        for split, file in (("train", "my_train.txt"), ("test", "my_test.txt")):
            path = source.annotation(file)
            for line, (name, _, label) in read_bare(path, 3):
                index = whole(path, line, "the label", label)
                if not 0 <= index < len(classes):
                    raise AnnotationError(
                        f"{path}, line {line}: label {index}; there are {len(classes)} classes"
                    )
                parts = name.rsplit("_", 2 if split == "train" else 1)
                start = whole(path, line, "the start second", parts[1])
                end = whole(path, line, "the end second", parts[2]) if len(parts) == 3 else start + 10
                _add(found, source, split, classes[index], parts[0], start, end)
        return found
    columns = ("label", "youtube_id", "time_start", "time_end")
    for split, files in (("train", ("train.csv",)), ("test", ("validate.csv", "val.csv"))):
        path = source.annotation(*(f"kinetics400/{file}" for file in files), *files)
        for line, row in read_table(path, ",", columns):
            if row["label"] not in classes:
                continue
            start, end = (whole(path, line, key, row[key]) for key in columns[2:])
            _add(found, source, split, row["label"], row["youtube_id"], start, end)
    return found


def _add(found: Imported, source: Source, split: str, action: str, vid: str, start: int, end: int) -> None:
    name = f"{vid}_{start:06d}_{end:06d}"
    path, piece = find_piece(source, (name,), vid, start, end)
    values, taught = {"action": action}, {"label": answer(action, "")}
    found.add_clip("ks", split, name, path, name, values, taught, audio=".wav", piece=piece)


IMPORTER = Importer(
    title="Kinetics-Sounds",
    tasks=("ks",),
    read=read,
    expected={},
    paper_k=20.1,
    access="Kinetics-400 tables and CVDF mirror open; no licence was found",
    files="train.csv, validate.csv of Kinetics-400 (or my_train.txt, my_test.txt of OGM-GE with --lists ogm);"
    " <id>_<start, 6 digits>_<end, 6 digits>.mp4",
    options=("classes", "lists"),
)
