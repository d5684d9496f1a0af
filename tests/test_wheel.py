"""The wheel alone, in a clean folder, runs the demo's commands from any other folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]


def test_installed_package_runs_the_demo_from_another_folder(small: dict[str, Path], tmp_path: Path) -> None:
    source, site, away = tmp_path / "source", tmp_path / "site", tmp_path / "away"
    source.mkdir()
    away.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source / name)
    for name in ("crab_lightning", "configs"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def call(*words: Any) -> str:
        done = subprocess.run(
            list(map(str, words)), cwd=away, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    call(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    call(*pip, "install", "-q", "--no-deps", "--target", site, wheel)
    version = f"crab_lightning {wheel.name.split('-')[1]}\n"
    assert call(sys.executable, "-m", "crab_lightning", "--version") == version
    assert call(site / "bin/crab-lightning", "--version") == version
    assert call(site / "bin/crab-lightning", "data", "--help").startswith(
        "usage: crab-lightning data COMMAND"
    )
    quick = ["--data.num_workers=0", "--only=ave", "--trainer.callbacks=[]"]
    fit = ["fit", "--config", "demo.yaml", f"--data.root={small['mini']}", "--trainer.limit_train_batches=1"]
    fit += [*quick, "--trainer.max_epochs=1", "--trainer.limit_val_batches=0"]
    test = ["test", "--ckpt_path", "runs/demo", "--trainer.limit_test_batches=1", *quick]
    # Both in one process: to import everything takes longer than either.
    both = f"from crab_lightning.commands import main; raise SystemExit(main({fit!r}) or main({test!r}))"
    call(sys.executable, "-c", both)
    assert (away / "runs/demo/version_0/metrics.json").is_file()
    assert {path.name for path in away.iterdir()} == {"runs"}
