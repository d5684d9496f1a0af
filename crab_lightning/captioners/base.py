"""What writes a caption, and how it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from crab_lightning.media import read_audio
from crab_lightning.structures import SAMPLE_RATE_HZ

PROMPT = "Describe this audio in one sentence."
LONGEST_S = 30.0
"""Qwen2-Audio hears half a minute; of a longer clip both captioners hear its beginning."""


class CaptionerError(ValueError):
    """The captioner cannot go on: any further clip would fail as well."""


class ClipRefused(ValueError):
    """One clip got no caption; the others may."""


class Captioner(Protocol):
    """Writes a caption for each clip of a group.

    Args:
        group: Clips asked about in one call.
        parallel: Calls that may run at once.
        settings: What the captions depend on, to be kept beside them.
    """

    group: int
    parallel: int
    settings: dict[str, Any]

    def describe(self, paths: Sequence[Path]) -> list[str | Exception]:
        """Return the caption of each clip, or why it has none.

        Raises:
            CaptionerError: If no clip would get one.
        """
        ...


def heard(path: Path) -> Tensor:
    """Return a clip's first half minute, ``(S,)`` at 16 kHz.

    Raises:
        MediaError: If it cannot be decoded.
    """
    return read_audio(path)[: int(LONGEST_S * SAMPLE_RATE_HZ)]


def tidy(text: str) -> str:
    """Return a caption as one line.

    Raises:
        ClipRefused: If there is no text in it.
    """
    line = " ".join(text.split())
    if not line:
        raise ClipRefused("its caption is empty")
    return line
