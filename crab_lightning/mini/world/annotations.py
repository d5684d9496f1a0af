"""Annotation files in the style of the source datasets, for code that reads those."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from crab_lightning.mini.world.families.events import CLIP_S
from crab_lightning.mini.world.item import Item
from crab_lightning.mini.world.scenes import intersect
from crab_lightning.mini.world.vocabulary import CATEGORIES

Items = Mapping[tuple[str, str], Sequence[Item]]


def official_annotations(items: Items) -> dict[str, str]:
    """Return the text of every official-style file.

    Args:
        items: The rows of each dataset and split.

    Returns:
        Path below the annotations folder -> content.
    """
    files = {**_ave(items), **_llp(items)}
    files["UnAV/unav100_annotations.json"] = _unav(items)
    for split in ("train", "test"):
        questions = [_music_question(i) for i in items.get(("avqa", split), ())]
        files[f"MUSIC-AVQA/avqa-{split}.json"] = json.dumps(questions, indent=1) + "\n"
    single = [(*_source(i), s) for s in ("train", "test") for i in items.get(("s4", s), ())]
    files["AVSBench/s4_meta_data.csv"] = _table(",", ("name", "category", "split"), single)
    several = [(*_source(i), s) for s in ("train", "test") for i in items.get(("ms3", s), ())]
    files["AVSBench/ms3_meta_data.csv"] = _table(",", ("video_id", "a_obj", "split"), several)
    return files


def _table(separator: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def _source(item: Item) -> tuple[str, str]:
    return item.clip, item.fields["a_obj"]


def _ave(items: Items) -> dict[str, str]:
    head = ("Category", "VideoID", "Quality", "StartTime", "EndTime")

    def lines(rows: Iterable[Item]) -> str:
        cells = [
            (i.fields["event"], i.fields["vid"], "good", i.fields["start_time"], i.fields["end_time"])
            for i in rows
        ]
        return "\n".join("&".join(map(str, c)) for c in [head, *cells]) + "\n"

    train, test = items.get(("ave", "train"), ()), items.get(("ave", "test"), ())
    files = {"AVE/Annotations.txt": lines([*train, *test])}
    for name, rows in (("trainSet", train), ("testSet", test)):
        # The official split files have no head line.
        files[f"AVE/{name}.txt"] = lines(rows).split("\n", 1)[1]
    return files


def _llp(items: Items) -> dict[str, str]:
    weak = [
        (i.fields["filename"], ",".join(dict.fromkeys(o.kind.llp for o in i.videos[0].objects)))
        for i in items.get(("avvp", "train"), ())
    ]
    files = {"LLP/AVVP_train.csv": _table("\t", ("filename", "event_labels"), weak)}
    for sense in ("audio", "visual"):
        rows = [
            (i.fields["filename"], start, end, o.kind.llp)
            for i in items.get(("avvp", "test"), ())
            for o in i.videos[0].objects
            for start, end in (o.heard if sense == "audio" else o.seen)
        ]
        files[f"LLP/AVVP_eval_{sense}.csv"] = _table(
            "\t", ("filename", "onset", "offset", "event_labels"), rows
        )
    return files


def _unav(items: Items) -> str:
    database = {}
    for item in items.get(("unav", "train"), ()):
        annotations = [
            {"segment": [float(s), float(e)], "label": CATEGORIES[o.category].unav, "label_id": o.category}
            for o in item.videos[0].objects
            if o.category is not None
            for s, e in intersect(o.seen, o.heard)
        ]
        database[item.clip] = {"duration": float(CLIP_S), "subset": "train", "annotations": annotations}
    return json.dumps({"database": database}, indent=1) + "\n"


def _music_question(item: Item) -> dict[str, Any]:
    fields = item.fields
    return {
        "video_id": fields["video_id"],
        "question_id": fields["question_id"],
        "type": fields["type"],
        "question_content": fields["question"],
        "templ_values": "[]",
        "question_deleted": 0,
        "anser": fields["answer"],  # spelled so in the official files
    }
