"""Import MELD (task ``meld``): utterances of a TV series; ids start again from 0 in each part."""

from __future__ import annotations

from crab_lightning.builder.rows import Imported, Importer, Settings, answer
from crab_lightning.builder.source import Source, read_table, whole

_FOLDERS = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
_BADLY_CUT = {
    ("test", "dia220_utt0"): "lasts 4 minutes",
    ("test", "dia38_utt4"): "lasts 5 minutes",
    ("train", "dia309_utt0"): "is cut wrongly",
}
"""Errors that the issues of the owner's repository report. The files can be read, so the rows are kept."""


def read(source: Source, settings: Settings) -> Imported:
    """Read the tables; the 11.0 thousand samples of the paper are the training and development parts."""
    found = Imported()
    parts = ["train", "test"] if settings.val == "leave" else ["train", "dev", "test"]
    for part in parts:
        path = source.annotation(f"{part}_sent_emo.csv")
        columns = ("Emotion", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
        split = "test" if part == "test" else "train"
        for line, row in read_table(path, ",", columns):
            dialogue, utterance = (whole(path, line, key, row[key]) for key in columns[1:3])
            name = f"dia{dialogue}_utt{utterance}"
            if (part, name) in _BADLY_CUT:
                found.notes[f"{part}/{name} {_BADLY_CUT[part, name]} as published"] = 1
            if row["StartTime"] == row["EndTime"]:
                found.notes[f"{part}: rows whose times in the episode have no length"] += 1
            # The same names occur in all three parts, so the names of development clips get a prefix.
            clip = f"{split}/{'dev_' if part == 'dev' else ''}{name}"
            video = source.media(name, inside=_FOLDERS[part])
            wanted = f"{_FOLDERS[part]}/{name}.mp4"
            values, taught = {"Emotion": row["Emotion"]}, {"label": answer(row["Emotion"])}
            found.add_clip("meld", split, f"{part} {name}", video, clip, values, taught, wanted=wanted)
    return found


IMPORTER = Importer(
    title="MELD",
    tasks=("meld",),
    read=read,
    expected={("meld", "train"): 11098, ("meld", "test"): 2610},
    paper_k=11.0,
    access="open (declare-lab/MELD), GPL v3",
    files="train_, dev_, test_sent_emo.csv; train_splits/, dev_splits_complete/,"
    " output_repeated_splits_test/ with dia<n>_utt<n>.mp4",
    options=("val",),
)
