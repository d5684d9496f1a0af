"""Mini AV-UIE written back into the forms in which the owners of the datasets publish theirs.

One function for each importer: ``(tree, out)`` writes annotation files into ``out`` and links the media under
official names. Nothing of the released layout is copied but the media themselves.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


class Tree:
    """A Mini AV-UIE data root."""

    def __init__(self, root: Path) -> None:
        self.base = root / "AVUIE_2"

    def rows(self, task: str, split: str) -> Rows:
        """Rows of a manifest."""
        path = self.base / task / f"{split}.json"
        return json.loads(path.read_text()) if path.is_file() else []

    def give(self, task: str, value: str, target: Path) -> None:
        """Link one file of a task under an official name."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.hardlink_to((self.base / task / value).resolve())


def _table(path: Path, rows: Iterable[Sequence[Any]], separator: str = ",", end: str = "\n") -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=end).writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.getvalue().encode())


def _stem(row: dict[str, Any]) -> str:
    return Path(row["video_path"]).stem


def _both(tree: Tree, task: str) -> Iterable[tuple[str, int, dict[str, Any]]]:
    number = 0
    for split in ("train", "test"):
        for row in tree.rows(task, split):
            yield split, number, row
            number += 1


def ks(tree: Tree, out: Path) -> None:
    """Kinetics-400 tables; one row of a class that is not among the 31."""
    for split, file in (("train", "train"), ("test", "validate")):
        head = ("label", "youtube_id", "time_start", "time_end", "split")
        rows = [(r["action"], _stem(r), 7, 17, file) for r in tree.rows("ks", split)]
        _table(out / f"{file}.csv", [head, ("javelin throw", "--07WQ2iBlw", 1, 11, file), *rows])
        for row in tree.rows("ks", split):
            name = f"{_stem(row)}_000007_000017.mp4"
            tree.give("ks", f"video/{row['video_path']}", out / file / row["action"] / name)


def ucf(tree: Tree, out: Path) -> None:
    """Lists with carriage returns; the first with an index after each path."""
    for split, file, mark in (("train", "trainlist01.txt", " 1"), ("test", "testlist01.txt", "")):
        lines = [f"Basketball/v_Basketball_g08_c01.avi{mark}"]
        lines += [f"{row['video_path']}{mark}" for row in tree.rows("ucf", split)]
        out.mkdir(exist_ok=True)
        (out / file).write_bytes("".join(f"{line}\r\n" for line in lines).encode())
        for row in tree.rows("ucf", split):
            tree.give("ucf", f"video/{row['video_path']}", out / "UCF-101" / row["video_path"])


