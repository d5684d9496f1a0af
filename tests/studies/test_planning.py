"""The plan of a study, measured on the tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crab_lightning.commands import main
from crab_lightning.studies.planning import Measured, seconds
from tests.studies.conftest import study_file


def test_plan_shows_cells_parameters_and_time(
    tmp_path: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = study_file(tmp_path, small, seeds=[0, 1], arms={"ilora": {}})
    assert main(["study", "plan", str(path), "--steps", "2", "--jobs", "2"]) == 0
    said, told = capsys.readouterr()
    assert "Counting the rows of 2 datasets\nArm ilora (1 of 1): measuring 2 steps" in told
    assert "6 cells, 0 of them done" in said
    assert "ilora: 40,104 trained parameters; measured:" in said
    assert "hours with --jobs 2" in said
    row = next(line for line in said.splitlines() if "avqa, dfew" in line).split()
    counted = {
        split: sum(
            len(json.loads((small["mini"] / f"AVUIE_2/{name}/{split}.json").read_text()))
            for name in ("avqa", "dfew")
        )
        for split in ("train", "test")
    }
    cells, train, val, test, steps = map(int, row[4:9])
    assert (cells, train + val, test, steps) == (2, counted["train"], counted["test"], 4)
    assert val > 0
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize("action", ["plan", "run"])
def test_a_wrong_key_of_an_arm_is_named_before_anything_is_trained(
    tmp_path: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str], action: str
) -> None:
    wrong = {"model": {"init_args": {"adapter": {"knd": "lora"}}}}
    path = study_file(tmp_path, small, arms={"right": {}, "wrong": wrong})
    assert main(["study", action, str(path)]) == 1
    assert "arm wrong: crab_lightning.AdapterConfig has no key 'knd'" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def test_estimate_adds_up() -> None:
    rows = {"train": 8, "val": 6, "test": 5, "steps": 4, "validations": 1, "batch_size": 2}
    assert seconds(rows, Measured(1, 1.0, 3.0, 2.0)) == pytest.approx(2 + 12 + 3 + 10)
