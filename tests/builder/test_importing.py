"""The machine that all importers share, on AVE: linking, resuming, reporting, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.builder import Settings, import_dataset
from crab_lightning.commands import main
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.media import probe, read_audio
from crab_lightning.structures import DatasetSpec
from tests.builder.media import put

KINDS = (".mp3", ".mp4", ".json")
IDS = ("-9_5_2i4igQ", "aaaaaaaaaaa", "AAAAAAAAAAA", "silentsound", "broken_clip", "lost_clip_0")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six clips: one without sound, one damaged, one absent, two whose ids differ in case alone."""
    folder = tmp_path / "owner"
    for vid in IDS[:3]:
        put(folder / "AVE" / f"{vid}.mp4", 10)
    put(folder / "AVE" / "silentsound.mp4", 10, sound=False)
    (folder / "AVE" / "broken_clip.mp4").write_bytes(b"not a video" * 30)
    rows = [
        "Violin, fiddle&-9_5_2i4igQ&good&0&10",
        "Acoustic guitar&-9_5_2i4igQ&good&0&10",
        "Bus&aaaaaaaaaaa&good&4&10",
        "Clock&silentsound&good&1&3",
        "Clock&broken_clip&good&1&3",
        "Clock&lost_clip_0&good&1&3",
        "Church bell&VWi2ENBuTbw&good&0&0",
    ]
    (folder / "trainSet.txt").write_text("\n".join(rows) + "\n")
    (folder / "testSet.txt").write_text("Truck&AAAAAAAAAAA&good&0&2\nTruck&aaaaaaaaaaa&good&0&2\n")
    return folder


def manifest(root: Path, split: str = "train") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((root / f"AVUIE_2/ave/{split}.json").read_text())
    return rows


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    media = (p for p in root.rglob("*") if p.suffix in (".mp4", ".mp3"))
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in media}


