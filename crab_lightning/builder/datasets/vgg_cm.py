"""Import VGG-CM: random pairs of VGGSound clips, with questions from sound to picture and the reverse."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import yaml

from crab_lightning.builder.datasets.youtube import find_vggsound, vggsound_name
from crab_lightning.builder.rows import Imported, Importer, Media, Row, Settings, answer
from crab_lightning.builder.source import AnnotationError, Source, read_bare, read_lines, whole

_WORDS = ("one", "two")


@dataclass(frozen=True)
class _Clip:
    video_id: str
    start_s: int
    label: str
    path: Path
    piece: tuple[float, float] | None

    @property
    def name(self) -> str:
        return vggsound_name(self.video_id, self.start_s)

    @property
    def video(self) -> str:
        return f"{self.name}{self.path.suffix.lower()}"


def read(source: Source, settings: Settings) -> Imported:
    """Draw pairs of clips of different classes; every recording is in at most one pair.

    Raises:
        ValueError: If the file of synonyms is not a list of lists.
    """
    found = Imported()
    pools = _clips(source, settings, found)
    kinds = _kinds(settings)
    for split, count in (("train", settings.pairs), ("test", settings.test_pairs)):
        rng = random.Random(f"{settings.seed}/{split}")
        pairs = _draw(pools[split], count, kinds, rng)
        if len(pairs) < count:
            note = f"{split}: {len(pairs):,} pairs instead of {count:,}; there are no more clips"
            found.notes[note] = 1
        # In each direction, exactly half of the right answers come first.
        sides = [i // 2 % 2 for i in range(len(pairs))]
        rng.shuffle(sides)
        for number, ((query, other), second) in enumerate(zip(pairs, sides, strict=True)):
            task = ("a2v", "v2a")[number % 2]
            found.rows.append(_row(task, split, query, (other, query) if second else (query, other), second))
    return found


def _clips(source: Source, settings: Settings, found: Imported) -> dict[str, list[_Clip]]:
    """Return the clips of each split that exist in the source, with no recording in both splits."""
    path = source.annotation("vggsound.csv")
    classes = None
    if settings.classes is not None:
        classes = {line.strip() for _, line in read_lines(settings.classes)}
    pools: dict[str, list[_Clip]] = {"train": [], "test": []}
    for line, (video_id, start, label, split) in read_bare(path, 4):
        if split not in pools:
            raise AnnotationError(f"{path}, line {line}: split is {split!r}; train or test is expected")
        if classes is not None and label not in classes:
            continue
        start_s = whole(path, line, "the start second", start)
        media, piece = find_vggsound(source, video_id, start_s)
        if media is None:
            found.notes["clips of vggsound.csv that are not in the source"] += 1
        else:
            pools[split].append(_Clip(video_id, start_s, label, media, piece))
    tested = {clip.video_id for clip in pools["test"]}
    if both := [clip for clip in pools["train"] if clip.video_id in tested]:
        found.notes["training clips left out: their recording is also in test"] = len(both)
        pools["train"] = [clip for clip in pools["train"] if clip.video_id not in tested]
    return pools


def _kinds(settings: Settings) -> dict[str, str]:
    """Return the group of each class that has near-synonyms."""
    if settings.synonyms is None:
        return {}
    groups = yaml.safe_load(settings.synonyms.read_text(encoding="utf-8"))
    if not isinstance(groups, list) or not all(isinstance(g, list) for g in groups):
        raise ValueError(f"--synonyms {settings.synonyms}: a YAML list of lists of class names is expected")
    return {str(name): str(group[0]) for group in groups for name in group}


def _draw(
    pool: list[_Clip], count: int, kinds: dict[str, str], rng: random.Random
) -> list[tuple[_Clip, _Clip]]:
    """Return up to ``count`` pairs of clips of different kinds, in which no recording occurs twice."""
    waiting = sorted({clip.video_id: clip for clip in pool}.values(), key=lambda clip: clip.name)
    rng.shuffle(waiting)
    pairs: list[tuple[_Clip, _Clip]] = []
    lone: list[_Clip] = []  # clips of one kind that wait for a clip of another kind
    for clip in waiting:
        if len(pairs) == count:
            break
        if lone and kinds.get(lone[-1].label, lone[-1].label) != kinds.get(clip.label, clip.label):
            pairs.append((lone.pop(), clip))
        else:
            lone.append(clip)
    return pairs


def _row(task: str, split: str, query: _Clip, pair: tuple[_Clip, _Clip], second: int) -> Row:
    asked, shown = ("audio", "video") if task == "a2v" else ("video", "audio")

    def file(kind: str, clip: _Clip) -> Media:
        if kind == "video":
            return Media(f"video/{clip.video}", clip.path, clip.name, "link", clip.piece)
        return Media(f"audio/{clip.name}.mp3", clip.path, clip.name, "sound", clip.piece)

    media = [file(asked, query), *(file(shown, clip) for clip in pair)]
    names = [m.place.partition("/")[2] for m in media]
    values = {
        f"{shown}1_path": names[1],
        f"{shown}2_path": names[2],
        f"{asked}_path": names[0],
        f"correct_{shown}": _WORDS[second],
    }
    if split == "train":
        values |= {
            f"{asked}_event": query.label,
            f"{shown}1_event": pair[0].label,
            f"{shown}2_event": pair[1].label,
            "label": answer(_WORDS[second]),
        }
    return Row(task, split, f"{query.name} with {pair[not second].name}", values, tuple(media))


IMPORTER = Importer(
    title="VGG-CM, from VGGSound",
    tasks=("a2v", "v2a"),
    read=read,
    expected={},
    paper_k=10.3,
    access="annotations CC BY 4.0 (hche11/VGGSound); videos from YouTube",
    files="vggsound.csv; <id>_<start, 6 digits>.mp4, or whole videos <id>.mp4",
    options=("pairs", "test_pairs", "synonyms", "classes"),
)
