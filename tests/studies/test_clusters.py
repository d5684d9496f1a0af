"""SLURM through an ``sbatch`` that runs the script, and a local Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from crab_lightning.commands import main
from crab_lightning.studies.cells import state_of
from crab_lightning.studies.engines import engine
from crab_lightning.studies.runner import run_study
from crab_lightning.studies.study import read_study
from tests.studies import fake_cells
from tests.studies.conftest import study_file

REPO = Path(__file__).resolve().parents[2]

_SBATCH = """#!/usr/bin/env bash
echo "$@" >> {log}
for word; do script=$word; case $word in --array=0-*) last=${{word#--array=0-}};; esac; done
for i in $(seq 0 "${{last%%%*}}"); do SLURM_ARRAY_TASK_ID=$i bash "$script" >> {log}.out 2>&1 || true; done
echo "7$(wc -l < {log});cluster"
"""


def test_slurm_makes_every_cell_and_then_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each task starts the program that submitted it; here one that notes its words."""
    log = tmp_path / "log"
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin/sbatch"
    sbatch.write_text(_SBATCH.format(log=log))
    sbatch.chmod(0o755)
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(REPO)!r})\n"
        "from crab_lightning.commands import trainer\n"
        "from tests.studies import fake_cells\n"
        "trainer.run = fake_cells.quick\n"
        "from crab_lightning.studies import engines\n"
        "engines.run_locally = lambda cells, command, report, **_: [engines.run_cell(c, command) or"
        " report(c, '')"
        " for c in cells]\n"
        "from crab_lightning.commands import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "argv", [str(program)])
    places = {"tiny": tmp_path / "tiny", "mini": tmp_path / "mini"}
    path = study_file(tmp_path, places, arms={"lora": {}})
    words = ["study", "submit", str(path), "--at-a-time", "2", "--sbatch", "gres=gpu:1"]
    assert main(words) == 0, capsys.readouterr().err
    assert "Submitted 3 cells as job 71, and the report as job 72" in capsys.readouterr().out
    study = read_study(path)
    assert {state_of(cell).status for cell in study.cells()} == {"done"}, (tmp_path / "log.out").read_text()
    asked = log.read_text().splitlines()
    assert "--array=0-2%2" in asked[0]
    assert "--dependency=afterany:71" in asked[1]
    assert "#SBATCH --gres=gpu:1" in (study.folder / "slurm/cells.sbatch").read_text()
    assert main(words) == 0
    assert "Nothing to submit: every cell is done" in capsys.readouterr().out
    other = study_file(tmp_path, places, arms={"lora": {}}, equal={"epochs": 2})
    assert main(["study", "submit", str(other)]) == 1
    assert "3 of 3 cells were made with other settings" in capsys.readouterr().err


def test_options_of_another_engine_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study_file(tmp_path, {"tiny": tmp_path, "mini": tmp_path})
    for words in (["--engine", "ray", "--jobs", "2", "--devices", "0,1"], ["--ray-gpus", "1"]):
        assert main(["study", "run", str(path), *words]) == 1
    said = capsys.readouterr().err
    assert "--engine ray does not use --jobs, --devices; remove it" in said
    assert "--engine local does not use --ray-gpus; remove it" in said


def test_without_sbatch_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = study_file(tmp_path, {"tiny": tmp_path, "mini": tmp_path})
    assert main(["study", "submit", str(path)]) == 1
    assert "there is no sbatch on this machine" in capsys.readouterr().err


def test_a_local_ray_leaves_what_local_processes_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    study = read_study(study_file(tmp_path, {"tiny": tmp_path / "tiny", "mini": tmp_path / "mini"}))
    failed = run_study(study.cells(), engine("ray", cpus=1.0), fake_cells.faulty_on_ray)
    assert list(failed) == ["lora.single.avqa.seed0"]
    assert "the rows are gone" in failed["lora.single.avqa.seed0"]
    states = [state_of(cell).status for cell in study.cells()]
    assert states.count("done") == 5
    assert states.count("failed") == 1
