"""The same question twice in a test manifest, rows that cannot be read, and hints about files and names."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crab_lightning.commands import main
from crab_lightning.data.check.run import check_root
from crab_lightning.data.manifests.keys import check_datasets
from crab_lightning.data.manifests.reader import ManifestError
from crab_lightning.structures import AudioWindow, DatasetSpec, MaskColours
from crab_lightning.tasks import EventLocalization, QuestionAnswering, Segmentation
from tests.data.trees import manifest, media_paths, read, write_file, write_tree
from tests.media.clips import beep, moving_texture, on_a_clock

TASKS: dict[str, Any] = {
    "qa": QuestionAnswering(),
    "event": EventLocalization(),
    "segmentation": Segmentation(),
}
SPECS = {
    "avqa": DatasetSpec("qa", "avqa"),
    "ave": DatasetSpec("event", "ave"),
    "s4": DatasetSpec("segmentation", "s4", audio=AudioWindow("one_unit", units=5)),
}


def problems(root: Path, name: str, spec: DatasetSpec | None = None, **options: Any) -> list[Any]:
    return check_root(root, TASKS, {name: spec or SPECS[name]}, **options).problems


@pytest.mark.parametrize("contradictory", [False, True])
def test_a_question_that_stands_twice_is_asked_once(
    contradictory: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path, ["avqa"])
    rows = manifest("avqa", "test")
    again = dict(rows[0]) | ({"answer": "a tuba"} if contradictory else {})
    write_file(tmp_path, "avqa", "test", [*rows, again])
    samples = read(tmp_path, "avqa", "test")
    assert [s.row for s in samples] == list(range(len(rows)))
    assert f"row {len(rows)} as row 0" in caplog.text
    assert f"{int(contradictory)} of them with another answer" in caplog.text
    (found,) = [p for p in problems(tmp_path, "avqa") if p.kind == "repeated"]
    assert (found.row, found.level) == (len(rows), "error" if contradictory else "warning")
    assert "same about the same clip as row 0" in found.message
    # Right answers to all questions are all right, and none is missing.
    answers = "".join(json.dumps({"id": s.id, "answer": s.fields["answer"]}) + "\n" for s in samples)
    (tmp_path / "a.jsonl").write_text(answers)
    words = [
        "score",
        "--root",
        str(tmp_path),
        "--dataset",
        "avqa",
        "--predictions",
        str(tmp_path / "a.jsonl"),
    ]
    capsys.readouterr()
    assert main([*words, "--json"]) in (0, None)
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["strict"]["accuracy"], result["counts"]["missing"]) == (1.0, 0)
    assert result["counts"]["scored"] == len(rows)


def test_a_question_under_two_ids_is_named_and_asked_twice(tmp_path: Path) -> None:
    write_tree(tmp_path, ["avqa"])
    rows = manifest("avqa", "test")
    write_file(tmp_path, "avqa", "test", [*rows, {**rows[0], "question_id": 999_999}])
    assert len(read(tmp_path, "avqa", "test")) == len(rows) + 1
    (found,) = [p for p in problems(tmp_path, "avqa") if p.kind == "repeated"]
    assert found.level == "warning"
    assert "Both are asked and scored, since their ids differ" in found.message


def test_training_rows_may_repeat(tmp_path: Path) -> None:
    rows = manifest("ave", "train")
    write_file(tmp_path, "ave", "train", [*rows, rows[0]])
    assert len(read(tmp_path, "ave")) == len(rows) + 1


def test_rows_that_cannot_be_read_are_left_out_as_far_as_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = manifest("avqa_thu", "train")
    bad = [
        {**rows[0], "multi_choice": value}
        for value in ("a dog or a cat", {"A": "dog"}, [" ", "cat"], ["dog"])
    ]
    write_file(tmp_path, "avqa_thu", "train", [rows[0], *bad, *rows[1:]])
    with pytest.raises(ManifestError, match=r"row 1 .*multi_choice"):
        read(tmp_path, "avqa_thu")
    with pytest.raises(
        ManifestError, match=r"4 of 6 rows of .* cannot be read, and allow_refused is 3\. The first"
    ):
        read(tmp_path, "avqa_thu", allow_refused=3)
    assert [s.row for s in read(tmp_path, "avqa_thu", allow_refused=4)] == [0, 5]
    assert "4 of 6 rows" in caplog.text
    units = AudioWindow("one_unit", units=5)
    frames = manifest("ms3", "test")
    write_file(tmp_path, "ms3", "test", [*frames, {**frames[0], "frame_idx": 7}])
    assert len(read(tmp_path, "ms3", "test", audio=units, allow_refused=1)) == len(frames)
    with pytest.raises(ValueError, match=r"allow_refused is -1; it must be at least 0"):
        check_datasets(TASKS, {"ave": DatasetSpec("event", "ave", allow_refused=-1)})


@pytest.mark.parametrize("blank", ["", "\n\n"])
def test_json_lines_are_named_in_place_of_json(blank: str, tmp_path: Path) -> None:
    path = write_file(tmp_path, "ave", "train", [])
    path.write_text(blank + "\n".join(json.dumps(row) for row in manifest("ave", "train")) + "\n")
    with pytest.raises(
        ManifestError, match=r"contains JSON lines .* put a comma between the lines, and \[ and \]"
    ):
        read(tmp_path, "ave")


def test_json_in_place_of_json_lines_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path, ["ave"], media=False)
    words = ["score", "--root", str(tmp_path), "--dataset", "ave", "--predictions", str(tmp_path / "a.jsonl")]
    rows = [{"id": "ave/test/ave1", "answer": "x"}]
    for text, hint in (
        (json.dumps(rows), "a JSON array; the file has to contain one object in each line"),
        (json.dumps(rows, indent=1), "must be one object; write no JSON text over several lines"),
    ):
        (tmp_path / "a.jsonl").write_text(text)
        assert main(words) != 0
        assert hint in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.jsonl", "-a.jsonl", "a:b.jsonl"])
def test_answer_files_of_any_name_and_with_a_byte_order_mark_are_scored(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path, ["ave"], media=False)
    monkeypatch.chdir(tmp_path)
    line = json.dumps({"id": read(tmp_path, "ave", "test")[0].id, "answer": "<event>x, (0 1)</event>"})
    Path(name).write_bytes(b"\xef\xbb\xbf" + line.encode())
    assert main(["score", "--root", ".", "--dataset", "ave", "--predictions", name, "--json"]) in (0, None)
    assert json.loads(capsys.readouterr().out)["join"]["records"] == 1


@pytest.mark.parametrize(
    ("written", "there", "hint"),
    [
        ("video\\cafe1.mp4", "cafe1.mp4", "back-slashes; write / between"),
        (
            unicodedata.normalize("NFC", "café.mp4"),
            unicodedata.normalize("NFD", "café.mp4"),
            "another form of Unicode",
        ),
        ("Clip.mp4", "clip.MP4", "small letters and capitals differ"),
        ("grün.mp4", os.fsdecode("grün.mp4".encode("cp1252")), "which is not UTF-8. Rename it"),
        ("https://x.org/1.mp4", "1.mp4", "It is a web address; download"),
    ],
)
def test_a_missing_file_of_a_near_name_is_named(written: str, there: str, hint: str, tmp_path: Path) -> None:
    write_tree(tmp_path, ["ave"])
    rows = manifest("ave", "train")
    shutil.move(media_paths(tmp_path, "ave", rows)[0], tmp_path / "AVUIE_2/ave/video" / there)
    rows[0] = {**rows[0], "video_path": written}
    write_file(tmp_path, "ave", "train", rows)
    with pytest.raises(ManifestError, match=hint):
        read(tmp_path, "ave", check_media=True)
    assert any(hint in p.message for p in problems(tmp_path, "ave") if p.kind == "missing")


def test_masks_that_cannot_be_right_are_named(tmp_path: Path) -> None:
    write_tree(tmp_path, ["s4"])
    masks = sorted((tmp_path / "AVUIE_2/s4").rglob("labels_rgb/*.png"))
    shape = np.asarray(Image.open(masks[0])).shape[:2]
    for mask in masks:
        Image.fromarray(np.full(shape, 255, np.uint8)).save(mask)
    found = [p.message for p in problems(tmp_path, "s4") if p.kind == "mask"]
    assert found
    assert all("100 % of the picture is marked as the object" in message for message in found)
    for mask in masks:
        Image.fromarray(np.zeros(shape, np.uint8)).save(mask)
    (message,) = [p.message for p in problems(tmp_path, "s4") if p.kind == "mask"]
    assert "no pixel of " in message
    # A colour map of the dataset's row: here 0 is the object and 7 is not.
    for mask in masks:
        Image.fromarray(np.pad(np.zeros((20, 20), np.uint8), 10, constant_values=7)).save(mask)
    spec = DatasetSpec("segmentation", "s4", audio=SPECS["s4"].audio, mask=MaskColours(object=(0,)))
    assert not [p for p in problems(tmp_path, "s4", spec) if p.kind == "mask"]
    (sample, *_) = read(tmp_path, "s4", "test", audio=spec.audio, mask=spec.mask)
    box = TASKS["segmentation"]._true_box(sample)
    assert box == (56, 56, 167, 167)


def test_clips_that_were_cut_off_are_named_from_their_headers(tmp_path: Path) -> None:
    write_tree(tmp_path, ["ave"])
    rows = manifest("ave", "train")
    for path in media_paths(tmp_path, "ave", rows[:1]):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for decode in (False, True):
        found = [
            p for p in problems(tmp_path, "ave", decode=decode) if p.kind == "media" and p.split == "train"
        ]
        assert [p.row for p in found] == [0, 0]
        assert all("is cut off" in p.message for p in found)


def test_sound_that_begins_late_or_pauses_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path, ["ave"])
    rows = manifest("ave", "train")
    for name, start_s, holes in (("late.mp4", 2.0, ()), ("holes.mkv", 0.0, ((1.0, 3.0),))):
        path = tmp_path / "AVUIE_2/ave/audio" / name
        on_a_clock(path, moving_texture(40), 10, [(start_s, beep(4 - start_s, 1.5))], holes=holes)
    rows = [{**row, "audio_path": name} for row, name in zip(rows, ("late.mp4", "holes.mkv"), strict=True)]
    write_file(tmp_path, "ave", "train", rows)
    for decode in (False, True):
        found = [p for p in problems(tmp_path, "ave", decode=decode) if p.kind == "sound"]
        assert [(p.row, p.level) for p in found] == [(0, "warning"), (1, "warning")]
        assert "the sound begins 2.0 s after the clip does" in found[0].message
        assert "the sound pauses 1 time, first at 1.0 s for 2.0 s" in found[1].message
