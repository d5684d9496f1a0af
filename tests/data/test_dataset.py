from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crab_lightning import media
from crab_lightning.data.dataset import AVDataset, target_policy
from crab_lightning.data.loading import SampleError
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.data.swap import swapped_audio, with_sound_of
from crab_lightning.structures import DatasetSpec, Media, Sample
from tests.data.world import DATASETS, HZ, TASKS, Letters, Pair


def dataset(root: Path, name: str, **options: object) -> AVDataset:
    samples = read_manifest(root, name, DATASETS[name], "train")
    geometry = options.get("geometry", "released")
    return AVDataset(samples, TASKS, DATASETS, Letters(geometry), **options)  # type: ignore[arg-type]


def read(path: Path) -> torch.Tensor:
    return media.read_video(path, 4, 28).frames


def test_released_geometry_fuses_two_videos_first_clip_first(root: Path) -> None:
    data = dataset(root, "a2v")
    example = data.example(1)
    (video,) = example.videos
    assert torch.equal(video, torch.cat([read(path) for path in data.samples[1].videos]))
    assert example.seconds_per_grid == [2.0]
    assert example.conversation == ("Look:", Media.AUDIO, Media.VIDEO, "What is it?")


def test_released_geometry_fuses_two_waveforms_after_their_windows(root: Path) -> None:
    data = dataset(root, "v2a")
    example = data.example(1)
    (audio,) = example.audios
    waves = [media.read_audio(path) for path in data.samples[1].audios]
    assert torch.equal(audio, torch.cat([media.apply_window(w, DATASETS["v2a"].audio) for w in waves]))
    assert example.conversation == ("Look:", Media.VIDEO, Media.AUDIO, "What is it?")


def test_plain_geometry_keeps_clips_apart_whole_and_on_their_time_scale(root: Path) -> None:
    data = dataset(root, "a2v", geometry="plain")
    example = data.example(1)
    assert [len(video) for video in example.videos] == [4, 4]
    assert example.seconds_per_grid == pytest.approx([1.0, 1.0])  # 8 frames at 4 fps seen as 2 pairs
    assert example.conversation.count(Media.VIDEO) == 2
    whole = media.read_audio(dataset(root, "mer24").samples[3].audios[0])
    assert len(dataset(root, "mer24").example(3).audios[0]) == 4 * HZ
    assert torch.equal(dataset(root, "mer24", geometry="plain").example(3).audios[0], whole)


def test_plain_geometry_still_hears_the_second_of_the_frame(root: Path) -> None:
    released, plain = (dataset(root, "s4", geometry=g).example(0) for g in ("released", "plain"))
    assert torch.equal(released.audios[0], plain.audios[0])
    assert len(plain.audios[0]) == HZ // 5


@pytest.mark.parametrize("geometry", ["released", "plain"])
@pytest.mark.parametrize("name", list(DATASETS))
def test_every_layout_gives_one_medium_for_each_placeholder(root: Path, name: str, geometry: str) -> None:
    encoded = dataset(root, name, geometry=geometry)[0]
    assert encoded.labels is not None
    sounds, shown, _, _ = encoded.inputs["facts"].tolist()
    assert sounds > 0
    assert shown > 0


@pytest.mark.parametrize("name", list(DATASETS))
def test_dropped_modality_is_silence_or_grey_of_the_same_shape(root: Path, name: str) -> None:
    whole = dataset(root, name).example(0)
    deaf, blind = (dataset(root, name, drop_modality=m).example(0) for m in ("audio", "vision"))
    for example in (deaf, blind):
        assert [a.shape for a in example.audios] == [a.shape for a in whole.audios]
        assert [v.shape for v in example.videos] == [v.shape for v in whole.videos]
        assert [i.shape for i in example.images] == [i.shape for i in whole.images]
        assert example.conversation == whole.conversation
    assert not any(a.any() for a in deaf.audios)
    assert all(
        torch.equal(a, b) for a, b in zip(deaf.videos + deaf.images, whole.videos + whole.images, strict=True)
    )
    assert all((p == 128).all() for p in blind.videos + blind.images)
    assert all(torch.equal(a, b) for a, b in zip(blind.audios, whole.audios, strict=True))


