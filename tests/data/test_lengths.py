from __future__ import annotations

from pathlib import Path

import pytest

from crab_lightning.data.sampling.lengths import guess_tokens
from crab_lightning.structures import AudioWindow, DatasetSpec, Sample

MUSIC_AVQA = AudioWindow("strided", units=60)
ONE_SECOND = AudioWindow("one_unit", units=5)


@pytest.mark.parametrize(
    ("videos", "images", "audios", "frames", "window", "tokens"),
    [
        (1, 0, 1, 10, AudioWindow(), 320 + 250),
        (2, 0, 1, 10, AudioWindow(), 640 + 250),
        (1, 0, 2, 10, AudioWindow(), 320 + 500),
        (1, 0, 1, 10, MUSIC_AVQA, 320 + 500),
        (1, 0, 1, 4, AudioWindow("head"), 128 + 100),
        (0, 1, 1, 10, ONE_SECOND, 64 + 25),
        (0, 1, 1, 10, AudioWindow("units", units=5), 64 + 125),
    ],
)
def test_guess_is_the_released_count_for_clips_of_the_usual_length(
    videos: int, images: int, audios: int, frames: int, window: AudioWindow, tokens: int
) -> None:
    path = Path("x")
    sample = Sample("a", "a", "t", "train", "c", (path,) * videos, (path,) * images, (path,) * audios)
    spec = DatasetSpec("t", "ks", frames=frames)
    assert guess_tokens(sample, spec, window, (), 0) == tokens
    assert guess_tokens(sample, spec, window, ("x" * 40,), 80) == tokens + 30
