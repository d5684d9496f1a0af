"""The wheel alone, in a clean folder, runs the demo's commands and those of the page on own data."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip installs of the wheel; the wheel lies beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    source.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source / name)
    for name in ("crab_lightning", "configs"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    call(folder, site, *pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (wheel,) = folder.glob("*.whl")
    call(folder, site, *pip, "install", "-q", "--no-deps", "--target", site, wheel)
    return site


def call(away: Path, site: Path, *words: Any, **more: Any) -> str:
    """Run a command in a folder with the installed wheel; return what it prints."""
    path = os.pathsep.join([str(site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "PATH": path}
    line = list(map(str, words))
    done = subprocess.run(line, cwd=away, env=env, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def test_installed_package_runs_the_demo_from_another_folder(
    site: Path, small: dict[str, Path], tmp_path: Path
) -> None:
    (wheel,) = site.parent.glob("*.whl")
    crab = site / "bin/crab-lightning"
    version = f"crab_lightning {wheel.name.split('-')[1]}\n"
    assert call(tmp_path, site, sys.executable, "-m", "crab_lightning", "--version") == version
    assert call(tmp_path, site, crab, "--version") == version
    said = call(tmp_path, site, crab, "data", "--help")
    assert said.startswith("usage: crab-lightning data COMMAND")
    quick = ["--data.num_workers=0", "--only=ave", "--trainer.callbacks=[]"]
    fit = ["fit", "--config", "demo.yaml", f"--data.root={small['mini']}", "--trainer.limit_train_batches=1"]
    fit += [*quick, "--trainer.max_epochs=1", "--trainer.limit_val_batches=0"]
    test = ["test", "--ckpt_path", "runs/demo", "--trainer.limit_test_batches=1", *quick]
    # Both in one process: to import everything takes longer than either.
    both = f"from crab_lightning.commands import main; raise SystemExit(main({fit!r}) or main({test!r}))"
    call(tmp_path, site, sys.executable, "-c", both)
    assert (tmp_path / "runs/demo/version_0/metrics.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    assert (site / "crab_lightning/assets/lmms_eval/utils.py").is_file()


@pytest.mark.slow
def test_the_page_on_own_data_goes_from_ten_rows_to_a_server_and_an_export(
    site: Path, tmp_path: Path
) -> None:
    page = (REPO / "docs/own_data.md").read_text(encoding="utf-8")
    page = page.partition("## Flat rows")[0]
    for name, text in re.findall(r"```(?:python|yaml) ([\w.]+)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = "set -e\n" + "".join(re.findall(r"```bash walk\n(.*?)```", page, re.DOTALL))
    commands = [line for line in script.splitlines()[1:] if line]
    assert len(commands) < 20
    client = tmp_path / "client.py"
    client.write_text(client.read_text().replace("8123", port))
    said = call(tmp_path, site, "bash", "-c", script.replace("8123", port), timeout=1500)
    lines = [json.loads(line) for line in (tmp_path / "runs/mine/predictions/mine.jsonl").open()]
    assert len(lines) == 2
    assert "What do you see and hear?" in lines[0]["prompt"]
    assert (tmp_path / "peft/adapter_model.safetensors").is_file()
    assert "mine" in said