def test_swapped_sound_is_always_another_recordings(root: Path) -> None:
    for name in ("ks", "s4", "v2a"):
        samples = read_manifest(root, name, DATASETS[name], "train")
        donors = swapped_audio(samples, seed=1)
        for sample, donor in zip(samples, donors, strict=True):
            assert not set(sample.audios) & set(samples[donor].audios)
        assert {samples[d].audios for d in donors} == {s.audios for s in samples}, "no sound is left out"
        assert (donors != swapped_audio(samples, seed=2)).any()


def test_swapped_example_keeps_its_picture_and_its_question(root: Path) -> None:
    plain, swapped = dataset(root, "ks"), dataset(root, "ks", audio_swap=True)
    donor = plain.example(int(swapped_audio(plain.samples, 42)[0]))
    assert torch.equal(swapped.example(0).audios[0], donor.audios[0])
    assert torch.equal(swapped.example(0).videos[0], plain.example(0).videos[0])
    assert swapped.example(0).target == plain.example(0).target


def test_swap_needs_a_second_recording() -> None:
    alone = [Sample(f"ks/{i}", "ks", "t", "train", "c", audios=(Path("a.wav"),)) for i in range(3)]
    with pytest.raises(
        ValueError, match=r"data\.datasets\.ks: no other recording .*'a.wav'.*data\.audio_swap"
    ):
        swapped_audio(alone, 0)


def test_target_follows_the_rows_policy(root: Path) -> None:
    data = dataset(root, "ks")
    assert data.example(1).target == "It moves. <answer>class1</answer>"
    direct = {**DATASETS, "ks": replace(DATASETS["ks"], target="direct")}
    assert AVDataset(data.samples, TASKS, direct, Letters()).example(1).target == "class1"
    assert dataset(root, "ks", with_target=False).example(1).target is None


def test_mixing_ratio_is_met_and_decided_for_good_by_id_and_seed() -> None:
    samples = [Sample(f"ks/{i}", "ks", "t", "train", "c") for i in range(2000)]
    spec = DatasetSpec("t", "ks", target=0.3)
    chosen = [target_policy(s, spec, 1) for s in samples]
    assert chosen.count("reasoning") / 2000 == pytest.approx(0.3, abs=0.04)
    assert chosen == [target_policy(s, spec, 1) for s in samples]
    assert chosen != [target_policy(s, spec, 2) for s in samples]
    more = [target_policy(s, replace(spec, target=0.6), 1) for s in samples]
    assert all(b == "reasoning" for a, b in zip(chosen, more, strict=True) if a == "reasoning")
    assert {target_policy(s, replace(spec, target=0.0), 1) for s in samples} == {"direct"}
    assert {target_policy(s, replace(spec, target=1.0), 1) for s in samples} == {"reasoning"}


def test_broken_file_is_named_with_dataset_sample_and_row(root: Path, tmp_path: Path) -> None:
    data = dataset(root, "ks")
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"not a sound")
    sample = replace(data.samples[4], audios=(broken,))
    with pytest.raises(SampleError) as caught:
        AVDataset([sample], TASKS, DATASETS, Letters())[0]
    text = str(caught.value)
    for part in ("data.datasets.ks", f"'{sample.id}'", "row 4 of ks/train", str(broken)):
        assert part in text
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_window_error_names_the_file_too(root: Path) -> None:
    data = dataset(root, "s4")
    sample = replace(data.samples[0], unit=9)
    with pytest.raises(SampleError, match=re.escape(str(sample.audios[0]))):
        AVDataset([sample], TASKS, DATASETS, Letters())[0]


def test_prompt_that_does_not_fit_the_layout_is_refused(root: Path) -> None:
    tasks = {**TASKS, "recognition": Pair(("video",))}
    samples = dataset(root, "ks").samples
    with pytest.raises(
        SampleError, match=r"prompt of data\.tasks\.recognition has 0 placeholders for audio, but 1 clip was"
    ):
        AVDataset(samples, tasks, DATASETS, Letters())[0]


def test_swapped_sound_comes_with_the_unit_that_its_donor_hears(tmp_path: Path) -> None:
    first = Sample("a/1", "a", "t", "test", "1", audios=(tmp_path / "1.wav",), unit=2)
    second = Sample("a/2", "a", "t", "test", "2", audios=(tmp_path / "2.wav",), unit=7)
    heard = with_sound_of(first, second)
    assert (heard.audios, heard.unit) == (second.audios, 7)
    assert (heard.id, heard.clip) == (first.id, first.clip)
