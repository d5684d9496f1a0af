from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from crab_lightning.commands import main


def test_copied_run_of_relative_paths_works_from_another_folder_and_writes_where_it_is(
    small: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    (home / "data").symlink_to(small["mini"])
    (home / "base").symlink_to(small["tiny"])
    own = {"model": {"init_args": {"pretrained": "base", "max_new_tokens": 2}}, "data": {"root": "data"}}
    (home / "mine.yaml").write_text(yaml.safe_dump({"include": "demo.yaml", **own}))
    monkeypatch.chdir(home)
    words = ["--only=ave", "--data.num_workers=0", "--trainer.callbacks=[]", "--trainer.max_steps=1"]
    assert main(["fit", "--config", "mine.yaml", *words, "--run.folder=run"]) == 0
    assert "folder" not in yaml.safe_load((home / "run/config.yaml").read_text())["run"]
    shutil.copytree(home / "run", tmp_path / "copy")
    monkeypatch.chdir(away)
    assert main(["test", "--ckpt_path", "../copy"]) == 0
    assert (tmp_path / "copy/predictions/ave.jsonl").is_file()
    assert not (home / "run/predictions/ave.jsonl").is_file()
    shutil.copytree(tmp_path / "copy", tmp_path / "again")
    assert main(["test", "--ckpt_path", "../again"]) == 0
    assert not (tmp_path / "again/earlier").exists()  # it is the same test
    clip = next((small["mini"] / "AVUIE_2/ave").glob("video/**/*.mp4"))
    capsys.readouterr()
    assert main(["ask", "--checkpoint", "../copy", "--video", str(clip), "--task", "event_localization"]) == 0
    assert capsys.readouterr().out
    assert list(away.iterdir()) == []
