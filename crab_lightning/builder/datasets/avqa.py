"""Import MUSIC-AVQA (task ``avqa``): questions from templates about one-minute music performances."""

from __future__ import annotations

import json
import re
from typing import Any

from crab_lightning.builder.rows import Imported, Importer, Settings, answer
from crab_lightning.builder.source import Source, read_objects

_KEYS = ("video_id", "question_id", "type", "question_content", "templ_values", "anser")
_PLACE = re.compile(r"<[^<>]*>")


def read(source: Source, settings: Settings) -> Imported:
    """Read the corrected files in ``json_update/``; if they are missing, read those of the first release."""
    found = Imported()
    splits = [("train", "train"), ("test", "test")]
    if settings.val == "train":
        splits.insert(1, ("train", "val"))
    for split, name in splits:
        path = source.annotation(f"json_update/avqa-{name}.json", f"avqa-{name}.json")
        if path.parent.name == "json":
            found.notes[f"{name}: read from json/, the first release; json_update/ corrects it"] = 1
        answers: dict[int, str] = {}
        for entry in read_objects(path, _KEYS):
            label = f"question {entry['question_id']} of {entry['video_id']}"
            question = _filled(entry)
            if question is None:
                values = entry["templ_values"]
                reason = (
                    f"{entry['question_content']!r} does not have as many placeholders as {values} has values"
                )
                found.reject("avqa", split, label, reason)
            elif entry.get("question_deleted"):
                found.reject("avqa", split, label, "its owner marked it as deleted")
            elif answers.setdefault(entry["question_id"], entry["anser"]) != entry["anser"]:
                first = answers[entry["question_id"]]
                reason = f"it has a second answer, {entry['anser']!r}; the first one is {first!r}"
                found.reject("avqa", split, label, reason)
            else:
                vid = str(entry["video_id"])
                values = {"video_id": vid, "question_id": entry["question_id"], "type": entry["type"]}
                values |= {"question": question, "answer": entry["anser"]}
                taught = {"label": answer(entry["anser"])}
                found.add_clip("avqa", split, label, source.media(vid), vid, values, taught)
    return found


def _filled(entry: dict[str, Any]) -> str | None:
    """Return the question with its placeholders filled in; ``None`` if it has another number of values."""
    values = json.loads(entry["templ_values"])
    text = entry["question_content"].strip().replace("\uff1f", "?")
    if len(_PLACE.findall(text)) != len(values):
        return None
    waiting = iter(values)
    return _PLACE.sub(lambda _: str(next(waiting)), text)


IMPORTER = Importer(
    title="MUSIC-AVQA",
    tasks=("avqa",),
    read=read,
    expected={("avqa", "test"): 9129},
    paper_k=31.9,
    access="open, Drive and Baidu (GeWu-Lab/MUSIC-AVQA); LICENSE says MIT, its README GPL v3",
    files="json_update/avqa-train.json, avqa-test.json (else those of json/); <video_id>.mp4",
    options=("val",),
)
