"""Import LLP (task ``avvp``).

Training has weak labels. Validation and test have the times of visible events and of audible events.
"""

from __future__ import annotations

from collections import defaultdict

from crab_lightning.builder.datasets.youtube import find_piece, split_times
from crab_lightning.builder.rows import Imported, Importer, Settings
from crab_lightning.builder.source import AnnotationError, Source, read_table, whole

CLIP_S = 10
_SENSES = (("visual", "AVVP_eval_visual.csv"), ("audio", "AVVP_eval_audio.csv"))
_Times = dict[str, dict[str, list[tuple[str, int, int]]]]


def read(source: Source, settings: Settings) -> Imported:
    """Read the weak labels and add the times to the rows that have times.

    The rows of the training file have no times. They are written to ``weak.json``, with the weak labels in
    ``event``, so that times can be found later (``build reason``). With ``whole_clip``, every label lasts the
    whole clip instead. The rows of the validation file have times; they are training rows unless ``val`` is
    ``leave``.
    """
    found = Imported()
    files = [("train", "AVVP_train.csv"), ("test", "AVVP_test_pd.csv")]
    if settings.val != "leave":
        files.insert(1, ("train", "AVVP_val_pd.csv"))
    weak = {}
    for split, file in files:
        path = source.annotation(file)
        for line, row in read_table(path, "\t", ("filename", "event_labels")):
            if split_times(row["filename"]) is None:
                raise AnnotationError(
                    f"{path}, line {line}: {row['filename']!r} is not an <id>_<start>_<end>. Correct the "
                    "line."
                )
            weak[row["filename"]] = (split, file, row["event_labels"])
    known = weak.keys() | _left_out(source, settings)
    times = {sense: _times(source, file, known, found) for sense, file in _SENSES}
    for filename, (split, file, labels) in weak.items():
        timed = file != "AVVP_train.csv"
        names = [name for name in labels.split(",") if name]
        if timed:
            spans = {sense: times[sense].get(filename, {}) for sense, _ in _SENSES}
            texts = {sense: {n: [t[1:] for t in s] for n, s in spans[sense].items()} for sense in spans}
        elif settings.whole_clip:
            texts = {sense: {name: [(0, CLIP_S)] for name in names} for sense, _ in _SENSES}
        else:
            texts = {}
        _add(found, source, filename, split if texts else "weak", labels, texts)
    if any(row.split == "weak" for row in found.rows):
        found.notes["training rows in weak.json have no times; use `build reason` or --whole-clip"] = sum(
            row.split == "weak" for row in found.rows
        )
    return found


def _left_out(source: Source, settings: Settings) -> set[str]:
    """Return the names of the validation rows that are left out; lines with their times are not errors."""
    path = source.file("AVVP_val_pd.csv")
    if settings.val != "leave" or path is None:
        return set()
    return {row["filename"] for _, row in read_table(path, "\t", ("filename",))}


def _times(source: Source, file: str, known: set[str], found: Imported) -> _Times:
    """Return the times of each clip and class; only note the lines that the official scorer ignores."""
    path = source.annotation(file)
    times: _Times = defaultdict(lambda: defaultdict(list))
    for line, row in read_table(path, "\t", ("filename", "onset", "offset", "event_labels")):
        onset, offset = (whole(path, line, key, row[key]) for key in ("onset", "offset"))
        event = (row["event_labels"], onset, min(offset, CLIP_S))
        if row["filename"] not in known:
            found.notes[f"{file}: lines of a clip that no row names"] += 1
        elif onset >= event[2]:
            found.notes[f"{file}: lines that end before they start"] += 1
        elif event in times[row["filename"]][event[0]]:
            found.notes[f"{file}: repeated lines"] += 1
        else:
            times[row["filename"]][event[0]].append(event)
    return times


def _add(
    found: Imported,
    source: Source,
    filename: str,
    split: str,
    labels: str,
    texts: dict[str, dict[str, list[tuple[int, int]]]],
) -> None:
    parts = split_times(filename)
    assert parts is not None
    vid, start_s, end_s = parts
    path, piece = find_piece(source, (filename,), vid, start_s, end_s)
    event = labels if split == "weak" else modal_tags(texts)
    if split == "train" and not event:
        found.reject("avvp", split, filename, "no line with times names it, so it has no text")
        return
    values = {"filename": filename, "vid": vid, "event": event}
    found.add_clip("avvp", split, filename, path, vid, values, {"label_content": event}, piece=piece)


def modal_tags(texts: dict[str, dict[str, list[tuple[int, int]]]]) -> str:
    """Return ``<visual_event>NAME,(s e),(s e)</visual_event>`` for each visible class, then for each audible.

    Args:
        texts: Start and end in seconds by sense (``visual``, ``audio``) and class.
    """
    return "".join(
        f"<{sense}_event>{name},{','.join(f'({s} {e})' for s, e in sorted(spans))}</{sense}_event>"
        for sense, classes in texts.items()
        for name, spans in classes.items()
        if spans
    )


IMPORTER = Importer(
    title="LLP",
    tasks=("avvp",),
    read=read,
    expected={("avvp", "train"): 649, ("avvp", "test"): 1200, ("avvp", "weak"): 10000},
    paper_k=9.9,
    access="csv files open, README says GPL v3 (YapengTian/AVVP-ECCV20); videos from YouTube",
    files="AVVP_train.csv, AVVP_val_pd.csv, AVVP_test_pd.csv, AVVP_eval_audio.csv, AVVP_eval_visual.csv;"
    " <id>.mp4",
    options=("val", "whole_clip"),
)
