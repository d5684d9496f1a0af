"""Manifest files and media that are broken, missing, linked or elsewhere: refused, or read by a rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crab_lightning.data.manifests.reader import ManifestError, read_manifest
from crab_lightning.structures import DatasetSpec
from tests.data.trees import changed, manifest, read, write_file, write_tree


def broken(text: str | bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "is not JSON: .* at line 1, column 3"),
        ("", "is not JSON: .* too early; it may have been cut off"),
        ('[{"vid": 1,}]', "Remove the comma before the bracket"),
        ("[{'vid': 1}]", "JSON writes texts in double quotes"),
        ('[\n// clips\n{"vid": 1}]', "line 2, .* JSON has no comments; remove it"),
        ('[{"vid": None}]', "JSON writes true, false and null"),
        ('[{"vid": 1}] [{"vid": 2}]', "Another text follows the first complete value"),
        ('{"video_path": "a"}', "is an object; one JSON array of objects is expected"),
        ("3", "is a number"),
        ("[[]]", "row 0 .*the row is an array; expected an object"),
        ("[null]", "the row is null"),
        ('[{"vid": 1, "vid": 2}]', r"has the key 'vid' twice in one object .*Keep one of the two\.$"),
        ("[NaN]", "contains NaN, which is not JSON"),
        ("[-Infinity]", "contains -Infinity"),
        (b'[{"vid": "\xe9"}]', "is not UTF-8 .byte 0xe9 at offset 10."),
        ("[" * 200_000, "is nested too deeply"),
        ('[{"video_path": "\\ud800.mp4", "audio_path": "a.mp3"}]', "row 0"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write_file(tmp_path, "ave", "train", [])
    broken(text)(path)
    with pytest.raises(ManifestError, match=rf"data\.datasets\.ave: .*train\.json.*{message}"):
        read(tmp_path, "ave")


def test_a_byte_order_mark_is_harmless(tmp_path: Path) -> None:
    path = write_file(tmp_path, "ave", "train", manifest("ave", "train"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read(tmp_path, "ave")) == 2


def test_half_a_surrogate_pair_is_refused_where_text_is_used(tmp_path: Path) -> None:
    path = write_file(tmp_path, "ave", "train", [])
    for key in ("event", "label_content", "video_path"):
        path.write_text(json.dumps(changed("ave", **{key: "a\ud800b"})))
        with pytest.raises(ManifestError, match=f"row 1 .*'{key}' is .*surrogate"):
            read(tmp_path, "ave")


def test_a_missing_manifest_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is not a folder; set it to the folder that contains AVUIE_2/"):
        read(tmp_path / "nowhere", "ave")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ManifestError, match=r"notes\.txt' is not a folder; set it to .* of your own dataset"):
        read(tmp_path / "notes.txt", "ave")
    with pytest.raises(ManifestError, match=r"contains no AVUIE_2/"):
        read(tmp_path, "ave")
    write_file(tmp_path, "ave", "train", [])
    with pytest.raises(ManifestError, match="probably its parent folder"):
        read(tmp_path / "AVUIE_2", "ave")
    with pytest.raises(ManifestError, match=r"AVUIE_2/ contains: ave. Set `folder`"):
        read(tmp_path, "ks")
    with pytest.raises(ManifestError, match=r"Its folder contains: train\.json"):
        read(tmp_path, "ave", "test")


def test_a_missing_test_file_says_so(tree: Path) -> None:
    with pytest.raises(ManifestError, match=r"unav/test\.json does not exist"):
        read(tree, "unav", "test")


def test_an_unknown_layout_lists_the_known_ones(tree: Path) -> None:
    with pytest.raises(
        ManifestError,
        match=r"data.datasets.x.layout is 'ava'.*; known layouts: messages, plain, a2v, arig, avcap",
    ):
        read_manifest(tree, "x", DatasetSpec(task="t", layout="ava"), "train")


def test_another_folder_is_read_under_the_same_layout(tmp_path: Path) -> None:
    write_file(tmp_path, "ave", "train", manifest("ave", "train"), folder="mine")
    sample = read(tmp_path, "ave", folder="mine")[0]
    assert sample.videos[0] == tmp_path / "AVUIE_2/mine/video/ave1.mp4"


def test_missing_media_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path, ["ave"])
    (tmp_path / "AVUIE_2/ave/audio/ave2.mp3").unlink()
    with pytest.raises(ManifestError) as raised:
        read(tmp_path, "ave", check_media=True)
    assert "1 of 2 rows of" in str(raised.value)
    assert "first row 1 (counted from 0) 'audio/ave2.mp3'" in str(raised.value)
    assert "allow_missing: 1" in str(raised.value)


def test_allowed_missing_rows_are_left_out_of_training_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tree(tmp_path, ["ave"])
    (tmp_path / "AVUIE_2/ave/video/ave1.mp4").unlink()
    assert [s.row for s in read(tmp_path, "ave", check_media=True, allow_missing=1)] == [1]
    assert "They are left out (allow_missing: 1)" in caplog.text
    with pytest.raises(ManifestError, match="remove the rows"):
        read(tmp_path, "ave", "test", check_media=True, allow_missing=1)


def test_links_that_the_user_placed_are_followed(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", ["ave"])
    base = tmp_path / "tree/AVUIE_2/ave"
    (base / "video").rename(tmp_path / "elsewhere")
    (base / "video").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/ave1.mp4").rename(tmp_path / "one.mp4")
    (tmp_path / "elsewhere/ave1.mp4").symlink_to(tmp_path / "one.mp4")
    assert len(read(tmp_path / "tree", "ave", check_media=True)) == 2
    (tmp_path / "one.mp4").unlink()
    with pytest.raises(ManifestError, match="1 of 2 rows"):
        read(tmp_path / "tree", "ave", check_media=True)


def test_a_folder_in_the_place_of_a_file_is_missing(tmp_path: Path) -> None:
    write_tree(tmp_path, ["ave"])
    path = tmp_path / "AVUIE_2/ave/video/ave1.mp4"
    path.unlink()
    path.mkdir()
    with pytest.raises(ManifestError, match="1 of 2 rows"):
        read(tmp_path, "ave", check_media=True)
