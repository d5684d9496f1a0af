"""The reader: every released spelling in, one typed sample out, or an error that says what to do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.data.manifests.layout import LAYOUTS
from crab_lightning.data.manifests.reader import ManifestError
from crab_lightning.structures import AudioWindow
from tests.data.trees import changed, files, manifest, media_paths, read, read_rows, write_file, write_tree

SPLITS = files()
LEAVING = ("../../x.mp4", "a/../../x.mp4", "/etc/x.mp4", "C:/x.mp4", "..\\x.mp4", "\\\\host\\x", "a\0b")


def test_the_registry_holds_the_19_released_task_ids_under_their_own_names() -> None:
    released = (
        "a2v v2a ks ucf meld mer24 cremad mafw dfew avqa avqa_thu ave unav avvp ms3 s4 ref_avs arig avcap"
    )
    assert list(LAYOUTS) == sorted(released.split())
    assert all(layout.name == name for name, layout in LAYOUTS.items())


@pytest.mark.parametrize(("layout", "split"), SPLITS)
def test_every_file_reads_with_its_media(tree: Path, layout: str, split: str) -> None:
    samples = read(tree, layout, split, check_media=True)
    assert len(samples) == 2
    for row, sample in enumerate(samples):
        assert (sample.dataset, sample.task, sample.split, sample.row) == (layout, "t", split, row)
        assert sample.id.startswith(f"{layout}/{split}/")
        assert sample.clips[0] == sample.clip
        assert (sample.target is None) == (split == "test")
        assert all(path.is_file() for path in (*sample.videos, *sample.images, *sample.audios))


@pytest.mark.parametrize(("layout", "split"), SPLITS)
def test_a_row_without_a_read_key_is_refused_by_name(tmp_path: Path, layout: str, split: str) -> None:
    optional = {"original_label"}
    for key in manifest(layout, split)[0]:
        if key in optional:
            continue
        rows = manifest(layout, split)
        del rows[1][key]
        with pytest.raises(ManifestError, match=rf"{split}\.json: row 1 .*'{key}' is missing"):
            read_rows(tmp_path, layout, rows, split)


@pytest.mark.parametrize(("layout", "split"), SPLITS)
def test_extra_keys_are_ignored(tmp_path: Path, layout: str, split: str) -> None:
    rows = [row | {"made_by": "someone", "score": None} for row in manifest(layout, split)]
    plain, more = tmp_path / "plain", tmp_path / "more"
    write_file(plain, layout, split, manifest(layout, split))
    expected = read(plain, layout, split)
    found = read_rows(more, layout, rows, split)
    assert [s.id for s in found] == [s.id for s in expected]
    assert [s.target for s in found] == [s.target for s in expected]


@pytest.mark.parametrize(("layout", "split"), SPLITS)
def test_media_that_leave_the_folder_are_refused(tmp_path: Path, layout: str, split: str) -> None:
    keys = [key for key in manifest(layout, split)[0] if key.endswith("_path")]
    for key in keys:
        for bad in LEAVING:
            rows = manifest(layout, split)
            rows[0][key] = bad
            with pytest.raises(ManifestError, match=rf"row 0 .*'{key}' is"):
                read_rows(tmp_path, layout, rows, split)


@pytest.mark.parametrize("bad", ["", " ", None, 3, ["x.mp4"], "."])
def test_a_media_value_that_is_no_file_is_refused(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(ManifestError, match=r"row 1 .*'video_path' is"):
        read_rows(tmp_path, "ave", changed("ave", video_path=bad))


def test_two_clip_media_keep_their_order(tree: Path) -> None:
    first = read(tree, "a2v")[1]
    assert [p.name for p in first.videos] == ["dog_000003.mp4", "bell_000004.mp4"]
    assert first.audios[0] == tree / "AVUIE_2/a2v/audio/bell_000004.mp3"
    assert (first.fields["match"], first.fields["match_text"]) == (2, "2")
    assert first.fields["candidate_events"] == ("dog barking", "bell ringing")
    assert [p.name for p in read(tree, "v2a")[0].audios] == ["dog_000001.mp3", "bell_000002.mp3"]


def test_two_clip_samples_name_every_recording_the_query_first(tree: Path) -> None:
    sample = read(tree, "a2v")[1]
    assert sample.clips == ("vgg_cm/bell_000004", "vgg_cm/dog_000003")
    assert sample.clip == "vgg_cm/bell_000004"


def test_datasets_on_the_same_recording_share_its_clip(tree: Path) -> None:
    assert (
        [s.clip for s in read(tree, "s4")]
        == [s.clip for s in read(tree, "arig")]
        == [
            "AVS/v1s/clip0_0_5000",
            "AVS/v1s/clip1_0_5000",
        ]
    )
    assert len({s.clip for s in read(tree, "avqa")}) == 1
    assert set(read(tree, "a2v")[0].clips) & set(read(tree, "v2a")[0].clips)


def test_ucf_clips_of_one_group_are_one_recording(tmp_path: Path) -> None:
    rows = manifest("ucf", "train")
    for row, stem in zip(rows, ("v_A_g01_c01", "v_A_g01_c02"), strict=True):
        row |= {"video_path": f"A/{stem}.avi", "audio_path": f"A/{stem}.wav"}
    samples = read_rows(tmp_path, "ucf", rows)
    assert samples[0].clip == samples[1].clip
    assert samples[0].id != samples[1].id


def test_ucf_reads_its_class_where_others_keep_their_text(tree: Path) -> None:
    train, test = read(tree, "ucf")[0], read(tree, "ucf", "test")[0]
    assert train.fields["class_name"] == test.fields["class_name"] == "applyeyemakeup"
    assert train.target == "A person moves. <answer>applyeyemakeup</answer>"
    assert test.reference == "<answer>applyeyemakeup</answer>"


def test_image_tasks_bridge_their_spellings(tree: Path) -> None:
    s4_train, s4_test = read(tree, "s4")[0], read(tree, "s4", "test")[0]
    assert (s4_train.unit, s4_test.unit) == (0, 3)
    assert s4_train.images == s4_test.images
    assert [s.unit for s in read(tree, "ms3")] == [0, 1]
    train, test = read(tree, "ref_avs")[0], read(tree, "ref_avs", "test")[0]
    assert train.fields["expression"] == test.fields["expression"] == "Making the LOUDEST sound"
    assert (train.unit, test.unit, test.fields["subset"]) == (7, 7, "test_s")


def test_arig_takes_its_frame_from_the_file_name_and_hears_the_whole_clip(tree: Path, tmp_path: Path) -> None:
    sample = read(tree, "arig")[1]
    assert (sample.fields["frame"], sample.unit) == (1, None)
    assert read(tree, "arig", "test")[1].fields["box_xyxy_px"] == (11, 20, 110, 120)
    with pytest.raises(ManifestError, match=r"'image_path' is \"AVS/frames/x.jpg\"; expected an image file"):
        read_rows(tmp_path, "arig", changed("arig", image_path="AVS/frames/x.jpg"))


def test_masks_are_found_by_the_relative_path_only(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "frames" / "media" / "root", ["s4", "ref_avs"])
    (mask,) = read(root, "s4")[0].fields["mask_candidates"]
    assert mask == root / "AVUIE_2/s4/AVS/v1s/clip0_0_5000/labels_rgb/0.png"
    assert mask.is_file()
    beside, inside = read(root, "ref_avs", "test")[1].fields["mask_candidates"]
    base = root / "AVUIE_2/ref_avs/REFAVS"
    assert beside == base / "gt_mask/ref_0_10000/fid_2/00007.png"
    assert inside == base / "media/ref_0_10000/gt_mask/fid_2/00007.png"
    assert beside.is_file()


def test_an_audio_unit_beyond_the_clip_is_refused(tmp_path: Path) -> None:
    window = AudioWindow("one_unit", units=5)
    with pytest.raises(ManifestError, match=r"row 1 .* frame number is 5; expected 0 to 4"):
        read_rows(tmp_path, "ms3", changed("ms3", frame_idx=5), audio=window)
    assert read_rows(tmp_path, "ms3", changed("ms3", frame_idx=4), audio=window)[1].unit == 4


@pytest.mark.parametrize("value", [3, "3", 3.0, " 3 "])
def test_whole_numbers_are_read_in_every_spelling_files_have(tmp_path: Path, value: Any) -> None:
    assert read_rows(tmp_path, "ms3", changed("ms3", frame_idx=value))[1].unit == 3


@pytest.mark.parametrize("value", [3.5, "three", True, None, -1, "", [3], "3" * 40])
def test_other_values_are_no_whole_number(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ManifestError, match=r"row 1 .*'frame_idx' is .*; expected a whole number"):
        read_rows(tmp_path, "ms3", changed("ms3", frame_idx=value))


@pytest.mark.parametrize("value", ["soon", -1, True, None, {}])
def test_a_time_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ManifestError, match=r"'start_time' is .*; expected a time in seconds"):
        read_rows(tmp_path, "ave", changed("ave", start_time=value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1), ("1", 1), ("one", 1), ("First", 1), ("video 2", 2), ("two", 2), ("audio two", 2)],
)
def test_choices_are_read_as_number_or_word(tmp_path: Path, value: Any, expected: int) -> None:
    sample = read_rows(tmp_path, "v2a", changed("v2a", correct_audio=value))[1]
    assert sample.fields["match"] == expected
    assert sample.reference == f"<answer>{value}</answer>."


@pytest.mark.parametrize("value", [0, 3, "neither", None, True])
def test_another_choice_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ManifestError, match="'correct_audio' is"):
        read_rows(tmp_path, "v2a", changed("v2a", correct_audio=value))


def test_question_types_are_read_from_a_list_or_its_string(tmp_path: Path) -> None:
    for value in ('["Visual", "Location"]', ["Visual", "Location"]):
        fields = read_rows(tmp_path, "avqa", changed("avqa", type=value))[1].fields
        assert (fields["modality"], fields["question_type"]) == ("Visual", "Location")
    with pytest.raises(ManifestError, match="'type' is \"Counting\"; expected a list such as"):
        read_rows(tmp_path, "avqa", changed("avqa", type="Counting"))


def test_options_print_the_way_python_prints_the_json_value(tree: Path) -> None:
    fields = read(tree, "avqa_thu")[0].fields
    assert fields["options_text"] == "['motorboat', 'bus', 'airplane', \"it's a train\"]"
    assert fields["options"] == ("motorboat", "bus", "airplane", "it's a train")


@pytest.mark.parametrize("value", ["no list", [], ["one"], None, 3])
def test_options_that_are_no_list_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ManifestError, match=r"'multi_choice' is .*expected a list of"):
        read_rows(tmp_path, "avqa_thu", changed("avqa_thu", multi_choice=value))


def test_unav_prefers_the_bare_tags_where_they_are_released(tree: Path) -> None:
    with_label, without = read(tree, "unav")
    assert with_label.fields["annotation"].startswith("<event>people eating")
    assert without.fields["annotation"] == without.target


def test_reference_strings_are_those_of_the_released_loader(tree: Path) -> None:
    found = {name: read(tree, name, "test")[0].reference for name, split in SPLITS if split == "test"}
    assert found == {
        "a2v": "<answer>1</answer>.",
        "v2a": "<answer>one</answer>.",
        "ks": "<answer>playing drums</answer>",
        "ucf": "<answer>applyeyemakeup</answer>",
        "meld": "<answer>joy</answer>.",
        "cremad": "<answer>happy</answer>.",
        "mafw": "<answer>happy</answer>.",
        "dfew": "<answer>happy</answer>.",
        "avqa": "two",
        "avqa_thu": "1",
        "ave": "event:Violin, fiddle start_time:0 end_time:8",
        "avvp": "<visual>Chainsaw,(0 10)</visual><audio>Chainsaw,(0 4),(6 10)</audio>",
        "ms3": "The object making the sound in the video is dog and man.",
        "s4": "The object making the sound in the video is dog.",
        "ref_avs": "Making the LOUDEST sound",
        "arig": "The sounding object is dog. Its coordinates are <obj>(10,20)(110,120)</obj>.",
    }


def test_ids_are_unique_and_stay_when_rows_are_added(tmp_path: Path) -> None:
    rows = manifest("ave", "train")
    same = [*rows, dict(rows[0]), dict(rows[0])]
    ids = [s.id for s in read_rows(tmp_path, "ave", same)]
    assert ids == ["ave/train/ave1", "ave/train/ave2", "ave/train/ave1~2", "ave/train/ave1~3"]
    assert [s.id for s in read_rows(tmp_path, "ave", [*same, rows[1]])][:4] == ids


def test_a_clip_whose_name_looks_like_a_numbered_one_keeps_its_own_id(tmp_path: Path) -> None:
    rows = [{**manifest("ave", "train")[0], "video_path": name} for name in ("a.mp4", "a~2.mp4", "a.mp4")]
    assert [s.id for s in read_rows(tmp_path, "ave", rows)] == [
        "ave/train/a",
        "ave/train/a~2",
        "ave/train/a~3",
    ]


def test_a_class_outside_the_configured_set_is_refused(tmp_path: Path) -> None:
    rows = manifest("meld", "train")
    assert len(read_rows(tmp_path, "meld", rows, classes=["Neutral", "JOY"])) == 2
    with pytest.raises(ManifestError, match=r"row 1 .*class name is 'neutral'.*leave `classes` out"):
        read_rows(tmp_path, "meld", rows, classes=["joy", "anger"])


def test_samples_do_not_depend_on_the_working_directory(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    inside = read(Path(tree.name), "ave")
    assert [s.id for s in inside] == [s.id for s in read(tree, "ave")]
    assert [s.clip for s in inside] == [s.clip for s in read(tree, "ave")]


def test_reading_scales_to_the_released_size(tmp_path: Path) -> None:
    row = manifest("avqa_thu", "train")[0]
    rows = [
        row | {"id": i, "video_path": f"v{i % 500}.mp4", "audio_path": f"v{i % 500}.mp3"}
        for i in range(20_000)
    ]
    write_file(tmp_path, "avqa_thu", "train", rows)
    for path in media_paths(tmp_path, "avqa_thu", rows[:500]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    before = time.process_time()
    assert len(read(tmp_path, "avqa_thu", check_media=True)) == 20_000
    # The goal is 222,000 rows in 10 s; the bound leaves room for a busy machine.
    assert time.process_time() - before < 5


@pytest.mark.parametrize("layout", ["ave", "avvp", "s4", "ms3", "arig", "ref_avs"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_real_clips_read(real_clips: Path, layout: str, split: str) -> None:
    (sample,) = read(real_clips, layout, split, check_media=True)
    masks = sample.fields.get("mask_candidates", ())
    assert not masks or any(mask.exists() for mask in masks)
