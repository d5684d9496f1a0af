"""What an importer makes of an owner's files: rows in the released spelling, their media, and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from crab_lightning.builder.source import Source
    from crab_lightning.segmentation import Prompt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_HEADS = ("manifest", "official", "rows", "found", "missing", "unreadable", "unusable", "written")


@dataclass
class SplitCount:
    """Numbers of one manifest.

    Args:
        task: Task id.
        split: Stem of the manifest.
        expected: Official number of rows; ``None`` where it is not known.
        rows: Rows in the owner's files.
        found: Rows whose media are all there.
        missing: Rows that lack a media file.
        unreadable: Rows with a media file that cannot be read.
        rejected: Rows that no manifest can hold.
        written: Rows of the manifest.
    """

    task: str
    split: str
    expected: int | None = None
    rows: int = 0
    found: int = 0
    missing: int = 0
    unreadable: int = 0
    rejected: int = 0
    written: int = 0


@dataclass(frozen=True)
class Lost:
    """An official row that is not in the manifest: ``missing``, ``unreadable`` or ``unusable``."""

    task: str
    split: str
    name: str
    kind: str
    reason: str


@dataclass
class ImportReport:
    """The outcome of one import.

    Args:
        dataset: Name of the importer.
        title: Name of the dataset.
        splits: Counts by manifest.
        lost: Every official row that is in no manifest, with the reason.
        notes: Irregularities and their number.
        media: Number of files by what became of them.
        dry_run: Whether nothing was written.
    """

    dataset: str
    title: str
    splits: list[SplitCount] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    media: Counter[str] = field(default_factory=Counter)
    dry_run: bool = False

    def at(self, task: str, split: str) -> SplitCount:
        """Return the numbers of one manifest; all zero at first."""
        known = next((one for one in self.splits if (one.task, one.split) == (task, split)), None)
        if known is None:
            self.splits.append(known := SplitCount(task, split))
        return known

    def lose(self, lost: Lost) -> None:
        """Count and list an official row that is in no manifest."""
        count, kind = self.at(lost.task, lost.split), lost.kind
        count.missing += kind == "missing"
        count.unreadable += kind == "unreadable"
        count.rejected += kind == "unusable"
        self.lost.append(lost)

    def jsonable(self) -> dict[str, Any]:
        """Return the numbers, without the list of lost rows."""
        return {
            "dataset": self.dataset,
            "splits": [vars(split) for split in self.splits],
            "notes": dict(self.notes),
            "media": dict(sorted(self.media.items())),
        }

    def print(self, console: Console) -> None:
        """Print the table and what is irregular."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title, title_justify="left", box=None, padding=(0, 1))
        for i, head in enumerate(_HEADS):
            table.add_column(head, justify="right" if i else "left", no_wrap=True)
        for s in self.splits:
            expected = "unknown" if s.expected is None else f"{s.expected:,}"
            unread = "not read" if self.dry_run else f"{s.unreadable:,}"
            written = "none" if self.dry_run else f"{s.written:,}"
            cells = (expected, s.rows, s.found, s.missing, unread, s.rejected, written)
            told = [cell if isinstance(cell, str) else f"{cell:,}" for cell in cells]
            table.add_row(f"{s.task}/{s.split}.json", *told)
        console.print(table)
        files = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.media.items()))
        if files:
            console.print(Text(f"media files: {files}"), soft_wrap=True)
        for note, count in self.notes.items():
            console.print(Text(f"note: {note} ({count:,})"), soft_wrap=True)
        for lost in self.lost[:5]:
            text = f"{lost.task}/{lost.split}.json does not contain {lost.name}: {lost.kind}, {lost.reason}"
            console.print(Text(text), soft_wrap=True)
        if len(self.lost) > 5:
            console.print(Text(f"... and {len(self.lost) - 5:,} more rows"))


Action = Literal["link", "sound", "empty_mask"]
Finish = Callable[[dict[str, Any], "Prompt | None"], "str | None"]


@dataclass(frozen=True)
class Media:
    """One file that a row needs.

    Args:
        place: Where it belongs, below the folder of the task.
        source: The owner's file that it is made of; ``None`` where it was not found.
        wanted: What was looked for, for messages.
        action: ``link`` takes the file as it is, ``sound`` writes its sound track, ``empty_mask`` writes a
            black picture of the size of ``source``.
        piece: Start and end in seconds, where the owner's file may be a longer recording: it is cut if it is.
    """

    place: str
    source: Path | None
    wanted: str
    action: Action = "link"
    piece: tuple[float, float] | None = None


@dataclass
class Row:
    """One row of a manifest.

    Args:
        task: Released task id, the folder below ``AVUIE_2/``.
        split: Stem of the manifest: ``train``, ``test``, or ``weak`` for rows that wait for their intervals.
        name: The official id, for messages.
        values: The row in the released spelling.
        media: Files that it needs.
        mask: Mask that the coordinates of its text come from.
        finish: Completes the values from box and points of the mask; returns why the row cannot be used, or
            ``None``.
    """

    task: str
    split: str
    name: str
    values: dict[str, Any]
    media: tuple[Media, ...]
    mask: Path | None = None
    finish: Finish | None = None


