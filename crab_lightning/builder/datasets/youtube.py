"""Find clips that are named by YouTube id and time, or the whole videos that contain these clips."""

from __future__ import annotations

from pathlib import Path

from crab_lightning.builder.source import Source

VGGSOUND_S = 10


def find_piece(
    source: Source, names: tuple[str, ...], video_id: str, start_s: float, end_s: float
) -> tuple[Path | None, tuple[float, float] | None]:
    """Return the file of a clip, and the piece to cut out if the file may be the whole video.

    Args:
        source: The owner's folders.
        names: Possible names of the trimmed clip, without an ending; the first existing file is used.
        video_id: YouTube id: the name of the whole video and, in some archives, of the trimmed clip.
        start_s: Start of the clip in the whole video, in seconds.
        end_s: End of the clip in the whole video, in seconds.

    Returns:
        The file, or ``None`` if there is none; and start and end of the piece, or ``None`` for a trimmed
        clip.
    """
    for name in names:
        if (path := source.media(name)) is not None:
            return path, None
    return source.media(video_id), (start_s, end_s)


def vggsound_name(video_id: str, start_s: int) -> str:
    """Return the official name of a VGGSound clip."""
    return f"{video_id}_{start_s:06d}"


def find_vggsound(
    source: Source, video_id: str, start_s: int
) -> tuple[Path | None, tuple[float, float] | None]:
    """Return the file of a VGGSound clip and the piece to cut out, as :func:`find_piece` does."""
    name = vggsound_name(video_id, start_s)
    return find_piece(source, (name,), video_id, start_s, start_s + VGGSOUND_S)


def split_times(name: str) -> tuple[str, float, float] | None:
    """Return the id, the start and the end of a name ``<id>_<start>_<end>``.

    The name is split from the right, since an id may contain ``_`` and ``-``.

    Returns:
        ``None`` if the name does not have this form.
    """
    parts = name.rsplit("_", 2)
    if len(parts) != 3:
        return None
    try:
        start, end = float(parts[1]), float(parts[2])
    except ValueError:
        return None
    return (parts[0], start, end) if parts[0] and 0 <= start < end else None