def meld(tree: Tree, out: Path) -> None:
    """Three tables in which the same ids occur; half of the training rows are the development part."""
    train, test = tree.rows("meld", "train"), tree.rows("meld", "test")
    half = (len(train) + 1) // 2
    parts = {
        "train": (train[:half], "train/train_splits"),
        "dev": (train[half:], "dev/dev_splits_complete"),
        "test": (test, "test/output_repeated_splits_test"),
    }
    head = (
        "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    )
    for part, (rows, folder) in parts.items():
        cells = [
            (
                3 * i,
                "Well, let’s go.",
                "Joey",
                r["Emotion"],
                "x",
                i // 2,
                i % 2,
                1,
                2,
                "00:01:02,003",
                "0:01:04,5",
            )
            for i, r in enumerate(rows)
        ]
        _table(out / f"{part}_sent_emo.csv", [head.split(","), *cells], end="\r\n")
        for i, row in enumerate(rows):
            tree.give("meld", f"video/{row['video_path']}", out / folder / f"dia{i // 2}_utt{i % 2}.mp4")


def mafw(tree: Tree, out: Path) -> None:
    """Lists separated by one blank; happiness and sadness in their short spelling now and then."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for split, number, row in _both(tree, "mafw"):
        short = {"happiness": "happy", "sadness": "sad"} if number % 2 else {}
        lines[split].append(f"{number:05d}.mp4 {short.get(row['emotion'], row['emotion'])}\n")
        tree.give("mafw", f"video/{row['video_path']}", out / "data/clips" / f"{number:05d}.mp4")
    for split, text in lines.items():
        path = out / f"Train & Test Set/single/no_caption/set_1/{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(text))


def dfew(tree: Tree, out: Path) -> None:
    """Tables of numbers; silent clips under the same numbers beside the original ones."""
    order = ["happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear"]
    cells: dict[str, list[tuple[Any, ...]]] = {
        "train": [("video_name", "label")],
        "test": [("video_name", "label")],
    }
    for split, number, row in _both(tree, "dfew"):
        cells[split].append((number + 1, order.index(row["emotion"]) + 1))
        clip = out / f"DFEW-part2/Clip/original/part_{1 + number % 2}/{number + 1}.mp4"
        tree.give("dfew", f"video/{row['video_path']}", clip)
        small = out / f"DFEW-part2/Clip/clip_224x224/{number + 1}.mp4"
        small.parent.mkdir(parents=True, exist_ok=True)
        small.write_bytes(b"frames only")
    for split, rows in cells.items():
        _table(out / f"DFEW-part2/EmoLabel_DataSplit/{split}(single-labeled)/set_1.csv", rows)


def mer24(tree: Tree, out: Path) -> None:
    """A table with a valence beside the label."""
    rows = tree.rows("mer24", "train")
    cells = [(f"sample_{i:08d}", row["discrete"], 1.5) for i, row in enumerate(rows)]
    _table(out / "label-disdim.csv", [("name", "discrete", "valence"), *cells])
    for (name, *_), row in zip(cells, rows, strict=True):
        tree.give("mer24", f"video/{row['video_path']}", out / "video-labeled" / f"{name}.mp4")


def cremad(tree: Tree, out: Path) -> None:
    """Lists of OGM-GE without a head; sound files of their own."""
    codes = {
        "neutral": "NEU",
        "happiness": "HAP",
        "sadness": "SAD",
        "fear": "FEA",
        "disgust": "DIS",
        "anger": "ANG",
    }
    cells: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for split, number, row in _both(tree, "cremad"):
        code = codes[row["emotion"]]
        name = f"{1001 + number}_IEO_{code}_XX"
        cells[split].append((name, code))
        tree.give("cremad", f"video/{row['video_path']}", out / "VideoFlash" / f"{name}.mp4")
        tree.give("cremad", f"audio/{row['audio_path']}", out / "AudioWAV" / f"{name}.wav")
    for split, rows in cells.items():
        _table(out / f"CREMAD/{split}.csv", rows, end="\r\n")


def vgg_cm(tree: Tree, out: Path) -> None:
    """Every video of the matching tasks and of AVE as a clip of VGGSound."""
    cells = []
    for task, columns in (("a2v", ("video1", "video2")), ("v2a", ("video",))):
        for split in ("train", "test"):
            for row in tree.rows(task, split):
                for column in columns:
                    event = row.get(f"{column}_event", f"class {len(cells) % 5}, of a test clip")
                    name = Path(row[f"{column}_path"]).stem
                    cells.append((name, 30, event, split))
                    tree.give(task, f"video/{row[f'{column}_path']}", out / "clips" / f"{name}_000030.mp4")
    for split in ("train", "test"):  # a matching task alone has too few test clips for two pairs
        for row in tree.rows("ave", split):
            cells.append((row["vid"], 30, row["event"], split))
            tree.give("ave", f"video/{row['video_path']}", out / "clips" / f"{row['vid']}_000030.mp4")
    _table(out / "vggsound.csv", cells)


def unav(tree: Tree, out: Path) -> None:
    """Times in seconds of a clip that the annotations call 37 s long."""
    database = {}
    for row in tree.rows("unav", "train"):
        events = []
        for name, spans in re.findall(r"<event>(.*?), ((?:\(\d+ \d+\))+)</event>", row["original_label"]):
            for start, end in re.findall(r"\((\d+) (\d+)\)", spans):
                segment = [round(3.7 * int(start) + 0.05, 5), round(3.7 * int(end) - 0.05, 5)]
                events.append({"segment": segment, "label": name, "label_id": 1})
        database[row["vid"]] = {"duration": 37, "annotations": events, "subset": "train"}
        tree.give("unav", f"video/{row['video_path']}", out / f"{row['vid']}.mp4")
    out.mkdir(exist_ok=True)
    (out / "unav100_annotations.json").write_text(json.dumps({"version": "unav100", "database": database}))


def ave(tree: Tree, out: Path) -> None:
    """Split files without a head, a category with commas now and then."""
    out.mkdir(exist_ok=True)
    for split, file in (("train", "trainSet.txt"), ("test", "testSet.txt")):
        rows = tree.rows("ave", split)
        lines = [f"{r['event']}&{r['vid']}&good&{r['start_time']}&{r['end_time']}\n" for r in rows]
        (out / file).write_text("".join(lines))
        for row in rows:
            tree.give("ave", f"video/{row['video_path']}", out / "AVE" / f"{row['vid']}.mp4")


def avvp(tree: Tree, out: Path) -> None:
    """Times exist for validation and test only: the training rows are written as validation rows."""
    lines: dict[str, list[tuple[Any, ...]]] = {"visual": [], "audio": []}
    for split, file in (("train", "AVVP_val_pd.csv"), ("test", "AVVP_test_pd.csv")):
        weak = []
        for row in tree.rows("avvp", split):
            names = []
            for sense, name, spans in re.findall(r"<(visual|audio)_event>([^,]*),(.*?)</", row["event"]):
                names.append(name)
                for start, end in re.findall(r"\((\d+) (\d+)\)", spans):
                    lines[sense].append((row["filename"], start, end, name))
            weak.append((row["filename"], ",".join(dict.fromkeys(names))))
            tree.give("avvp", f"video/{row['video_path']}", out / "videos" / f"{row['vid']}.mp4")
        out.mkdir(exist_ok=True)
        text = "".join(f"{name}\t{labels}\n" for name, labels in weak)
        (out / file).write_text("filename\tevent_labels\n" + text)
    (out / "AVVP_train.csv").write_text("filename\tevent_labels\n")
    for sense, cells in lines.items():
        text = "".join("\t".join(map(str, line)) + "\n" for line in cells)
        (out / f"AVVP_eval_{sense}.csv").write_text("filename\tonset\toffset\tevent_labels\n" + text)


def _avsbench(tree: Tree, out: Path, tasks: Sequence[str]) -> None:
    cells: list[tuple[Any, ...]] = [("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label")]
    for task in tasks:
        label = "v1m" if task == "ms3" else "v1s"
        for split in ("train", "test"):
            for row in tree.rows(task, split):
                uid = row["audio_path"].split("/")[-2]
                cells.append((uid, uid, 0, 0, row["a_obj"].replace(" and ", "_"), split, label))
                folder = tree.base / task / "AVS" / label / uid
                for path in folder.rglob("*"):
                    if path.is_file():
                        inside = path.relative_to(folder)
                        tree.give(
                            task, f"AVS/{label}/{uid}/{inside}", out / "avsbench" / label / uid / inside
                        )
    _table(out / "metadata.csv", cells)


def avs(tree: Tree, out: Path) -> None:
    """AVSBench-semantic with S4 and MS3."""
    _avsbench(tree, out, ("s4", "ms3"))


def arig(tree: Tree, out: Path) -> None:
    """AVSBench-semantic with S4, for the boxes."""
    _avsbench(tree, out, ("arig",))


def ref_avs(tree: Tree, out: Path) -> None:
    """The table with a folder prefix for absent objects, whose masks are not published here."""
    cells: list[tuple[Any, ...]] = [("vid", "uid", "split", "fid", "exp")]
    for split, _, row in _both(tree, "ref_avs"):
        text = row["description"] if split == "train" else row["object"]
        absent = "false" in row["output"] if split == "train" else row["split"] == "test_n"
        told = re.search(r"The object is the (.*?)\.", row.get("output", ""))
        named = "null" if absent else told[1].replace(" ", "-") if told else "dog"
        clip = f"{'null_c-' if absent else ''}{row['vid']}"
        cells.append((row["vid"], f"{clip}_{named}_1", row.get("split", split), row["fid"], f" {text} "))
        media = tree.base / "ref_avs/REFAVS/media" / row["vid"]
        for path in (p for p in media.rglob("*") if p.is_file()):
            inside = path.relative_to(media)
            tree.give("ref_avs", f"REFAVS/media/{row['vid']}/{inside}", out / "media" / clip / inside)
        if not absent:
            masks = f"REFAVS/gt_mask/{row['vid']}/fid_{row['fid']}"
            for path in (tree.base / "ref_avs" / masks).iterdir():
                place = out / "gt_mask" / clip / f"fid_{row['fid']}" / path.name
                tree.give("ref_avs", f"{masks}/{path.name}", place)
    _table(out / "metadata.csv", cells, end="\r\n")


def avcap(tree: Tree, out: Path) -> None:
    """Captions by id and times; the clips under whole seconds, as some archives name them."""
    rows = tree.rows("avcap", "train")
    entries = [{"video_id": f"{r['video_id']}_30.000_34.000", "desc": r["label_content"]} for r in rows]
    out.mkdir(exist_ok=True)
    (out / "desc_train.json").write_text(json.dumps(entries))
    for row in rows:
        tree.give("avcap", f"video/{row['video_path']}", out / f"{row['video_id']}_30_34.mp4")


def avqa(tree: Tree, out: Path) -> None:
    """Questions from templates: the instruments in values, the full-width question mark now and then."""
    instruments = re.compile(r"\b(?:violin|guitar|accordion|banjo)\b")
    for split in ("train", "test"):
        entries = []
        for i, row in enumerate(tree.rows("avqa", split)):
            values = instruments.findall(row["question"])
            text = instruments.sub("<Object>", row["question"])
            entries.append(
                {
                    "video_id": row["video_id"],
                    "question_id": row["question_id"],
                    "type": row["type"],
                    "question_content": text.replace("?", "\uff1f" if i % 2 else "? "),
                    "templ_values": json.dumps(values),
                    "question_deleted": 0,
                    "anser": row["answer"],
                }
            )
            tree.give("avqa", f"video/{row['video_path']}", out / "videos" / f"{row['video_id']}.mp4")
        path = out / f"json_update/avqa-{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entries, indent=2))


def avqa_thu(tree: Tree, out: Path) -> None:
    """The answer as the index of a choice; whole videos under their ids."""
    keys = ("id", "video_id", "question_relation", "question_type", "multi_choice", "question_text")
    out.mkdir(exist_ok=True)
    for split, file in (("train", "train_qa.json"), ("test", "val_qa.json")):
        entries = []
        for row in tree.rows("avqa_thu", split):
            name = f"{row['video_name']}_000004"
            index = row["multi_choice"].index(row["answer"])
            entries.append({**{key: row[key] for key in keys}, "video_name": name, "answer": index})
            tree.give("avqa_thu", f"video/{row['video_path']}", out / f"{row['video_name']}.mp4")
        (out / file).write_text(json.dumps(entries, indent=4))


WRITERS: dict[str, Callable[[Tree, Path], None]] = {
    f.__name__: f
    for f in (
        ks, ucf, meld, mafw, dfew, mer24, cremad, vgg_cm, unav,
        ave, avvp, arig, avs, ref_avs, avcap, avqa, avqa_thu,
    )
}  # fmt: skip