@dataclass
class Imported:
    """What an importer found in the annotation files.

    Args:
        rows: Rows for the manifests, in official order.
        rejected: Official rows that cannot be used.
        notes: What is irregular, with the number of times.
    """

    rows: list[Row] = field(default_factory=list)
    rejected: list[Lost] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def reject(self, task: str, split: str, name: str, reason: str) -> None:
        """Set an official row aside."""
        self.rejected.append(Lost(task, split, name, "unusable", reason))

    def add_clip(
        self,
        task: str,
        split: str,
        name: str,
        source: Path | None,
        stem: str,
        values: Mapping[str, Any],
        taught: Mapping[str, Any] | None = None,
        *,
        video: str = ".mp4",
        audio: str = ".mp3",
        wanted: str | None = None,
        sound: Path | None = None,
        piece: tuple[float, float] | None = None,
    ) -> None:
        """Add a row with one video and one audio file.

        The video keeps the ending of the owner's file: a reader tells a container by its content, and a file
        that is named after another one misleads its users.

        Args:
            task: Released task id.
            split: Stem of the manifest.
            name: The official id, for messages.
            source: The owner's video; ``None`` where it was not found.
            stem: Place below ``video/`` and below ``audio/``, without the ending.
            values: The row in the released spelling, without the path columns.
            taught: What training rows hold besides, as the text to be learnt.
            video: Released ending of the video.
            audio: Released ending of the sound.
            wanted: What was looked for; the released name of the video when left out.
            sound: The owner's audio file, where there is one of its own.
            piece: Start and end, where the owner's file may be a longer recording.
        """
        wanted = wanted or stem + video
        seen = stem + (video if source is None else source.suffix.lower())
        heard = stem + (audio if sound is None else sound.suffix.lower())
        media = (
            Media(f"video/{seen}", source, wanted, "link", piece),
            Media(f"audio/{heard}", sound or source, wanted, "link" if sound else "sound", piece),
        )
        more = taught if split == "train" and taught is not None else {}
        paths = {"video_path": seen, "audio_path": heard}
        self.rows.append(Row(task, split, name, {**paths, **values, **more}, media))


@dataclass(frozen=True)
class Settings:
    """What can be chosen about an import; each importer takes some of these.

    Args:
        seed: Seed of everything that is drawn.
        val: What becomes of the official validation rows: ``released`` does as the sizes that the paper gives
            suggest, ``train`` adds them to the training rows, ``leave`` leaves them out.
        classes: File with the class names to keep, one in each line.
        pairs: Training pairs of VGG-CM, both directions together.
        test_pairs: Test pairs of VGG-CM, both directions together.
        synonyms: YAML file, a list of lists of class names that are too alike to tell apart.
        shortest_event: UnAV-100: least length that every event of a training clip must have, in tenths of the
            clip after rounding.
        most_changes: UnAV-100: largest number of moments inside a training clip at which an event starts or
            ends; any number when left out.
        all_clips: UnAV-100: keep every training clip.
        frames: Frames of each training clip or expression (MS3 and Ref-AVS: 2 when left out; ARIG: 1).
        whole_clip: LLP: let every weak label of a training clip fill the whole clip, seen and heard.
        test_labels: MER2024: csv with the columns name and discrete of a labelled test set.
        lists: Kinetics-Sounds: take the split from ``kinetics`` or from the ``ogm`` lists.
    """

    seed: int = 0
    val: Literal["released", "train", "leave"] = "released"
    classes: Path | None = None
    pairs: int = 10_300
    test_pairs: int = 2_000
    synonyms: Path | None = None
    shortest_event: int = 1
    most_changes: int | None = None
    all_clips: bool = False
    frames: int | None = None
    whole_clip: bool = False
    test_labels: Path | None = None
    lists: Literal["kinetics", "ogm"] = "kinetics"

    def __post_init__(self) -> None:
        for name, least in (("pairs", 0), ("test_pairs", 0), ("frames", 1), ("shortest_event", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")

    def given(self) -> dict[str, Any]:
        """Return what differs from the defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


@dataclass(frozen=True)
class Importer:
    """How one dataset is imported.

    Args:
        title: Name of the dataset.
        tasks: Task ids that it fills.
        read: Reads the owner's files.
        expected: Official number of rows by task and split; what is not known is left out.
        paper_k: Training samples in the paper's Table 1, in thousands.
        access: Where it is to be had and under which licence.
        files: Annotation files and media folders that are looked for, in words.
        options: Names of the settings that it takes.
    """

    title: str
    tasks: tuple[str, ...]
    read: Callable[[Source, Settings], Imported]
    expected: Mapping[tuple[str, str], int]
    paper_k: float
    access: str
    files: str
    options: tuple[str, ...] = ()


def answer(text: str, stop: str = ".") -> str:
    """Return the bare tagged answer, the shortest text that a task's parser reads."""
    return f"<answer>{text}</answer>{stop}"
