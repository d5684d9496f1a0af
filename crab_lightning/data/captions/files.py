"""Reads captioned pictures and sounds for connector pre-training, in the formats of published datasets.

Rows that cannot be used are collected with the reason, and are reported.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from crab_lightning.data.manifests.reader import ManifestError, read_manifest
from crab_lightning.json_text import parse_json
from crab_lightning.spelling import counted
from crab_lightning.structures import DatasetSpec, Sample

Format = Literal["video_llava", "audio_captions", "avcap"]
TASK = "describe"
AUDIO_PROMPT = "<audio>\nDescribe what can be heard."
VISUAL_PROMPT = "<video>\nDescribe what can be seen."
PLACEHOLDER = re.compile(r"<(image|video|audio)>")


@dataclass
class CaptionSource:
    """One file of captions: an entry under ``data.sources``.

    Args:
        file: JSON or JSONL file; relative to ``data.root``.
        format: ``video_llava`` is Video-LLaVA's JSON (a list of rows with ``image`` or ``video`` and
            ``conversations``); ``audio_captions`` has a JSON object with ``audio`` and ``caption`` on each
            line; ``avcap`` is the captioning manifest of an AV-UIE v2 tree, for ``modality``.
        media: Folder of the media, relative to ``data.root``. By default, ``data.root`` itself.
        modality: The modality that an ``avcap`` source shows: ``visual`` or ``audio``.
        segments: AudioSet segment list (CSV); only its clips are used.
        frames: Number of frames sampled from each video.
        size_px: Height and width to which frames and images are resized.
        limit: Keep at most this many training rows, chosen by the seed.
        weight: Sampling weight. By default, the number of rows.
        allow_broken: Number of rows that may be unusable.
    """

    file: str
    format: Format
    media: str | None = None
    modality: Literal["visual", "audio"] = "visual"
    segments: str | None = None
    frames: int = 8
    size_px: int = 224
    limit: int | None = None
    weight: float | None = None
    allow_broken: int = 0


@dataclass
class Captions:
    """The content of a source.

    Args:
        samples: One sample for each question and answer.
        broken: For each unusable row, its number and the reason.
        unlisted: Number of rows whose clip is not in the segment list.
    """

    samples: list[Sample] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    unlisted: int = 0


@dataclass(frozen=True)
class Segment:
    """A clip of AudioSet: a part of a recording, and the machine ids of its labels."""

    recording: str
    start_s: float
    end_s: float
    labels: tuple[str, ...]


def read_segments(path: Path) -> list[Segment]:
    """Read an AudioSet segment list.

    Args:
        path: A file like ``balanced_train_segments.csv``: comment lines, then lines with ``YTID,
            start_seconds, end_seconds, positive_labels``.

    Raises:
        ManifestError: If the file cannot be read, a line is not a segment, or there is no segment.
    """
    segments: list[Segment] = []
    with _opened(path) as lines:
        # columns are separated by a comma and a space, and the labels are quoted
        for number, row in enumerate(csv.reader(lines, skipinitialspace=True), start=1):
            if not row or row[0].startswith("#"):
                continue
            try:
                recording, start, end, labels = row
                segment = Segment(recording, float(start), float(end), tuple(labels.split(",")))
            except ValueError as err:
                raise ManifestError(
                    f"{path}, line {number}: {row} is not a segment; YTID, start_seconds, end_seconds, "
                    '"labels" is expected'
                ) from err
            segments.append(segment)
    if not segments:
        raise ManifestError(f"{path} contains no segment; it must be a segment list of AudioSet")
    return segments


def read_captions(name: str, source: CaptionSource, root: Path) -> Captions:
    """Read one source.

    Args:
        name: Key of the source under ``data.sources``.
        source: Entry of the source.
        root: Folder to which the paths of the entry are relative.

    Raises:
        ManifestError: If the file is missing or is not a list of rows, if more rows are unusable than
            allowed, or if no row is usable.
    """
    if source.format == "avcap":
        found = _avcap(name, source, root)
    else:
        rows = _json_rows if source.format == "video_llava" else _jsonl_rows
        read = _video_llava if source.format == "video_llava" else _audio_captions
        listed: set[str] | None = None
        if source.segments is not None:
            listed = {segment.recording for segment in read_segments(root / source.segments)}
        found = Captions()
        media = root / (source.media or "")
        for number, row in rows(root / source.file):
            try:
                if isinstance(row, Exception):
                    raise ValueError(f"it {row}")
                if listed is not None and _recording(row) not in listed:
                    found.unlisted += 1
                    continue
                found.samples += read(name, number, row, media)
            except ValueError as err:
                found.broken.append(f"row {number}: {err}")
    where = f"data.sources.{name}: {root / source.file}"
    if len(found.broken) > source.allow_broken:
        raise ManifestError(
            f"{where} has {counted(len(found.broken), 'unusable row')}, first: {'; '.join(found.broken[:3])}."
            f" Correct them, or set allow_broken: {len(found.broken)} to train without them"
        )
    if not found.samples:
        raise ManifestError(f"{where} has no usable row ({found.unlisted} are not in the segment list)")
    return found


def _opened(path: Path) -> Any:
    try:
        return io.StringIO(path.read_bytes().decode("utf-8"), newline="")
    except OSError as err:
        raise ManifestError(f"{path} cannot be read: {err.strerror or err}") from err
    except UnicodeDecodeError as err:
        raise ManifestError(f"{path} is not UTF-8 text ({err.reason} at byte {err.start})") from err


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with _opened(path) as file:
        try:
            rows = parse_json(file.read())
        except ValueError as err:
            raise ManifestError(f"{path} {err}") from err
    if not isinstance(rows, list):
        raise ManifestError(f"{path} contains a {type(rows).__name__}; a list of rows is expected")
    yield from enumerate(rows)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with _opened(path) as file:
        for number, line in enumerate(file):
            if line.strip():
                try:
                    yield number, parse_json(line)
                except ValueError as err:
                    yield number, err  # a line that a full disk cut off is one broken row, not a broken file


def _recording(row: Any) -> str:
    """Return the id of the recording of a row with sound. Ids of YouTube have 11 characters."""
    if not isinstance(row, dict):
        return ""
    return str(row.get("id") or Path(str(row.get("audio", ""))).stem[:11])


def _audio_captions(name: str, number: int, row: Any, media: Path) -> list[Sample]:
    path = media / _text(row, "audio")
    caption = _text(row, "caption")
    _exists(path)
    return [_sample(name, str(number), number, AUDIO_PROMPT, caption, path, audios=(path,))]


def _video_llava(name: str, number: int, row: Any, media: Path) -> list[Sample]:
    if not isinstance(row, dict):
        raise ValueError(f"it is a {type(row).__name__}, not an object")
    files = {kind: _paths(row.get(kind), kind, media) for kind in ("image", "video")}
    clips = [path for paths in files.values() for path in paths]
    if not clips:
        raise ValueError("it names neither image nor video")
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise ValueError("conversations is not a list of questions and answers in turn")
    samples = []
    for pair in range(0, len(turns), 2):
        asked, answer = (
            _said(turn, who) for turn, who in zip(turns[pair : pair + 2], ("human", "gpt"), strict=True)
        )
        if not PLACEHOLDER.search(asked) and pair:
            # a later question of a conversation is about the same media
            asked = "".join(f"<{kind}>\n" for kind, paths in files.items() for _ in paths) + asked
        for kind, paths in files.items():
            if asked.count(f"<{kind}>") != len(paths):
                raise ValueError(
                    f"a question has {counted(asked.count(f'<{kind}>'), 'place')} <{kind}> for "
                    f"{counted(len(paths), 'file')}"
                )
        if PLACEHOLDER.search(answer) or "<audio>" in asked:
            raise ValueError("a placeholder has no clip")
        key = str(number) if len(turns) == 2 else f"{number}-{pair // 2}"
        samples.append(
            _sample(
                name,
                key,
                number,
                asked,
                answer,
                clips[0],
                videos=tuple(files["video"]),
                images=tuple(files["image"]),
            )
        )
    for path in clips:
        _exists(path)
    return samples


def _avcap(name: str, source: CaptionSource, root: Path) -> Captions:
    """Read the captioning manifest of an AV-UIE v2 data root, for one modality."""
    spec = DatasetSpec(TASK, "avcap", folder=source.file, allow_missing=source.allow_broken)
    found = Captions()
    for s in read_manifest(root, name, spec, "train"):
        heard = source.modality == "audio"
        found.samples.append(
            _sample(
                name,
                str(s.row),
                s.row,
                AUDIO_PROMPT if heard else VISUAL_PROMPT,
                s.target or "",
                Path(s.clip),
                videos=() if heard else s.videos,
                audios=s.audios if heard else (),
            )
        )
    return found


def _sample(
    name: str, key: str, row: int, asked: str, answer: str, clip: Path, **media: tuple[Path, ...]
) -> Sample:
    return Sample(
        id=f"{name}/{key}",
        dataset=name,
        task=TASK,
        split="train",
        clip=str(clip),
        target=answer,
        fields={"asked": asked},
        row=row,
        clips=(str(clip),),
        **media,  # type: ignore[arg-type]  # videos, images, audios
    )


def _text(row: Any, key: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is {value!r}; a text is expected")
    return value.strip()


def _said(turn: Any, who: str) -> str:
    if not isinstance(turn, dict) or turn.get("from") != who:
        raise ValueError(f"a turn is not from {who!r}: {str(turn)[:80]}")
    return _text(turn, "value")


def _paths(value: Any, kind: str, media: Path) -> list[Path]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    if wrong := [v for v in values if not isinstance(v, str) or not v]:
        raise ValueError(f"{kind} is {wrong[0]!r}; a path is expected")
    return [media / v for v in values]


def _exists(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
