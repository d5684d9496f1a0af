"""Finds the clips to be captioned, in an order that is the same in every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".mp4", ".mkv", ".webm")
_ID_LENGTH = 11  # length of the id of a YouTube video


@dataclass(frozen=True)
class Clip:
    """A sound file.

    Args:
        path: Path of the file.
        recording: Id of the recording of which the clip is a part.
    """

    path: Path
    recording: str


def find_clips(folder: Path, listed: Sequence[str] | None = None) -> tuple[list[Clip], int]:
    """Return the clips of a folder.

    Args:
        folder: Folder that is searched, with all its sub-folders.
        listed: Ids of recordings. Only clips of these are returned, in the order of the list; clips of the
            same recording are sorted by path. File names begin with the id (``ID.wav``,
            ``ID_30.000_40.000.wav``, ``YID.wav``).

    Returns:
        The clips, sorted by path or in the order of the list, and the number of listed recordings without a
        clip.

    Raises:
        NotADirectoryError: If the folder does not exist.
        ValueError: If no clip is found.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"--audio {folder} is not a folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"--audio {folder} contains no sound file ({', '.join(SUFFIXES)})")
    if listed is None:
        return [Clip(path, path.stem[:_ID_LENGTH]) for path in paths], 0
    order = {recording: place for place, recording in enumerate(dict.fromkeys(listed))}
    found: list[tuple[int, Clip]] = []
    for path in paths:
        # Tools for AudioSet often put a Y before the id; the id itself may also begin with a Y.
        names = (path.stem[:_ID_LENGTH], path.stem[1 : _ID_LENGTH + 1] if path.stem[:1] == "Y" else "")
        name = next((name for name in names if name in order), None)
        if name is not None:
            found.append((order[name], Clip(path, name)))
    found.sort(key=lambda pair: pair[0])  # stable, so clips of one recording stay sorted by path
    absent = len(order) - len({place for place, _ in found})
    if not found:
        raise ValueError(
            f"--audio {folder} contains {len(paths):,} sound files, but none of the {len(order):,} listed "
            f"recordings. The file names must begin with the id of the recording, such as "
            f"{next(iter(order))}.wav (found: {paths[0].name})"
        )
    return [clip for _, clip in found], absent
