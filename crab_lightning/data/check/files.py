"""Checks single media files, and stores the findings for later checks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Literal

from crab_lightning import media
from crab_lightning.data.check.pool import Failure, run_isolated
from crab_lightning.files import appended
from crab_lightning.spelling import counted
from crab_lightning.structures import SAMPLE_RATE_HZ, MaskColours

FileKind = Literal["video", "image", "audio", "mask"]

# Increase this when the meaning of a stored finding changes.
_VERSION = 3
# A track that begins later or pauses for longer than this is reported. Shorter gaps do not matter.
_LARGE_GAP_S = 0.5
# No object fills a larger fraction of a picture.
_FULL_SHARE = 0.98


@dataclass(frozen=True)
class FileJob:
    """A check of one file.

    Args:
        path: The file.
        kind: The required kind of the file.
        frames: Number of frames to decode. With 0, only the header is read.
        content: Hash the content of the file instead of checking it.
        colours: The colours of the object in a mask, if the dataset states them.
    """

    path: Path
    kind: FileKind
    frames: int = 0
    content: bool = False
    colours: MaskColours | None = None


@dataclass(frozen=True)
class FileFacts:
    """The findings about one file.

    Args:
        error: The reason why the file cannot be used, or ``None``.
        kind: Name of the class of the error.
        duration_s: Length of a clip in seconds; ``None`` for pictures and if the header has no length.
        content: Hash of the bytes, if it was asked for.
        remarks: Warnings about a file that can be used.
        foreground: Fraction of the pixels of a mask that belong to the object.
    """

    error: str | None = None
    kind: str | None = None
    duration_s: float | None = None
    content: str | None = None
    remarks: tuple[str, ...] = ()
    foreground: float | None = None


def inspect_file(job: FileJob) -> FileFacts:
    """Check one file as a run would read it.

    If ``job.frames`` is above 0, the function decodes what training reads: these frames, all of the sound, or
    the whole picture. Otherwise it reads only headers. Masks are always decoded.
    """
    try:
        if job.content:
            return FileFacts(content=content_hash(job.path))
        if job.kind == "image":
            if job.frames:
                media.read_image(job.path, None)
            else:
                media.picture_size(job.path)
            return FileFacts()
        if job.kind == "mask":
            return _mask(job)
        if job.kind == "video" and job.frames:
            clip = media.read_video(job.path, job.frames, 32)
            lost = (
                f"{job.path}: {counted(clip.lost_frames, 'frame')} of {clip.total_frames + clip.lost_frames} "
            )
            lost += "cannot be decoded and will be left out. Download the file again or convert it"
            return FileFacts(duration_s=clip.duration_s, remarks=(lost,) if clip.lost_frames else ())
        remarks = _sound_remarks(job.path) if job.kind == "audio" else ()
        return FileFacts(duration_s=_duration_s(job), remarks=remarks)
    except (media.MediaError, OSError) as err:
        return FileFacts(error=str(err), kind=type(err).__name__)


def _mask(job: FileJob) -> FileFacts:
    mask = media.read_mask(job.path, None, colours=job.colours)
    share = float(mask.float().mean())
    remarks: tuple[str, ...] = ()
    if share >= _FULL_SHARE:
        remarks = (
            f"{job.path}: {100 * share:.0f} % of the picture is marked as the object, which is too "
            "much. The colours may be reversed, or the background may not be black. State them under `mask` "
            "of the dataset's entry",
        )
    return FileFacts(remarks=remarks, foreground=share)


def _sound_remarks(path: Path) -> tuple[str, ...]:
    gaps = media.sound_gaps(path)
    remarks = []
    if gaps.start_s > _LARGE_GAP_S:
        remarks.append(
            f"{path}: the sound begins {gaps.start_s:.1f} s after the clip does; until then there is silence"
        )
    if gaps.tail_s > _LARGE_GAP_S:
        remarks.append(
            f"{path}: the sound ends {gaps.tail_s:.1f} s before the picture does; then there is silence"
        )
    large = [hole for hole in gaps.holes if hole[1] > _LARGE_GAP_S]
    if large:
        at_s, length_s = large[0]
        remarks.append(
            f"{path}: the sound pauses {counted(len(large), 'time')}, first at {at_s:.1f} s for "
            f"{length_s:.1f} s; pauses are silent"
        )
    return tuple(remarks)


def _duration_s(job: FileJob) -> float | None:
    if job.kind == "video":
        info = _whole(job.path)
        if not info.has_video:
            raise media.NoVideoTrack(job.path, "has no video track. Give a video file.")
        return info.duration_s
    if job.frames:
        return media.read_audio(job.path).numel() / SAMPLE_RATE_HZ
    info = _whole(job.path)
    if not info.has_audio:
        raise media.NoAudioTrack(job.path, "has no audio track. Give a file with sound.")
    # A header without a length may be that of a file without a single sample.
    return info.duration_s or media.read_audio(job.path).numel() / SAMPLE_RATE_HZ


def _whole(path: Path) -> media.MediaInfo:
    """Read the header of a clip, and refuse a file that is cut off, as far as its format shows this."""
    info = media.probe(path)
    if missing := media.cut_off(path):
        raise media.TruncatedMedia(path, f"is cut off: {missing}. Download it again.")
    return info


def content_hash(path: Path) -> str:
    """Return a hash of a file's bytes."""
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


class Findings:
    """Findings about files, which are kept after an interruption. A changed file is checked again.

    Args:
        path: File for the findings, one in each line. With ``None``, nothing is stored.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, FileFacts] = {}
        if path is None or not path.is_file():
            return
        for line in path.read_bytes().splitlines():
            try:
                key, facts = json.loads(line)
                self._known[key] = FileFacts(**facts | {"remarks": tuple(facts["remarks"])})
            except (ValueError, TypeError, AttributeError, KeyError):
                continue  # the last line of a check that was killed; its file is checked again

    def inspect(
        self, jobs: Iterable[FileJob], workers: int, timeout_s: float
    ) -> Iterator[tuple[FileJob, FileFacts]]:
        """Yield every job with its findings, which were stored earlier or are made now."""
        keys = {job: _key(job) for job in jobs}
        todo = [job for job, key in keys.items() if key not in self._known]
        yield from ((job, self._known[key]) for job, key in keys.items() if key in self._known)
        if not todo:
            return
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext() if self._path is None else appended(self._path) as file:
            if file is not None:
                file.write("\n")  # ends an incomplete line of a check that was killed
            for job, result in run_isolated(inspect_file, todo, workers, timeout_s=timeout_s):
                if isinstance(result, Failure):
                    result = FileFacts(error=f"{job.path}: {result.message}", kind=result.kind)
                if file is not None:
                    file.write(json.dumps([keys[job], asdict(result)]) + "\n")
                    file.flush()
                yield job, result


def _key(job: FileJob) -> str:
    try:
        stat = job.path.stat()
        state = f"{stat.st_size}:{stat.st_mtime_ns}"
    except OSError:
        state = "none"
    return f"{_VERSION}:{job.kind}:{job.frames}:{int(job.content)}:{job.colours}:{state}:{job.path}"
