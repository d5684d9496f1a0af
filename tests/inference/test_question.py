from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crab_lightning.data import AVDataModule
from crab_lightning.inference.question import AskError, make_sample, put
from crab_lightning.media import read_image, write_audio, write_video
from crab_lightning.structures import AudioWindow, DatasetSpec
from crab_lightning.tasks import ActionRecognition
from tests.media.clips import tone
from tests.media.test_clock import write_vbr

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


def image_sample(tmp_path: Path, **given: Any) -> Any:
    spec = DatasetSpec("s4", "s4", audio=AudioWindow("one_unit", units=5))
    files: dict[str, Any] = {"videos": [], "image": None, "audios": [], "at_s": None, "texts": {}}
    return make_sample("s4", spec, **(files | {"scratch": tmp_path} | given))


def test_a_moment_of_a_long_clip_is_the_frame_shown_then(tmp_path: Path) -> None:
    video = tmp_path / "clock.mp4"
    frames = np.repeat(np.arange(100, dtype=np.uint8), 2)[:, None, None, None] * np.ones(
        (32, 32, 3), np.uint8
    )
    write_video(video, frames * 2, 2, tone(100.0))
    for at_s in (0.0, 2.0, 2.9, 37.4, 99.5):
        picture = read_image(image_sample(tmp_path, videos=[video], at_s=at_s).images[0], None)
        assert float(picture.float().mean()) / 2 == pytest.approx(int(at_s), abs=0.6)
    assert [image_sample(tmp_path, videos=[video], at_s=s).unit for s in (0, 19.9, 20.1, 99)] == [0, 0, 1, 4]
    with pytest.raises(AskError, match=r"`at_s` 101: the clip lasts 100"):
        image_sample(tmp_path, videos=[video], at_s=101.0)


def test_a_moment_is_compared_with_the_true_length_of_an_mp3(tmp_path: Path) -> None:
    write_vbr(tmp_path / "a.mp3")  # 6 s; its header alone says another length
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    given = {"image": tmp_path / "a.png", "audios": [tmp_path / "a.mp3"]}
    assert image_sample(tmp_path, at_s=5.5, **given).unit == 4
    with pytest.raises(AskError, match=r"`at_s` 20: the clip lasts 6\.\d"):
        image_sample(tmp_path, at_s=20.0, **given)


def test_a_users_own_picture_is_upright(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(5.0))
    picture = Image.new("RGB", (40, 30), (255, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "phone.jpg", exif=exif)
    picture.save(tmp_path / "plain.jpg")
    for name, shape in (("phone.jpg", (3, 40, 30)), ("plain.jpg", (3, 30, 40))):
        sample = image_sample(tmp_path, image=tmp_path / name, audios=[tmp_path / "a.wav"])
        assert read_image(sample.images[0], None).shape == shape
