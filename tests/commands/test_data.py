from __future__ import annotations

import json
from pathlib import Path

import pytest

from crab_lightning.commands import main
from tests.data.trees import write_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "root", ["mer24", "avcap"])


def build(root: Path, *words: str) -> int:
    names = ["--only", "mer24,avcap"]
    return main(["data", "cache", "--root", str(root), "--workers", "1", *names, *words])


def check(root: Path, *words: str) -> int:
    return main(["data", "check", "--root", str(root), "--workers", "1", *words])


def test_a_sound_root_exits_with_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(root, "--only", "mer24,avcap") == 0
    assert "no error" in capsys.readouterr().out


def test_a_config_says_which_datasets_are_checked(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("include: data/av_uie_v2.yaml\nonly: [mer24]\n")
    assert check(root, "--config", str(config), "--json", str(tmp_path / "found.json")) == 0
    content = json.loads((tmp_path / "found.json").read_text())
    assert {manifest["dataset"] for manifest in content["manifests"]} == {"mer24"}
    config.write_text("include: data/av_uie_v2.yaml\nonly: [mer2024]\n")
    capsys.readouterr()
    assert check(root, "--config", str(config)) == 1
    assert "data.only names 'mer2024' (did you mean 'mer24'?)" in capsys.readouterr().err


def test_a_bad_root_exits_with_1_and_lists_everything_in_json(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for clip in (root / "AVUIE_2/mer24/audio").iterdir():
        clip.write_bytes(b"no sound")
    assert check(root, "--only", "mer24,avcap", "--json", str(tmp_path / "found.json")) == 1
    printed = capsys.readouterr()
    assert "2 errors" in printed.err
    assert sum(line.startswith("error media mer24 train: row") for line in printed.out.splitlines()) == 2
    assert "train0.wav" in printed.out
    content = json.loads((tmp_path / "found.json").read_text())
    assert [(p["kind"], p["dataset"], p["row"]) for p in content["problems"] if p["level"] == "error"] == [
        ("media", "mer24", 0),
        ("media", "mer24", 1),
    ]


def test_a_single_error_is_counted_as_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((root / "AVUIE_2/mer24/audio").glob("*.wav")).write_bytes(b"no sound")
    assert check(root, "--only", "mer24,avcap") == 1
    assert "1 error and " in capsys.readouterr().err


def test_a_missing_root_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "gone") == 1
    printed = capsys.readouterr()
    assert printed.err.count("gone") == 1
    assert "there is no such folder" in printed.err
    assert printed.out == ""


def test_an_unknown_dataset_is_refused_with_the_known_ones(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(root, "--only", "ave,avee") == 1
    assert "--only names avee (did you mean 'ave'?);" in capsys.readouterr().err
    assert check(root, "--datasets", "avee,ave") == 1
    assert "--datasets is the old name of --only" in capsys.readouterr().err


def test_a_cache_is_built_ahead_and_taken_up_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [p for p in root.rglob("*") if p.suffix in (".mp4", ".mp3", ".wav")]
    assert build(root) == 0
    assert f"{len(clips)} media added to 0" in capsys.readouterr().out
    clips[0].write_bytes(clips[0].read_bytes() + b"\0")
    assert build(root) == 0
    assert f"1 media added to {len(clips) - 1}" in capsys.readouterr().out


def test_a_built_cache_serves_every_row_without_decoding(root: Path) -> None:
    from crab_lightning.configuration.sections import tasks_and_datasets
    from crab_lightning.data import read_manifest
    from crab_lightning.data.cache.store import MediaCache
    from crab_lightning.data.loading import load_media

    assert build(root, "--cache", str(root / "elsewhere")) == 0
    _, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["mer24", "avcap"])
    cache = MediaCache(root / "elsewhere")
    for name, spec in datasets.items():
        for sample in read_manifest(root, name, spec, "train"):
            load_media(sample, spec, "released", cache)
    assert (cache.stats.hits, cache.stats.stored, cache.stats.shared) == (8, 0, 0)


def test_broken_files_are_named_and_the_others_cached(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "AVUIE_2/mer24/audio/train0.wav").write_bytes(b"no sound")
    assert build(root) == 1
    printed = capsys.readouterr()
    assert "7 media added" in printed.out
    assert "1 files cannot be decoded" in printed.err
    assert "train0.wav" in printed.err


def test_a_full_cache_says_how_much_found_no_room(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(root, "--max-gb", "0.0005") == 0
    assert "did not fit; increase --max-gb" in capsys.readouterr().out
