"""Captions for stage 1 are true of their pictures and sounds, and the readers of stage 1 take them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from crab_lightning.commands import main
from crab_lightning.data.captions.files import CaptionSource, read_captions
from crab_lightning.media import read_audio, read_image
from crab_lightning.mini import write_captions, write_long_clips
from crab_lightning.mini.world.captioned import CLIP_S, caption_picture, caption_sound, draw_scene
from crab_lightning.mini.world.scenes import rng_for


def test_both_files_are_read_whole_by_the_readers_of_stage_1(tmp_path: Path) -> None:
    folder = write_captions(tmp_path, 6, seed=3)
    pictures = read_captions("p", CaptionSource("pictures.json", "video_llava"), folder)
    sounds = read_captions("s", CaptionSource("sounds.jsonl", "audio_captions"), folder)
    assert len(pictures.samples) == len(sounds.samples) == 6
    assert not pictures.broken
    assert not sounds.broken
    for seen, heard in zip(pictures.samples, sounds.samples, strict=True):
        assert read_image(seen.images[0]).shape == (3, 224, 224)
        assert abs(len(read_audio(heard.audios[0])) / 16_000 - CLIP_S) < 0.2


def test_a_caption_names_what_is_there_and_nothing_else() -> None:
    for index in range(40):
        scene = draw_scene(rng_for(5, "captions", index), 5)
        if scene.objects[0].category is None:
            continue
        seen = {scene.objects[i].kind.name for i in scene.seen_at(1.5)}
        heard = {o.kind.name for o in scene.objects if o.heard}
        names = {o.kind.name for o in scene.objects}
        assert {n for n in names if f" {n} " in caption_picture(scene, 1.5)} == seen
        assert {n for n in names if f" {n} " in caption_sound(scene)} == heard


def test_the_same_seed_gives_the_same_captions(tmp_path: Path) -> None:
    first, second = (write_captions(tmp_path / name, 3, seed=1) for name in "ab")
    for name in ("pictures.json", "sounds.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_data_mini_writes_them_into_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crab_lightning.mini.world.tree.write_mini", lambda *_, **__: {"ks": (1, 1)})
    assert main(["data", "mini", "--root", str(tmp_path), "--captions", "2"]) == 0
    assert len(json.loads((tmp_path / "captions/pictures.json").read_text())) == 2


@pytest.mark.parametrize(
    ("room", "write"),
    [("tree", partial(write_captions, count=1)), ("long_clips", partial(write_long_clips, train=0, test=1))],
)
def test_an_interrupted_call_leaves_no_incomplete_sound(
    room: str, write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(f"crab_lightning.mini.world.{room}.write_audio", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path)
    assert not list(tmp_path.rglob("*.mp3"))
    (sound,) = write(tmp_path).rglob("*.mp3")
    assert len(read_audio(sound)) > 3 * 16_000
