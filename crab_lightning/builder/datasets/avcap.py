"""Import AVCap (task ``avcap``) from VALOR-32K; the caption is the target text."""

from __future__ import annotations

from crab_lightning.builder.datasets.youtube import find_piece, split_times
from crab_lightning.builder.rows import Imported, Importer, Settings
from crab_lightning.builder.source import Source, read_objects


def read(source: Source, settings: Settings) -> Imported:
    """Read all captions; the paper uses 20.7 thousand of the training clips, but does not say which."""
    found = Imported()
    files = [("train", "desc_train.json")]
    if settings.val == "train":
        files.append(("train", "desc_val.json"))
    if source.file("desc_test.json") is not None:
        files.append(("test", "desc_test.json"))
    else:
        found.notes["no test rows: there is no desc_test.json in the source"] = 1
    for split, file in files:
        for entry in read_objects(source.annotation(file), ("video_id", "desc")):
            name, text = str(entry["video_id"]), str(entry["desc"] or "").strip()
            parts = split_times(name)
            if parts is None or not text:
                reason = "its caption is empty" if parts else "its id is not an <id>_<start>_<end>"
                found.reject("avcap", split, name, reason)
                continue
            vid, start, end = parts
            path, piece = find_piece(source, (name, f"{vid}_{start:g}_{end:g}"), vid, start, end)
            values = {"video_id": name, "label_content": text}
            found.add_clip("avcap", split, name, path, name, values, piece=piece)
    return found


IMPORTER = Importer(
    title="AVCap, from VALOR-32K",
    tasks=("avcap",),
    read=read,
    expected={},
    paper_k=20.7,
    access="annotations on Baidu (TXH-mercury/VALOR), MIT; videos of AudioSet from YouTube",
    files="desc_train.json, desc_test.json; <id>_<start>_<end>.mp4, or whole videos <id>.mp4",
    options=("val",),
)
