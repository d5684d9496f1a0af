"""Small JSON files that the package has written itself and reads again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from crab_lightning.files import DamagedFileError, read_json, replace_json, replace_text
from crab_lightning.mini.world.tree import write_mini


def test_a_written_file_is_read(tmp_path: Path) -> None:
    replace_json(tmp_path / "a.json", {"käse": [1, None]})
    assert read_json(tmp_path / "a.json", "", "käse") == {"käse": [1, None]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"made_by": ', r"Expecting value"),
        (b'{"\x80": 1}', r"'utf-8' codec can't decode"),
        (b"[1, 2]", r"it contains a list instead of an object"),
        (b"null", r"it contains a NoneType instead of an object"),
        (b'{"test": 1}', r"it has no seed, clips"),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"a\.json is damaged \({said}.*\); .* Remove it$"):
        read_json(path, "Remove it", "test", "seed", "clips")


def test_a_mark_that_holds_a_list_is_a_damaged_data_root(tmp_path: Path) -> None:
    (tmp_path / "mini.json").write_text("[]")
    with pytest.raises(DamagedFileError, match=r"mini\.json is damaged .* make the data again"):
        write_mini(tmp_path, clips=40)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        replace_text(tmp_path / "pipe", "table")
        assert os.read(reader, 99) == b"table"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_of_a_link_the_file_is_replaced_to_which_it_points(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    for text in ("first", "second"):
        replace_text(tmp_path / "link", text)
        assert (tmp_path / "there/file").read_text() == text
    assert (tmp_path / "link").is_symlink()
