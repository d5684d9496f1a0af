"""Import AVE: three split files with cells separated by ``&``, and trimmed clips named by YouTube id."""

from __future__ import annotations

from crab_lightning.builder.rows import Imported, Importer, Settings
from crab_lightning.builder.source import AnnotationError, Source, read_lines, whole

CLIP_S = 10


def read(source: Source, settings: Settings) -> Imported:
    """Read the split files; a clip with two events has two rows, as published."""
    found = Imported()
    files = [("train", "trainSet.txt"), ("test", "testSet.txt")]
    if settings.val == "train":
        files.insert(1, ("train", "valSet.txt"))
    for split, file in files:
        path = source.annotation(file)
        for line, text in read_lines(path):
            cells = text.strip().rsplit("&", 4)  # from the right: a category may contain "&"
            if cells == ["Category", "VideoID", "Quality", "StartTime", "EndTime"]:
                continue
            if len(cells) != 5:
                raise AnnotationError(
                    f"{path}, line {line}: {text!r}; Category&VideoID&Quality&StartTime&EndTime is expected. "
                    "Is it another file of the same name?"
                )
            event, vid = cells[0], cells[1]
            start = whole(path, line, "StartTime", cells[3])
            end = whole(path, line, "EndTime", cells[4])
            if not 0 <= start < end <= CLIP_S:
                reason = f"its event lasts from {start} to {end} s, which is not a part of a {CLIP_S} s clip"
                found.reject("ave", split, vid, reason)
                continue
            values = {"event": event, "vid": vid, "start_time": start, "end_time": end}
            taught = {"label_content": f"<event>{event}, ({start} {end})</event>"}
            found.add_clip("ave", split, vid, source.media(vid), vid, values, taught)
    return found


IMPORTER = Importer(
    title="AVE",
    tasks=("ave",),
    read=read,
    expected={("ave", "train"): 3339, ("ave", "test"): 402},
    paper_k=3.3,
    access="open, Google Drive (YapengTian/AVE-ECCV18); no licence is stated",
    files="trainSet.txt, testSet.txt (valSet.txt with --val train); AVE/<id>.mp4",
    options=("val",),
)
