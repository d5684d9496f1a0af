"""One media file of the data root: linked, copied, cut or extracted, and there whole or not at all."""

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
"""Names of unfinished files begin so; a later call removes them."""
LONGER_S = 1.0
"""A file longer than its piece by more than this is a longer recording, out of which the piece is cut."""

SOUND_BIT_RATE = 96_000
"""Of extracted mp3 files (mono, 16 kHz); 120 KB for 10 s."""
_PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class MediaJob:
    """One file to make.

    Args:
        target: Where it belongs.
        source: The owner's file.
        action: As for :class:`~crab_lightning.builder.rows.Media`.
        piece: Start and end in seconds, where the source may be a longer recording.
        link: How a file is taken as it is.
    """

    target: Path
    source: Path
    action: Action
    piece: tuple[float, float] | None
    link: Link


@dataclass(frozen=True)
class Done:
    """What became of one file.

    Args:
        kind: ``kept`` (it was there), ``linked``, ``copied``, ``extracted``, ``cut``, ``made``,
            ``unreadable``, or ``stop`` for what would go wrong with every other file too.
        reason: Why it is unreadable, or why the import stops.
    """

    kind: str
    reason: str = ""


def do_job(job: MediaJob) -> Done:
    """Make one file, unless it is there and made of the same source.

    A made file gets the time stamp of its source, by which a later call tells whether it still belongs to it.
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
                f"{job.source} cannot be linked to {job.target} ({err.strerror}). Hard links need one file "
                "system that knows them; choose --symlink or --copy",
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
            # Not the link itself where the owner's file is one: it may lead out of the folder.
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
    """Say whether a file is a longer recording than the piece that is wanted of it.

    Raises:
        UnreadableMedia: If it is longer, but ends before the piece does.
    """
    from crab_lightning.media import UnreadableMedia, probe

    duration_s = probe(source).duration_s
    start_s, end_s = piece
    if duration_s is None or duration_s <= end_s - start_s + LONGER_S:
        return False
    if duration_s < end_s - LONGER_S:
        raise UnreadableMedia(
            source,
            f"lasts {duration_s:.1f} s: too long for the piece of {end_s - start_s:g} s, too short to "
            f"contain {start_s:g} to {end_s:g} s. Fetch it again.",
        )
    return True


def _check_readable(path: Path) -> None:
    """Read the header of a file.

    Raises:
        MediaError: If it is damaged, empty or holds neither pictures nor sound.
    """
    from crab_lightning.media import NoVideoTrack, UnreadableMedia, probe
    from crab_lightning.media.container import check_file
    from crab_lightning.media.formats import PICTURE_FORMATS

    if path.suffix.lower() not in _PICTURES:
        info = probe(path)
        if not (info.has_video or info.has_audio):
            raise NoVideoTrack(path, "contains neither pictures nor sound. Fetch it again.")
        return
    from PIL import Image, UnidentifiedImageError

    check_file(path)
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            picture.verify()
    except (UnidentifiedImageError, SyntaxError, ValueError) as err:
        raise UnreadableMedia(path, f"is not a picture that can be read ({err}). Fetch it again.") from err


def _write_empty_mask(picture: Path, part: Path) -> None:
    from PIL import Image

    from crab_lightning.media import picture_size

    Image.new("L", picture_size(picture)).save(part, format="png")
