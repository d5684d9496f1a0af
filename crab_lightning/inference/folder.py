"""Asks a trained run one question about every clip of a folder."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crab_lightning.data.loading import SampleError
from crab_lightning.data.quarantine import BROKEN_CLIP
from crab_lightning.files import appended, remove_cut_line, replace_text, walked, whole_lines
from crab_lightning.in_order import in_order
from crab_lightning.inference.answer import read_answer
from crab_lightning.inference.loading import TrainedRun
from crab_lightning.inference.question import check_moment, check_texts, choose_dataset, make_sample, needs
from crab_lightning.inference.question_files import AskError
from crab_lightning.structures import Encoded, Prediction
from crab_lightning.value_types import check_arguments

VIDEOS = frozenset((
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg",
    ".mpeg", ".vob", ".flv", ".wmv", ".asf", ".ogv", ".gif",
))  # fmt: skip
SOUNDS = frozenset((
    ".wav", ".w64", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".caf", ".amr",
    ".au", ".wma", ".mka", ".weba",
))  # fmt: skip
PICTURES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2",
))  # fmt: skip

_UNUSABLE: tuple[type[Exception], ...] = (*BROKEN_CLIP, AskError)

Record = dict[str, Any]


@dataclass(frozen=True)
class FolderClip:
    """A clip of a folder.

    Args:
        name: Path of the video, the picture or the sound file, relative to the folder, with forward slashes.
        size: Size of the files of the clip together, in bytes.
        video: Video of the clip.
        image: Picture of the clip, if it has no video.
        audio: Sound file of the clip, which may be next to a video or picture of the same name.
    """

    name: str
    size: int
    video: Path | None = None
    image: Path | None = None
    audio: Path | None = None


@dataclass(frozen=True)
class FolderAnswers:
    """The result of asking about a folder.

    Args:
        answered: Number of clips with an answer, including those of earlier calls.
        before: Number of clips that earlier calls had answered.
        broken: Error message of each clip without an answer, by name.
        gone: Number of clips in the answer file that are no longer in the folder. Their answers are kept.
        passed_over: Number of hidden files and of files without the name of a video, picture or sound.
    """

    answered: int
    before: int
    broken: dict[str, str]
    gone: int
    passed_over: int


def find_clips(folder: Path) -> tuple[list[FolderClip], int]:
    """Return the clips of a folder and its sub-folders, sorted by name, and the number of other files.

    A sound file next to a video or a picture of the same name is the sound of that clip. Links are followed.
    A broken link counts as a clip that cannot be read, so that it is reported.

    Raises:
        NotADirectoryError: If there is no such folder.
        ValueError: If the folder contains no clip.
        OSError: If a sub-folder cannot be read.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    places: dict[str, dict[str, list[Path]]] = {}
    passed_over = 0
    for path in sorted(_files(folder)):
        suffix = path.suffix.lower()
        kind = next((k for k, known in (("video", VIDEOS), ("image", PICTURES), ("audio", SOUNDS))
                     if suffix in known), None)  # fmt: skip
        if kind is None or path.name.startswith("."):
            passed_over += 1
            continue
        place = str(path.relative_to(folder).with_suffix(""))
        places.setdefault(place, {}).setdefault(kind, []).append(path)
    clips = []
    for found in places.values():
        sounds = found.get("audio", [])
        sound = sounds[0] if len(sounds) == 1 else None
        shown = found.get("video") or found.get("image")
        # Two sounds with one name cannot both be the sound of a clip, so each is a clip of its own.
        alone = sounds if not shown or len(sounds) > 1 else []
        for path in (shown or []) + alone:
            kind = "audio" if path in alone else "video" if "video" in found else "image"
            beside = None if kind == "audio" else sound
            size = sum(p.stat().st_size for p in (path, beside) if p is not None and p.exists())
            clips.append(
                FolderClip(
                    path.relative_to(folder).as_posix(),
                    size,
                    path if kind == "video" else None,
                    path if kind == "image" else None,
                    path if kind == "audio" else beside,
                )
            )
    if not clips:
        endings = ", ".join(sorted(VIDEOS | PICTURES | SOUNDS))
        raise ValueError(
            f"{folder} contains no clip. Files whose names end in one of these are clips: {endings}"
        )
    return sorted(clips, key=lambda clip: clip.name), passed_over


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files and the broken links below a folder."""

    def fail(err: OSError) -> None:
        raise err

    for place, names in walked(folder, onerror=fail):
        for name in names:
            path = Path(place, name)
            if path.is_file() or path.is_symlink():
                yield path


def ask_folder(
    run: TrainedRun,
    task: str,
    folder: str | Path,
    out: str | Path,
    *,
    question: str | None = None,
    options: Sequence[str] | None = None,
    expression: str | None = None,
    dataset: str | None = None,
    at_s: float | None = None,
    silent: bool = False,
    untaught: bool = False,
    batch: int = 8,
    workers: int = 2,
    report: Callable[[str, int, int], None] | None = None,
) -> FolderAnswers:
    """Ask one question about every clip of a folder, several clips at the same time.

    Each answer is appended to ``out`` immediately, as a JSON object in one line, so that a later call
    continues an interrupted one: it does not ask again about a clip with the same name and size. At the end,
    the file is sorted by the names of the clips. A clip that cannot be read has the key ``error`` instead of
    an answer, and the next call tries it again.

    Args:
        run: The result of :func:`load_run`.
        task: Key of a task or dataset of the run, the start of a task's key, or the initials of a task.
        folder: Folder of the clips; its sub-folders are read too.
        out: File for the answers.
        question: Question to be answered.
        options: Answers to choose from.
        expression: Name of the object that a referring task has to find.
        dataset: Dataset whose frames, audio window and classes are used. By default, the first that fits.
        at_s: Second of each clip that an image task looks at. By default, the middle of the clip.
        silent: Replace all sound with silence.
        untaught: Also allow tasks and datasets on which the run was not trained.
        batch: Number of answers that are generated at the same time.
        workers: Number of clips that are decoded at the same time.
        report: Called with ``"Clips"``, the number of finished clips and the number of all clips.

    Raises:
        AskError: If the task needs something that was not given, or needs two clips.
        NotADirectoryError: If there is no such folder.
        IsADirectoryError: If ``out`` is a folder.
        ValueError: If the folder contains no clip, no clip has an answer, ``out`` contains other answers,
            ``batch`` or ``workers`` is below 1, or an argument has a wrong type.
    """
    check_arguments(ask_folder, locals(), "")
    if batch < 1 or workers < 1:
        raise ValueError(f"batch is {batch} and workers {workers}; both must be at least 1")
    folder, out = Path(folder), Path(out)
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; name a file for the answers")
    clips, passed_over = find_clips(folder)
    given = {"question": question, "options": options and list(options), "expression": expression}
    texts = {name: value for name, value in given.items() if value is not None}
    name = choose_dataset(run.data, task, dataset, 1, 0, texts, untaught=untaught)
    _check(run, name, texts)
    if at_s is not None:
        check_moment(name, run.data.datasets[name])
    settings = _digest(run, {"dataset": name, "at_s": at_s, "texts": texts, "silent": silent})
    records = _earlier(out, settings)
    todo = [clip for clip in clips if not _is_answered(records.get(clip.name), clip)]
    before = done = len(clips) - len(todo)

    def encode(clip: FolderClip) -> Encoded | str:
        with tempfile.TemporaryDirectory(prefix="crab-ask-") as scratch:
            videos, sounds = ([p] if p else [] for p in (clip.video, clip.audio))
            try:
                sample = make_sample(
                    name, run.data.datasets[name], videos, clip.image, [] if silent else sounds, at_s, texts,
                    Path(scratch), silent=silent,
                )  # fmt: skip
                return run.data.dataset([replace(sample, id=clip.name, clip=clip.name)])[0]
            except _UNUSABLE as err:
                return str(err)
            except SampleError as err:
                if isinstance(err.__cause__, (*_UNUSABLE, ValueError)):
                    return str(err)
                raise

    out.parent.mkdir(parents=True, exist_ok=True)
    sizes = {clip.name: clip.size for clip in todo}
    encoded = in_order(encode, todo, workers, batch + workers)
    with appended(out) as file, closing(encoded):
        for found in _answers(run, encoded, batch):
            record: Record = {"file": found[0], "bytes": sizes[found[0]], "settings": settings}
            if isinstance(found[1], str):
                record["error"] = found[1]
            else:
                answer = read_answer(run.data, found[1], 0.0)
                record |= {
                    "task": answer.task, "dataset": answer.dataset, "answer": answer.text,
                    "parsed": answer.value, "truncated": answer.truncated, "tokens": answer.tokens,
                }  # fmt: skip
                record |= {"note": answer.note} if answer.note else {}
            records[found[0]] = record
            file.write(_line(record))
            file.flush()
            done += 1
            if report is not None:
                report("Clips", done, len(clips))
    replace_text(out, "".join(_line(records[key]) for key in sorted(records)))
    here = {clip.name for clip in clips}
    broken = {key: records[key]["error"] for key in sorted(here) if "error" in records[key]}
    if len(broken) == len(clips):
        first = next(iter(broken))
        raise ValueError(
            f"none of the {len(clips)} clips in {folder} has an answer. {first}: {broken[first]}"
        )
    return FolderAnswers(len(clips) - len(broken), before, broken, len(records.keys() - here), passed_over)


def _check(run: TrainedRun, name: str, texts: dict[str, Any]) -> None:
    """Check the task and the texts, which are the same for all clips, before the first clip is decoded."""
    spec = run.data.datasets[name]
    if (needed := needs(spec)) is None:
        return
    if max(needed.videos, needed.audios) > 1:
        raise AskError(f"task {spec.task} ({name}) compares two clips; a folder is asked about one at a time")
    check_texts(f"task {spec.task} ({name})", needed.texts, texts)


def _digest(run: TrainedRun, settings: Record) -> str:
    """Return a hash of everything, except the clip, on which an answer depends."""
    settings["max_new_tokens"] = run.model.max_new_tokens
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, parameter in sorted(run.model.named_parameters()):
        if parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _earlier(out: Path, settings: str) -> dict[str, Record]:
    """Return the records of an answer file, and remove an incomplete last line from the file."""
    records: dict[str, Record] = {}
    for number, line in enumerate(whole_lines(out), 1):
        try:
            record = json.loads(line)
            name, other = record["file"], record["settings"] != settings
        except (ValueError, TypeError, KeyError) as err:
            raise AskError(
                f"{out}, line {number}: this is not an answer about a folder; name another file as `out`"
            ) from err
        if other:
            raise AskError(
                f"{out} contains answers to another question, or of another run or token limit; name another "
                "file as `out`, or remove this one"
            )
        records[name] = record
    remove_cut_line(out)
    return records


def _is_answered(record: Record | None, clip: FolderClip) -> bool:
    return record is not None and "error" not in record and record["bytes"] == clip.size


def _line(record: Record) -> str:
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # the name of a file may contain bytes that are not text
        text = json.dumps(record)
    return text + "\n"


def _answers(
    run: TrainedRun, encoded: Iterator[tuple[FolderClip, Encoded | str]], batch: int
) -> Iterator[tuple[str, Prediction | str]]:
    """Yield the model's answer about each clip, or the reason why there is none, as soon as it is known."""
    model: Any = run.model
    ready: list[Encoded] = []

    def said(items: list[Encoded]) -> Iterator[tuple[str, Prediction | str]]:
        asked = run.data.processor.collate(items).to(model.device)
        found = model.stream(asked)
        for prediction in model.generate(asked) if found is None else found:
            yield prediction.sample.id, prediction

    for clip, item in encoded:
        if isinstance(item, str):
            yield clip.name, item
            continue
        ready.append(item)
        if len(ready) == batch:
            yield from said(ready)
            ready = []
    if ready:
        yield from said(ready)
    for prediction in model.drain():
        yield prediction.sample.id, prediction