def test_every_official_row_is_in_a_manifest_or_in_the_list(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    report = import_dataset("ave", [source], root, workers=2)
    train, test = report.splits
    assert vars(train) == {
        "task": "ave", "split": "train", "expected": 3339, "rows": 7, "found": 5, "missing": 1,
        "unreadable": 2, "rejected": 1, "written": 3,
    }  # fmt: skip
    assert (test.rows, test.written, test.expected) == (2, 2, 402)
    assert [(r["vid"], r["event"]) for r in manifest(root)] == [
        ("-9_5_2i4igQ", "Violin, fiddle"),
        ("-9_5_2i4igQ", "Acoustic guitar"),
        ("aaaaaaaaaaa", "Bus"),
    ]
    head, *lost = (root / "AVUIE_2/ave/import_missing.tsv").read_text().splitlines()
    assert head == "manifest\tid\twhat\treason"
    kinds = {line.split("\t")[1]: line.split("\t")[2:] for line in lost}
    assert kinds["lost_clip_0"] == ["missing", "lost_clip_0.mp4"]
    assert kinds["VWi2ENBuTbw"][0] == "unusable"
    assert "has no audio track" in kinds["silentsound"][1]
    assert "cannot be opened" in kinds["broken_clip"][1]
    assert report.notes == {"media files of a clip that is in training and in test, as published": 1}
    samples = read_manifest(root, "ave", DatasetSpec("x", "ave"), "train")  # the real reader checks the media
    assert samples[0].target == "<event>Violin, fiddle, (0 10)</event>"
    assert len(read_audio(samples[0].audios[0])) == pytest.approx(160_000, abs=2000)


def test_media_are_linked_as_asked(source: Path, tmp_path: Path) -> None:
    owner = source / "AVE" / "aaaaaaaaaaa.mp4"
    for link in ("hard", "symbolic", "copy"):
        root = tmp_path / link
        import_dataset("ave", [source], root, link=link, workers=0)  # type: ignore[arg-type]
        made = root / "AVUIE_2/ave/video/aaaaaaaaaaa.mp4"
        assert made.samefile(owner) == (link != "copy")
        assert made.is_symlink() == (link == "symbolic")
        assert probe(made).duration_s == pytest.approx(10, abs=0.6)


def test_a_second_call_makes_only_what_is_not_there(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    import_dataset("ave", [source], root, workers=0)
    before, rows = stamps(root), manifest(root)
    sound = root / "AVUIE_2/ave/audio/aaaaaaaaaaa.mp3"
    sound.unlink()
    (sound.parent / ".import-99-aaaaaaaaaaa.mp3").write_bytes(b"half")
    put(source / "AVE" / "lost_clip_0.mp4", 10)  # fetched meanwhile
    report = import_dataset("ave", [source], root, workers=0)
    assert report.media["extracted"] == 2
    assert report.media["linked"] == 1
    assert not list(root.rglob(".import-*"))
    after = stamps(root)
    assert {k for k, v in before.items() if after[k] == v} >= before.keys() - {"aaaaaaaaaaa.mp3"}
    assert len(manifest(root)) == len(rows) + 1


def test_a_file_of_another_source_is_made_anew(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    import_dataset("ave", [source], root, workers=0)
    owner = source / "AVE" / "aaaaaaaaaaa.mp4"
    owner.unlink()
    put(owner, 4)
    os.utime(owner, (time.time() + 60, time.time() + 60))
    report = import_dataset("ave", [source], root, workers=0)
    assert (report.media["linked"], report.media["extracted"]) == (1, 1)
    assert len(read_audio(root / "AVUIE_2/ave/audio/aaaaaaaaaaa.mp3")) == pytest.approx(64_000, abs=2000)


def test_a_dry_run_writes_nothing(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    words = ["build", "import", "--dataset", "ave", "--source", str(source), "--root", str(root)]
    assert main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "5 to be extracted or cut, 5 to be linked" in told
    assert "not read" in told
    assert not root.exists()
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "Rows that are in no manifest: 4" in told


def test_a_dry_run_that_finds_no_row_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "owner").mkdir()
    for name in ("trainSet.txt", "testSet.txt"):
        (tmp_path / "owner" / name).write_text("Bus&aaaaaaaaaaa&good&4&10\n")
    words = ["--dataset", "ave", "--source", str(tmp_path / "owner"), "--root", str(tmp_path / "root")]
    assert main(["build", "import", *words, "--dry-run"]) == 1
    told = capsys.readouterr()
    assert "Nothing was written: this was a dry run." in told.out
    assert "no row of ave could be imported" in told.err


def test_a_killed_import_leaves_nothing_half_written_and_is_taken_up(tmp_path: Path) -> None:
    owner = tmp_path / "owner"
    ids = [f"clip_{i:06d}" for i in range(40)]
    for vid in ids:
        put(owner / f"{vid}.mp4", 10)
    (owner / "trainSet.txt").write_text("".join(f"Bus&{vid}&good&1&4\n" for vid in ids))
    (owner / "testSet.txt").write_text("")
    whole, root = tmp_path / "whole", tmp_path / "root"
    import_dataset("ave", [owner], whole, workers=2)
    cli = str(Path(__file__).parents[2] / "cli.py")
    words = [
        "build",
        "import",
        "--dataset",
        "ave",
        "--source",
        str(owner),
        "--root",
        str(root),
        "--workers",
        "1",
    ]
    process = subprocess.Popen([sys.executable, cli, *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(root.rglob("*.mp3"))) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not list(root.rglob("*.json"))
    report = import_dataset("ave", [owner], root, workers=2)
    assert report.media["kept"] >= 5

    def content(folder: Path) -> dict[str, bytes]:
        files = (p for p in folder.rglob("*") if p.suffix in KINDS and p.name != "import.json")
        return {str(p.relative_to(folder)): p.read_bytes() for p in files}

    assert content(root) == content(whole)
    assert not list(root.rglob(".import-*"))


def test_a_data_root_inside_the_source_is_not_imported_itself(source: Path) -> None:
    root = source / "AVE" / "root"
    import_dataset("ave", [source], root, workers=0)
    first = manifest(root)
    (source / "AVE" / "aaaaaaaaaaa.mp4").unlink()  # the linked file in the data root is still there
    report = import_dataset("ave", [source], root, workers=0)
    assert report.splits[0].missing == 2
    assert len(manifest(root)) == len(first) - 1


def test_names_that_differ_in_case_alone_need_a_disk_that_tells_them_apart(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crab_lightning.builder.importing._ignores_case", lambda _: True)
    with pytest.raises(
        ValueError,
        match=r"differ only in upper and lower case, and the disk of .* does not distinguish these",
    ):
        import_dataset("ave", [source], tmp_path / "root", workers=0)


def test_a_manifest_of_somebody_else_is_never_lost(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    path = root / "AVUIE_2/ave/train.json"
    path.parent.mkdir(parents=True)
    path.write_text('[{"released": 1}]')
    with pytest.raises(FileExistsError, match="was not written by this command; nothing was done"):
        import_dataset("ave", [source], root, workers=0)
    assert sorted(p.name for p in path.parent.iterdir()) == ["train.json"]
    import_dataset("ave", [source], root, workers=0, overwrite=True)
    assert json.loads(path.with_name("train.json.before_import").read_text()) == [{"released": 1}]
    rows = manifest(root)
    rows[0]["label_content"] = "A reasoned text. " + rows[0]["label_content"]
    path.write_text(json.dumps(rows))
    with pytest.raises(FileExistsError, match="was changed since it was imported"):
        import_dataset("ave", [source], root, workers=0)
    assert manifest(root) == rows
    import_dataset("ave", [source], root, workers=0, overwrite=True)
    assert json.loads(path.with_name("train.json.before_import").read_text()) == [{"released": 1}]
    assert json.loads(path.with_name("train.json.before_import-2").read_text()) == rows


def test_what_cannot_work_is_said_at_once(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    with pytest.raises(ValueError, match=r"there is no such dataset \(did you mean 'ave'"):
        import_dataset("avee", [source], root)
    with pytest.raises(NotADirectoryError, match="there is no such folder"):
        import_dataset("ave", [tmp_path / "nowhere"], root)
    with pytest.raises(ValueError, match="--pairs is not an option of ave, which takes: val"):
        import_dataset("ave", [source], root, Settings(pairs=3))
    (source / "testSet.txt").rename(source / "test.txt")
    with pytest.raises(FileNotFoundError, match=r"there is no testSet\.txt in it"):
        import_dataset("ave", [source], root)
    (source / "testSet.txt").write_text("Truck,AAAAAAAAAAA,good,0,2\n")
    with pytest.raises(ValueError, match=r"testSet\.txt, line 1: .*Category&VideoID&Quality"):
        import_dataset("ave", [source], root)
    shutil.copy(source / "test.txt", source / "testSet.txt")

    def no_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", no_link)
    with pytest.raises(ValueError, match="choose --symlink or --copy"):
        import_dataset("ave", [source], root, workers=0)
    assert not list(root.rglob("*.json"))
    shutil.rmtree(source / "AVE")
    monkeypatch.undo()
    words = ["build", "import", "--dataset", "ave", "--source", str(source), "--root", str(root)]
    assert main(words) == 1
    assert "no row of ave could be imported" in capsys.readouterr().err
