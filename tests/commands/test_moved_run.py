from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from crab_lightning.commands import main


def test_copied_run_writes_where_it_is(small: dict[str, Path], tmp_path: Path) -> None:
    words = [f"--data.root={small['mini']}", f"--model.init_args.pretrained={small['tiny']}", "--only=a2v"]
    words += ["--data.num_workers=0", "--trainer.callbacks=[]", "--model.init_args.max_new_tokens=2"]
    words += ["--trainer.max_steps=1", f"--run.folder={tmp_path / 'run'}"]
    assert main(["fit", "--config", "demo.yaml", *words]) == 0
    assert "folder" not in yaml.safe_load((tmp_path / "run/config.yaml").read_text())["run"]
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert main(["test", "--ckpt_path", str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy/predictions/a2v.jsonl").is_file()
    assert not (tmp_path / "run/predictions/a2v.jsonl").is_file()
