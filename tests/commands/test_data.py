from __future__ import annotations

import json
from pathlib import Path

import pytest

from crab_lightning.commands import main
from tests.data.trees import write_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "root", ["mer24", "avcap"])


def check(root: Path, *words: str) -> int:
    return main(["data", "check", "--root", str(root), "--workers", "1", *words])


def test_a_sound_root_exits_with_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(root, "--datasets", "mer24", "avcap") == 0
    assert "no error" in capsys.readouterr().out


def test_a_bad_root_exits_with_1_and_lists_everything_in_json(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for clip in (root / "AVUIE_2/mer24/audio").iterdir():
        clip.write_bytes(b"no sound")
    assert check(root, "--datasets", "mer24", "avcap", "--json", str(tmp_path / "found.json")) == 1
    printed = capsys.readouterr()
    assert "2 errors" in printed.err
    assert "train0.wav" in printed.out.replace("\n", "")
    content = json.loads((tmp_path / "found.json").read_text())
    assert [(p["kind"], p["dataset"], p["row"]) for p in content["problems"] if p["level"] == "error"] == [
        ("media", "mer24", 0),
        ("media", "mer24", 1),
    ]


def test_an_unknown_dataset_is_refused_with_the_known_ones(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(root, "--datasets", "avee") == 1
    assert "--datasets names avee" in capsys.readouterr().err
