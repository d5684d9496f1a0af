"""The interface of captioners, their errors, and helpers for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from crab_lightning.media import read_audio
from crab_lightning.structures import SAMPLE_RATE_HZ

PROMPT = "Describe this audio in one sentence."
LONGEST_S = 30.0
"""Length that Qwen2-Audio can read; of a longer clip all captioners get only the first 30 s."""


class CaptionerError(ValueError):
    """The captioner cannot continue, because every further clip would fail too."""


class ClipRefused(ValueError):
    """One clip got no caption; other clips may get one."""


class Captioner(Protocol):
    """Writes a caption for each clip of a group.

    Args:
        group: Number of clips in one call of ``describe``.
        parallel: Number of calls that may run at the same time.
        settings: Settings on which the captions depend; they are stored beside the captions.
    """

    group: int
    parallel: int
    settings: dict[str, Any]

    def describe(self, paths: Sequence[Path]) -> list[str | Exception]:
        """Return the caption of each clip, or the error because of which it has none.

        Raises:
            CaptionerError: If every further clip would fail too.
        """
        ...


def heard(path: Path) -> Tensor:
    """Return the first 30 s of a clip, ``(S,)`` at 16 kHz.

    Raises:
        MediaError: If the clip cannot be decoded.
    """
    return read_audio(path)[: int(LONGEST_S * SAMPLE_RATE_HZ)]


def tidy(text: str) -> str:
    """Return a caption as one line.

    Raises:
        ClipRefused: If the caption is empty.
    """
    line = " ".join(text.split())
    if not line:
        raise ClipRefused("the caption is empty")
    return line
