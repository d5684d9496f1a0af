"""What can be wrong with a media file; every message names the file, what was found and what to do."""

from __future__ import annotations

from pathlib import Path


class MediaError(ValueError):
    """A media file cannot be used as asked.

    Args:
        path: The file.
        message: What was found and what to do, in one or two sentences.
    """

    def __init__(self, path: str | Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = Path(path)
        self._message = message

    def __reduce__(self) -> tuple[type[MediaError], tuple[Path, str]]:
        # Exceptions travel from loader workers by pickle, which would call __init__ with the joined text.
        return type(self), (self.path, self._message)


class MissingMedia(MediaError):
    """The file is not there, or is a folder."""


class EmptyMedia(MediaError):
    """The file has zero bytes, or a stream without a single frame or sample."""


class UnreadableMedia(MediaError):
    """No decoder can make sense of the file."""


class TruncatedMedia(MediaError):
    """The file ends before what its header declares."""


class NoVideoTrack(MediaError):
    """Frames were asked of a file without moving pictures."""


class NoAudioTrack(MediaError):
    """Sound was asked of a file without an audio track."""


class MediaTooLarge(MediaError):
    """The file exceeds a limit of ``MediaLimits``."""


class AudioWindowError(ValueError):
    """A waveform does not hold the part that its window asks for."""
