"""A finished test is repeated or set aside, never resumed and never mixed; a killed one goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.evaluation import Evaluator
from tests.evaluation.fakes import Parrot, Rows
from tests.evaluation.test_evaluator import records, run_test, splits, trainer

REPO = Path(__file__).parents[2]


def run_with(folder: Path, identity: dict[str, Any], data: Rows, **options: Any) -> Parrot:
    evaluator, model = Evaluator(print_table=False), Parrot()
    evaluator.identity = identity
    trainer(folder, evaluator, **options).test(model, datamodule=data, verbose=False)
    return model


def only(dataset: str) -> Rows:
    return Rows({split: [s for s in rows if s.dataset == dataset] for split, rows in splits().items()})


def metrics(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


def test_finished_test_is_answered_again_and_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        model = run_with(tmp_path / "run", {"data.seed": 1}, Rows(splits()))
        assert len(model.asked) == 5
    assert not (tmp_path / "run/earlier").exists()
    assert len(records(tmp_path / "run/predictions/a.jsonl")) == 4


def test_finished_test_with_other_settings_is_set_aside_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_with(folder, {"data.drop_modality": None}, Rows(splits()))
    (folder / "masks/a").mkdir(parents=True)
    (folder / "masks/a/0.png").write_bytes(b"")
    (folder / "figures/val").mkdir(parents=True)
    before = metrics(folder)["test"]
    answers = (folder / "predictions/b.jsonl").read_bytes()
    run_with(folder, {"data.drop_modality": "audio"}, only("a"))
    place = folder / "earlier/test-0"
    assert metrics(place) == {"test": before}
    assert (place / "predictions/b.jsonl").read_bytes() == answers
    assert (place / "masks/a/0.png").is_file()
    assert (folder / "figures/val").is_dir()
    # Nothing of the earlier test is left among the files of the new one.
    assert [p.name for p in (folder / "predictions").glob("*.jsonl")] == ["a.jsonl"]
    assert list(metrics(folder)["test"]["datasets"]) == ["a"]
    run_with(folder, {"data.drop_modality": "vision"}, only("a"))
    assert sorted(p.name for p in (folder / "earlier").iterdir()) == ["test-0", "test-1"]


def test_part_of_the_split_does_not_replace_the_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_with(folder, {}, Rows(splits()))
    run_with(folder, {}, Rows(splits()), limit_test_batches=1)
    assert metrics(folder / "earlier/test-0")["test"]["whole_split"] is True
    run_with(folder, {}, Rows(splits()))  # the whole replaces a part
    assert not (folder / "earlier/test-1").exists()
    assert metrics(folder)["test"]["whole_split"] is True


def test_validation_results_stay_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trainer(folder, Evaluator(print_table=False)).validate(Parrot(), datamodule=Rows(splits()), verbose=False)
    run_with(folder, {"a": 1}, Rows(splits()))
    run_with(folder, {"a": 2}, Rows(splits()))
    assert set(metrics(folder)) == {"val", "test"}
    assert (folder / "predictions/val/a.jsonl").is_file()


_WORKER = """
import os, signal, sys
from pathlib import Path
from tests.evaluation.fakes import Parrot, Rows
from tests.evaluation.test_evaluator import run_test, splits

class Killed(Parrot):
    def _answer(self, batch):
        if len(self.asked) >= 4:
            os.kill(os.getpid(), signal.SIGKILL)
        with Path(sys.argv[2]).open("a") as log:
            log.writelines(s.id + "\\n" for s in batch.samples)
        return super()._answer(batch)

run_test(Path(sys.argv[1]), Rows(splits()), Killed())
"""


def test_sigkilled_test_goes_on_and_gives_the_same_files(tmp_path: Path) -> None:
    run_test(tmp_path / "whole", Rows(splits()))
    log = tmp_path / "asked"
    command = [sys.executable, "-c", _WORKER, str(tmp_path / "run"), str(log)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=environment, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not (tmp_path / "run/metrics.json").exists()
    model = Parrot()
    run_test(tmp_path / "run", Rows(splits()), model)
    asked = [*log.read_text().split(), *model.asked]
    assert sorted(asked) == sorted(s.id for s in splits()["test"])  # each once
    whole, killed = (metrics(tmp_path / name)["test"] for name in ("whole", "run"))
    assert {k: v for k, v in killed.items() if k not in ("answers_per_s", "made")} == {
        k: v for k, v in whole.items() if k not in ("answers_per_s", "made")
    }
    for name in ("a", "b"):
        paths = [tmp_path / run / f"predictions/{name}.jsonl" for run in ("whole", "run")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_killed_test_with_other_settings_beside_a_finished_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_test(folder, Rows(splits()))
    evaluator = Evaluator(print_table=False)
    evaluator.identity = {"data.seed": 2}
    with pytest.raises(RuntimeError, match="killed"):
        trainer(folder, evaluator).test(Parrot(die_after=2), datamodule=Rows(splits()), verbose=False)
    assert (folder / "earlier/test-0/metrics.json").is_file()
    with pytest.raises(ValueError, match=r"interrupted run with other settings \(data\.seed differ\)"):
        run_test(folder, Rows(splits()))
