"""Import AVQA (task ``avqa_thu``): multiple-choice questions about VGGSound clips.

Papers test on the validation file of the dataset.
"""

from __future__ import annotations

from typing import Any

from crab_lightning.builder.datasets.youtube import find_vggsound
from crab_lightning.builder.rows import Imported, Importer, Settings, answer
from crab_lightning.builder.source import Source, read_objects

_KEYS = (
    "id",
    "video_name",
    "video_id",
    "question_relation",
    "question_type",
    "multi_choice",
    "question_text",
)


def read(source: Source, settings: Settings) -> Imported:
    """Read both files; the rows keep their keys, and the answer remains the index of a choice."""
    found = Imported()
    for split, file in (("train", "train_qa.json"), ("test", "val_qa.json")):
        for entry in read_objects(source.annotation(file), (*_KEYS, "answer")):
            name = str(entry["video_name"])
            label = f"{name} question {entry['id']}"
            options, index = _options(entry["multi_choice"], found), entry["answer"]
            if not isinstance(index, int) or not 0 <= index < len(options) or len(options) < 2:
                reason = f"answer {index!r} is not an index of its {len(options)} choices"
                found.reject("avqa_thu", split, label, reason)
                continue
            video_id, _, start = name.rpartition("_")
            if start.isdigit():
                path, piece = find_vggsound(source, video_id, int(start))
            else:
                path, piece = source.media(name), None
            values = {**{key: entry[key] for key in _KEYS}, "multi_choice": options, "answer": index}
            taught = {"label": answer(options[index])}
            found.add_clip("avqa_thu", split, label, path, name, values, taught, piece=piece)
    return found


def _options(choices: Any, found: Imported) -> list[str]:
    """Return the choices as text; an empty choice becomes NULL, so that the indices do not change."""
    listed = choices if isinstance(choices, list) else []
    if len(listed) != 4:
        found.notes["questions whose number of choices is not 4"] += 1
    if any(choice is None for choice in listed):
        found.notes["questions with an empty choice, written as NULL"] += 1
    return ["NULL" if choice is None else str(choice) for choice in listed]


IMPORTER = Importer(
    title="AVQA",
    tasks=("avqa_thu",),
    read=read,
    expected={},
    paper_k=40.2,
    access="open, OneDrive and Baidu (AlyssaYoung/AVQA); no licence is stated",
    files="train_qa.json, val_qa.json; <video_name>.mp4 or the VGGSound videos",
)
