"""The clips to be captioned, in an order that does not change between calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".mp4", ".mkv", ".webm")
_ID_LENGTH = 11  # of a recording on YouTube


@dataclass(frozen=True)
class Clip:
    """A sound file.

    Args:
        path: Where it is.
        recording: Id of the recording that it is of.
    """

    path: Path
    recording: str


def find_clips(folder: Path, listed: Sequence[str] | None = None) -> tuple[list[Clip], int]:
    """Return the clips of a folder.

    Args:
        folder: Searched with all its sub-folders.
        listed: Ids of recordings, in order; only their clips are taken, several of one recording by name.
            Files are named after the recording (``ID.wav``, ``ID_30.000_40.000.wav``, ``YID.wav``).

    Returns:
        The clips, by path or in the order of the list, and how many listed recordings have none.

    Raises:
        NotADirectoryError: If there is no such folder.
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
        # AudioSet's usual tools put a Y before the id, which may itself begin with one.
        names = (path.stem[:_ID_LENGTH], path.stem[1 : _ID_LENGTH + 1] if path.stem[:1] == "Y" else "")
        name = next((name for name in names if name in order), None)
        if name is not None:
            found.append((order[name], Clip(path, name)))
    found.sort(key=lambda pair: pair[0])  # stable: clips of one recording stay by name
    absent = len(order) - len({place for place, _ in found})
    if not found:
        raise ValueError(
            f"--audio {folder} contains {len(paths):,} sound files, none of the {len(order):,} listed "
            f"recordings; files are named after the recording, as {next(iter(order))}.wav (found: "
            f"{paths[0].name})"
        )
    return [clip for _, clip in found], absent
