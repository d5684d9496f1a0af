"""Make one media file of the data root: link, copy, cut or extract it; it is never left incomplete."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crab_lightning.builder.rows import Action

Link = Literal["hard", "symbolic", "copy"]
PART = ".import-"
"""Beginning of the names of unfinished files; a later call removes these files."""
LONGER_S = 1.0
"""If a file is longer than the wanted piece by more than this time in seconds, the piece is cut out."""

SOUND_BIT_RATE = 96_000
"""Bits per second of extracted mp3 files (mono, 16 kHz); 10 s need 120 KB."""
_PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class MediaJob:
    """One file to make.

    Args:
        target: Path of the file in the data root.
        source: Path of the owner's file.
        action: How the file is made, as in :class:`~crab_lightning.builder.rows.Media`.
        piece: Start and end of the piece in seconds, if the source may be a longer recording.
        link: How a file that needs no change is put into the data root.
    """

    target: Path
    source: Path
    action: Action
    piece: tuple[float, float] | None
    link: Link


@dataclass(frozen=True)
class Done:
    """The result of a :class:`MediaJob`.

    Args:
        kind: ``kept`` (the file existed), ``linked``, ``copied``, ``extracted``, ``cut``, ``made``,
            ``unreadable``, or ``stop`` for an error that would also occur with every other file.
        reason: The reason why the source is unreadable or why the import stops; empty otherwise.
    """

    kind: str
    reason: str = ""


def do_job(job: MediaJob) -> Done:
    """Make one file, unless it exists and was made from the same source.

    A file that is not a link gets the modification time of its source. By this time, a later call recognizes
    whether the file was made from the same source.
    """
    from crab_lightning.media import MediaError

    try:
        if _is_there(job):
            return Done("kept")
        part = job.target.with_name(f"{PART}{os.getpid()}-{job.target.name}")
        try:
            kind = _make(job, part)
            part.replace(job.target)
        finally:
            part.unlink(missing_ok=True)
        return Done(kind)
    except MediaError as err:
        return Done("unreadable", str(err))
    except OSError as err:
        if err.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP) and job.action == "link":
            return Done(
                "stop",
                f"{job.source} cannot be linked to {job.target} ({err.strerror}). Hard links work only "
                "within one file system that supports them; choose --symlink or --copy",
            )
        if err.filename is not None and Path(os.fsdecode(err.filename)) == job.source:
            return Done("unreadable", f"{job.source}: {err.strerror}")
        return Done("stop", f"{job.target} cannot be written: {err.strerror or err}")


def _is_there(job: MediaJob) -> bool:
    target, source = job.target, job.source
    if not target.exists():
        return False
    if job.action == "link" and target.samefile(source):
        return target.is_symlink() == (job.link == "symbolic") and job.link != "copy"
    if target.is_symlink():
        return False
    return abs(target.stat().st_mtime - source.stat().st_mtime) < 1e-3


def _make(job: MediaJob, part: Path) -> str:
    from crab_lightning.media import cut_video, read_audio, read_audio_piece, write_audio

    source, stamp = job.source, job.source.stat()
    if job.action == "empty_mask":
        _write_empty_mask(source, part)
        kind = "made"
    elif job.action == "sound":
        if job.piece is not None and _is_longer(source, job.piece):
            samples = read_audio_piece(source, *job.piece)
        else:
            samples = read_audio(source)
        write_audio(part, samples, bit_rate=SOUND_BIT_RATE)
        kind = "extracted"
    elif job.piece is not None and _is_longer(source, job.piece):
        if source.suffix.lower() in (".wav", ".mp3", ".m4a"):
            write_audio(part, read_audio_piece(source, *job.piece), bit_rate=SOUND_BIT_RATE)
        else:
            cut_video(source, part, *job.piece)
        kind = "cut"
    else:
        _check_readable(source)
        if job.link == "hard":
            # If the owner's file is a symbolic link, take its target: the link may be relative.
            part.hardlink_to(source.resolve())
            return "linked"
        if job.link == "symbolic":
            part.symlink_to(source.resolve())
            return "linked"
        shutil.copyfile(source, part)
        kind = "copied"
    os.utime(part, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    return kind


def _is_longer(source: Path, piece: tuple[float, float]) -> bool:
    """Return whether a file is longer than the wanted piece, so that the piece has to be cut out."""
    from crab_lightning.media import UnreadableMedia, probe

    duration_s = probe(source).duration_s
    start_s, end_s = piece
    if duration_s is None or duration_s <= end_s - start_s + LONGER_S:
        return False
    if duration_s < end_s - LONGER_S:
        raise UnreadableMedia(
            source,
            f"lasts {duration_s:.1f} s: too long for the piece of {end_s - start_s:g} s, too short to "
            f"contain {start_s:g} to {end_s:g} s. Download it again.",
        )
    return True


def _check_readable(path: Path) -> None:
    """Check that the header of a media file can be read, and that it contains pictures or sound."""
    from crab_lightning.media import NoVideoTrack, UnreadableMedia, probe
    from crab_lightning.media.container import check_file
    from crab_lightning.media.formats import PICTURE_FORMATS

    if path.suffix.lower() not in _PICTURES:
        info = probe(path)
        if not (info.has_video or info.has_audio):
            raise NoVideoTrack(path, "contains neither pictures nor sound. Download it again.")
        return
    from PIL import Image, UnidentifiedImageError

    check_file(path)
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            picture.verify()
    except (UnidentifiedImageError, SyntaxError, ValueError) as err:
        raise UnreadableMedia(path, f"is not a picture that can be read ({err}). Download it again.") from err


def _write_empty_mask(picture: Path, part: Path) -> None:
    from PIL import Image

    from crab_lightning.media import picture_size

    Image.new("L", picture_size(picture)).save(part, format="png")
