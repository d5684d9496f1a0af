"""Import CREMA-D (task ``cremad``) with the speaker-dependent split of OGM-GE, which the paper cites."""

from __future__ import annotations

from crab_lightning.builder.rows import Imported, Importer, Settings, answer
from crab_lightning.builder.source import AUDIO, AnnotationError, Source, read_bare

EMOTIONS = {
    "NEU": "neutral", "HAP": "happiness", "SAD": "sadness", "FEA": "fear", "DIS": "disgust", "ANG": "anger",
}  # fmt: skip


def read(source: Source, settings: Settings) -> Imported:
    """Read the two lists; the sound comes from the owner's folder ``AudioWAV`` if it exists."""
    found = Imported()
    for split in ("train", "test"):
        path = source.annotation(f"CREMAD/{split}.csv", f"{split}.csv")
        for line, (name, code) in read_bare(path, 2):
            if code not in EMOTIONS:
                known = ", ".join(EMOTIONS)
                raise AnnotationError(f"{path}, line {line}: emotion {code!r}; one of {known} is expected")
            if f"_{code}_" not in name:
                found.notes["rows whose name states another emotion than their label"] += 1
            values, taught = {"emotion": EMOTIONS[code]}, {"label": answer(EMOTIONS[code])}
            wanted, sound = f"{name}.flv or {name}.mp4", source.media(name, AUDIO)
            video = source.media(name)
            found.add_clip(
                "cremad", split, name, video, name, values, taught, audio=".wav", wanted=wanted, sound=sound
            )
    return found


IMPORTER = Importer(
    title="CREMA-D",
    tasks=("cremad",),
    read=read,
    expected={("cremad", "train"): 6698, ("cremad", "test"): 744},
    paper_k=6.6,
    access="ODbL 1.0 and DbCL (CheyneyComputerScience/CREMA-D); lists MIT (GeWu-Lab/OGM-GE_CVPR2022)",
    files="train.csv, test.csv of OGM-GE; VideoFlash/<name>.flv, AudioWAV/<name>.wav",
)
