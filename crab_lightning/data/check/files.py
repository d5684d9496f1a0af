"""What is found in one media file, remembered between runs of the check."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from crab_lightning import media
from crab_lightning.data.check.pool import Failure, run_isolated
from crab_lightning.structures import SAMPLE_RATE_HZ

FileKind = Literal["video", "image", "audio", "mask"]

# Raise when the meaning of a remembered finding changes.
_VERSION = 1
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class FileJob:
    """What to find out about one file.

    Args:
        path: The file.
        kind: What it has to be.
        frames: Frames to decode; 0 reads headers only.
        content: Hash the content instead.
    """

    path: Path
    kind: FileKind
    frames: int = 0
    content: bool = False


@dataclass(frozen=True)
class FileFacts:
    """What was found.

    Args:
        error: Why the file cannot be used; ``None`` when it can.
        kind: Class of the error.
        duration_s: Length of a clip; ``None`` where its header has none, and for pictures.
        size_px: Width and height of pictures.
        content: Hash of the bytes, when asked for.
    """

    error: str | None = None
    kind: str | None = None
    duration_s: float | None = None
    size_px: tuple[int, int] | None = None
    content: str | None = None


def inspect_file(job: FileJob) -> FileFacts:
    """Look at one file as a run would read it.

    With frames to decode, exactly what training reads is decoded: those frames, all of the sound, whole
    pictures. Else only headers are read.
    """
    try:
        if job.content:
            return FileFacts(content=content_hash(job.path))
        if job.kind == "image":
            return FileFacts(size_px=_picture(job))
        if job.kind == "mask":
            return FileFacts(size_px=_shape(media.read_mask(job.path, None).shape))
        return FileFacts(duration_s=_duration_s(job))
    except (media.MediaError, OSError) as err:
        return FileFacts(error=str(err), kind=type(err).__name__)


def _picture(job: FileJob) -> tuple[int, int]:
    if job.frames:
        return _shape(media.read_image(job.path, None).shape)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(job.path) as picture:
            return picture.size
    except (UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
        return _shape(media.read_image(job.path, None).shape)  # for its message


def _shape(shape: Iterable[int]) -> tuple[int, int]:
    height, width = list(shape)[-2:]
    return width, height


def _duration_s(job: FileJob) -> float | None:
    if job.kind == "video":
        if job.frames:
            return media.read_video(job.path, job.frames, 32).duration_s
        info = media.probe(job.path)
        if not info.has_video:
            raise media.NoVideoTrack(job.path, "has no video track. Give a video file.")
        return info.duration_s
    if job.frames:
        return media.read_audio(job.path).numel() / SAMPLE_RATE_HZ
    info = media.probe(job.path)
    if not info.has_audio:
        raise media.NoAudioTrack(job.path, "has no audio track. Give a file with sound.")
    return info.duration_s


def content_hash(path: Path) -> str:
    """Return a hash of a file's bytes."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class Findings:
    """Findings about files that survive an interrupted check; a changed file is looked at again.

    Args:
        path: File to keep them in, a line each; ``None`` keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, FileFacts] = {}
        if path is None or not path.is_file():
            return
        for line in path.read_bytes().splitlines():
            try:
                key, facts = json.loads(line)
                size_px = facts.pop("size_px")
                self._known[key] = FileFacts(size_px=size_px and tuple(size_px), **facts)
            except (ValueError, TypeError, AttributeError, KeyError):
                continue  # the last line of a killed check; its file is looked at again

    def inspect(
        self, jobs: Iterable[FileJob], workers: int, timeout_s: float
    ) -> Iterator[tuple[FileJob, FileFacts]]:
        """Yield every job with what is known or found."""
        todo: list[FileJob] = []
        keys: dict[FileJob, str] = {}
        for job in jobs:
            keys[job] = key = _key(job)
            known = self._known.get(key)
            if known is None:
                todo.append(job)
            else:
                yield job, known
        if not todo:
            return
        if self._path is None:
            for job, result in run_isolated(inspect_file, todo, workers, timeout_s=timeout_s):
                yield job, _facts(result, job)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(b"\n")  # ends a line that a killed check left
            for job, result in run_isolated(inspect_file, todo, workers, timeout_s=timeout_s):
                facts = _facts(result, job)
                file.write(json.dumps([keys[job], asdict(facts)]).encode() + b"\n")
                file.flush()
                yield job, facts


def _facts(result: FileFacts | Failure, job: FileJob) -> FileFacts:
    if isinstance(result, FileFacts):
        return result
    return FileFacts(error=f"{job.path}: {result.message}", kind=result.kind)


def _key(job: FileJob) -> str:
    try:
        stat = job.path.stat()
        state = f"{stat.st_size}:{stat.st_mtime_ns}"
    except OSError:
        state = "none"
    return f"{_VERSION}:{job.kind}:{job.frames}:{int(job.content)}:{state}:{job.path}"
