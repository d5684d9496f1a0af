from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crab_lightning.data import AVDataModule
from crab_lightning.inference.question import AskError, Question, choose_dataset, make_sample, put
from crab_lightning.media import EmptyMedia, read_audio, read_image, write_audio, write_video
from crab_lightning.structures import AudioWindow, DatasetSpec
from crab_lightning.tasks import ActionRecognition, OpenAnswer
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
        ("avcap", "needs `video`, and `audio` if it has no sound"),
        ("a2v", "needs 2 `video`, and `audio` if it has no sound"),
        ("v2a", "needs `video` and 2 `audio`"),
        ("s4", "needs `video`, or `image` with `audio`"),
    ],
)
def test_a_task_without_media_says_which_it_needs(layout: str, needed: str) -> None:
    with pytest.raises(AskError, match=f"{needed}$"):
        sample(layout)


def test_a_row_of_ones_own_is_asked_about_a_picture_alone_and_never_about_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (32, 32)).save(picture)
    texts = {"question": "What is it?"}
    for layout in ("plain", "messages"):
        for silent in (False, True):
            asked = sample(layout, image=picture, texts=texts, scratch=tmp_path, silent=silent)
            assert (len(asked.images), asked.videos, asked.audios) == (1, (), ())
        with pytest.raises(AskError, match=r"needs `video`, `image` or `audio`$"):
            sample(layout, texts=texts)
        specs = {"mine": DatasetSpec("open_answer", layout, audio=UNITS)}
        data = SimpleNamespace(tasks={"open_answer": OpenAnswer()}, datasets=specs, taught=["mine"])
        with pytest.raises(AskError, match=r"task open_answer \(mine\) needs `question`$"):
            Question("mine", [], [], picture, {}).sample(data, tmp_path)


def test_a_picture_for_a_task_of_videos_is_refused() -> None:
    with pytest.raises(AskError, match=r"task ave \(ave\) takes no `image`"):
        sample("ave", videos=[Path("clip.mp4")], image=Path("picture.png"))


def test_a_clip_that_cannot_be_read_is_named_and_no_manifest(tmp_path: Path) -> None:
    video = tmp_path / "empty.mp4"
    video.touch()
    with pytest.raises(EmptyMedia, match=rf"^{video}: has zero bytes"):
        sample("ks", videos=[video])
    write_video(video, np.zeros((4, 32, 32, 3), np.uint8), 2, tone(2.0))
    asked = sample("ks", videos=[video])
    video.write_bytes(b"")
    tasks, specs = {"ks": ActionRecognition()}, {"ks": DatasetSpec("ks", "ks", audio=UNITS)}
    data = AVDataModule(tmp_path, tasks, specs, geometry="plain")
    data.processor = SimpleNamespace(encode=None, collate=None, geometry="plain")
    with pytest.raises(ValueError, match=rf"^{video}: has zero bytes"):
        put(None, data, asked)


def test_a_file_of_another_kind_is_refused_in_the_words_of_what_was_given(tmp_path: Path) -> None:
    picture, sound, mute = (tmp_path / name for name in ("p.jpg", "a.wav", "mute.mp4"))
    Image.new("RGB", (40, 30)).save(picture)
    write_audio(sound, tone(2.0))
    write_video(mute, np.zeros((6, 32, 32, 3), np.uint8), 2, None)
    for layout, given, said in (
        ("ave", {"videos": [picture]}, f"{picture} is a picture and was given as `video`; this task needs"),
        ("s4", {"videos": [picture]}, f"{picture} is a picture and was given as `video`; give it as `image`"),
        ("ave", {"videos": [mute], "audios": [picture]}, f"{picture} is a picture and was given as `audio`"),
        ("ave", {"videos": [sound]}, f"{sound} contains no moving pictures; give a video as `video`"),
        ("ave", {"videos": [mute]}, f"{mute} has no sound. Give a sound file as `audio`, or give `silent`"),
        ("a2v", {"videos": [mute, mute]}, f"{mute} has no sound"),
        ("ave", {"videos": [mute], "audios": [mute]}, f"{mute} has no sound"),
        ("ave", {"videos": [mute], "audios": [sound], "silent": True}, "cannot be given with `audio`"),
    ):
        with pytest.raises(AskError) as caught:
            sample(layout, **given | {"scratch": tmp_path})
        assert said in str(caught.value)
        assert "manifest" not in str(caught.value)
    (heard,) = sample("a2v", videos=[mute, mute], silent=True, scratch=tmp_path).audios
    assert float(read_audio(heard).abs().max()) == 0
    assert len(read_audio(heard)) == 48_000  # the clip's three seconds
    assert image_sample(tmp_path, image=picture, silent=True).unit == 2
    sounding = tmp_path / "sounding.mp4"
    write_video(sounding, np.zeros((6, 32, 32, 3), np.uint8), 2, tone(3.0))
    (heard,) = sample("ave", videos=[sounding], silent=True, scratch=tmp_path).audios
    assert float(read_audio(heard).abs().max()) == 0


@pytest.mark.parametrize("options", [[], ["a bell"], ["a bell", " "]])
def test_options_among_which_nothing_can_be_chosen_are_refused(options: list[str], tmp_path: Path) -> None:
    texts = {"question": "What is heard?", "options": options}
    with pytest.raises(AskError, match=r"needs at least two `options`, none of them empty, to choose"):
        make_sample("mine", DatasetSpec("qa", "plain"), [tmp_path / "a.mp4"], None, [], None, texts, tmp_path)


def test_what_was_not_taught_needs_a_word() -> None:
    rows = {"avqa": "question_answering", "ave": "event_localization", "ks": "action_recognition"}
    specs = {name: DatasetSpec(task, name) for name, task in rows.items()}
    specs["avqa_thu"] = DatasetSpec("question_answering", "avqa_thu")
    data: Any = SimpleNamespace(tasks=dict.fromkeys(rows.values()), datasets=specs, taught=["avqa", "ks"])
    assert choose_dataset(data, "ks", None, 1, 0, {}) == "ks"
    # The row of a taught dataset is used, although the other one fits the options.
    assert choose_dataset(data, "qa", None, 1, 0, {"question": "?", "options": ["a"]}) == "avqa"
    for task, what in (("ave", "the dataset ave"), ("el", "the task event_lo"), ("avqa_thu", "the dataset")):
        said = (
            rf"^this run was not trained on {what}.*\. It was trained on avqa \(question_answering\), ks \("
        )
        with pytest.raises(AskError, match=rf"{said}.*\. Give `untaught` to ask anyway\.$"):
            choose_dataset(data, task, None, 1, 0, {})
        assert choose_dataset(data, task, None, 1, 0, {}, untaught=True) in ("ave", "avqa_thu")


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
