"""The results of an importer: rows in the released spelling, the media of the rows, and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crab_lightning.program import print_table

if TYPE_CHECKING:
    from rich.console import Console

    from crab_lightning.builder.source import Source
    from crab_lightning.segmentation import Prompt

_HEADS = ("manifest", "official", "rows", "found", "missing", "unreadable", "unusable", "written")


@dataclass
class SplitCount:
    """Numbers of rows of one manifest.

    Args:
        task: Task id.
        split: Name of the manifest file without its ending.
        expected: Official number of rows; ``None`` if it is not known.
        rows: Number of rows in the owner's files.
        found: Number of rows with no missing media file.
        missing: Number of rows with a missing media file.
        unreadable: Number of rows with a media file that cannot be read.
        rejected: Number of rows that are unusable for another reason.
        written: Number of rows in the manifest.
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
    """An official row that is not in the manifest.

    Args:
        task: Task id.
        split: Name of the manifest file without its ending.
        name: Official id of the row.
        kind: ``missing`` or ``unreadable`` (a media file), or ``unusable`` (the row itself).
        reason: The missing file, or the reason why the row cannot be used.
    """

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
        splits: Numbers of rows of each manifest.
        lost: Every official row that is in no manifest, with the reason.
        notes: Irregularities, and how often each occurred.
        media: Number of files by outcome, such as ``linked``.
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
        """Return the numbers of one manifest; add them with the value 0 if they are new."""
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
        """Return the numbers as a JSON object, without the list of lost rows."""
        return {
            "dataset": self.dataset,
            "splits": [vars(split) for split in self.splits],
            "notes": dict(self.notes),
            "media": dict(sorted(self.media.items())),
        }

    def print(self, console: Console) -> None:
        """Print the table of the numbers, the irregularities and the first lost rows."""
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
        print_table(table, console)
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
    """One media file that a row needs.

    Args:
        place: Path of the file, relative to the folder of the task.
        source: The owner's file from which it is made; ``None`` if the owner's file was not found.
        wanted: Name of the file that was searched, for messages.
        action: ``link`` links or copies the owner's file, ``sound`` extracts its sound track, ``empty_mask``
            writes a black picture of its size.
        piece: Start and end in seconds, if the owner's file may be a longer recording. The piece is cut out
            of a longer recording.
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
        task: Released task id, which is the name of the folder in ``AVUIE_2/``.
        split: Name of the manifest file without its ending: ``train``, ``test``, or ``weak`` for rows whose
            events have no times yet.
        name: The official id, for messages.
        values: The row in the released spelling.
        media: Media files that the row needs.
        mask: Mask from which the coordinates in the text of the row come.
        finish: Function that completes the values with the box and points of the mask. It returns the reason
            why the row cannot be used, or ``None``.
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
    """The content of the annotation files of a dataset.

    Args:
        rows: Rows for the manifests, in official order.
        rejected: Official rows that cannot be used.
        notes: Irregularities, and how often each occurred.
    """

    rows: list[Row] = field(default_factory=list)
    rejected: list[Lost] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def reject(self, task: str, split: str, name: str, reason: str) -> None:
        """Add an official row to the rows that cannot be used."""
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

        The video keeps the ending of the owner's file: programs recognize a container by its content, but an
        ending of another container would mislead people.

        Args:
            task: Released task id.
            split: Name of the manifest file without its ending.
            name: The official id, for messages.
            source: The owner's video; ``None`` if it was not found.
            stem: Path in ``video/`` and in ``audio/``, without the ending.
            values: The row in the released spelling, without the paths.
            taught: Further values of training rows, such as the target text.
            video: Ending of the video in the released manifest; used if the video was not found.
            audio: Ending of the audio file in the released manifest; used if ``sound`` is not given.
            wanted: Name of the file that was searched; by default, the released name of the video.
            sound: The owner's audio file; by default, the sound track of the video is extracted.
            piece: Start and end in seconds, if the owner's file may be a longer recording.
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
    """The settings of an import; each importer has some of them.

    Args:
        seed: Seed of all random choices.
        val: Use of the official validation rows: ``released`` follows the sizes in the paper, ``train`` adds
            the rows to the training rows, ``leave`` leaves them out.
        classes: File with the class names to keep, one in each line; by default, the classes of the importer.
        pairs: Number of training pairs of VGG-CM, both directions together.
        test_pairs: Number of test pairs of VGG-CM, both directions together.
        synonyms: YAML file with a list of lists of class names. Classes of one list are too similar to
            distinguish, so that no pair of VGG-CM has two of them.
        shortest_event: UnAV-100: smallest allowed length of every event of a training clip, in tenths of the
            clip after rounding.
        most_changes: UnAV-100: largest allowed number of moments inside a training clip at which an event
            starts or ends; by default, there is no limit.
        all_clips: UnAV-100: whether to keep every training clip.
        frames: Number of frames of each training clip or expression; by default, 2 for MS3 and Ref-AVS, and 1
            for ARIG.
        whole_clip: LLP: whether every weak label of a training clip becomes a visible and an audible event
            that lasts the whole clip.
        test_labels: MER2024: CSV file of a labelled test set, with the columns ``name`` and ``discrete``.
        lists: Kinetics-Sounds: source of the split, ``kinetics`` (tables of Kinetics-400) or ``ogm`` (lists
            of OGM-GE).

    Raises:
        ValueError: If a number is too small.
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
        """Return the settings that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


@dataclass(frozen=True)
class Importer:
    """The import of one dataset.

    Args:
        title: Name of the dataset.
        tasks: Ids of the tasks whose manifests it writes.
        read: Function that reads the annotation files with the settings of the import. It raises an
            ``AnnotationError`` if a file is not as its owner publishes it, and a ``FileNotFoundError`` if it
            is missing.
        expected: Official number of rows by task and split; unknown numbers are left out.
        paper_k: Number of training samples in the paper's Table 1, in thousands.
        access: Where the dataset is available, and under which licence.
        files: Description of the annotation files and the media that are searched.
        options: Names of the settings that the importer has.
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
    """Return an answer in tags, without reasoning.

    Args:
        text: The answer.
        stop: Text after the closing tag.
    """
    return f"<answer>{text}</answer>{stop}"
