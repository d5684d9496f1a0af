"""Annotation files of Mini AV-UIE in the official formats of the source datasets."""

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
    """Return the annotation files of AVE, LLP, UnAV-100, MUSIC-AVQA and AVSBench.

    Args:
        items: The items of each dataset and split.

    Returns:
        The content of each file by its path in the folder of the annotations.
    """
    files = {**_ave(items), **_llp(items)}
    files["UnAV/unav100_annotations.json"] = _unav(items)
    for split in ("train", "test"):
        questions = [_music_question(i) for i in items.get(("avqa", split), ())]
        files[f"MUSIC-AVQA/avqa-{split}.json"] = json.dumps(questions, indent=1) + "\n"
    for dataset, head in (("s4", ("name", "category", "split")), ("ms3", ("video_id", "a_obj", "split"))):
        rows = [
            (i.clip, i.fields["a_obj"], s) for s in ("train", "test") for i in items.get((dataset, s), ())
        ]
        files[f"AVSBench/{dataset}_meta_data.csv"] = _table(",", head, rows)
    return files


def _table(separator: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def _ave(items: Items) -> dict[str, str]:

    def lines(rows: Iterable[Item]) -> str:
        return "".join(
            f"{f['event']}&{f['vid']}&good&{f['start_time']}&{f['end_time']}\n"
            for f in (i.fields for i in rows)
        )

    train, test = (lines(items.get(("ave", split), ())) for split in ("train", "test"))
    # The official files of the splits have no line with the names of the columns.
    head = "Category&VideoID&Quality&StartTime&EndTime\n"
    return {"AVE/Annotations.txt": head + train + test, "AVE/trainSet.txt": train, "AVE/testSet.txt": test}


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
        "anser": fields["answer"],  # the official files have this spelling
    }
