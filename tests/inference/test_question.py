from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crab_lightning.data import AVDataModule
from crab_lightning.inference.question import AskError, make_sample, put
from crab_lightning.structures import AudioWindow, DatasetSpec
from crab_lightning.tasks import ActionRecognition

UNITS = AudioWindow("units", 10)


def sample(layout: str, **given: Any) -> Any:
    spec = DatasetSpec(layout, layout, audio=UNITS)
    files = {"videos": [], "image": None, "audios": [], "at_s": None, "texts": {}, "scratch": Path()} | given
    return make_sample(layout, spec, **files)


@pytest.mark.parametrize(
    ("layout", "needed"),
    [
        ("avcap", "needs `video`, and `audio` where it has no sound"),
        ("a2v", "needs 2 `video`, and `audio` where it has no sound"),
        ("v2a", "needs `video` and 2 `audio`"),
        ("s4", "needs `video`, or `image` with `audio`"),
    ],
)
def test_a_task_without_media_says_which_it_needs(layout: str, needed: str) -> None:
    with pytest.raises(AskError, match=f"{needed}$"):
        sample(layout)


def test_a_picture_for_a_task_of_videos_is_refused() -> None:
    with pytest.raises(AskError, match=r"task ave \(ave\) takes no `image`"):
        sample("ave", videos=[Path("clip.mp4")], image=Path("picture.png"))


def test_a_clip_that_cannot_be_read_is_named_and_no_manifest(tmp_path: Path) -> None:
    video = tmp_path / "empty.mp4"
    video.touch()
    asked = sample("ks", videos=[video])
    tasks, specs = {"ks": ActionRecognition()}, {"ks": DatasetSpec("ks", "ks", audio=UNITS)}
    data = AVDataModule(tmp_path, tasks, specs, geometry="plain")
    data.processor = SimpleNamespace(encode=None, collate=None, geometry="plain")
    with pytest.raises(ValueError, match=rf"^{video}: has zero bytes"):
        put(None, data, asked)
