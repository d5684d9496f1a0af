"""A run folder belongs to one run at a time, whichever loggers it has, and nothing else is touched."""

from __future__ import annotations

import json
import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers.logger import Logger

from crab_lightning.commands import main
from crab_lightning.runs.ownership import Ownership, RunFolderError, own_new_version
from tests.runs.quick import contents, quick


class Noted(Logger):
    """A logger of somebody else's, which has no folder."""

    name, version = "noted", "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep nothing."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""


def steps(folder: Path) -> int:
    return int(torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a config of the user's own."""
    place = tmp_path / "home"
    place.mkdir()
    (place / "config.yaml").write_text("mine: true\n")
    monkeypatch.chdir(place)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return place


needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")
needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="needs mlflow")
LOGGERS = {
    "none": (["--trainer.logger=false"], ""),
    "tensorboard": ([], "events.out.tfevents.*"),
    "csv": (["--trainer.logger=CSVLogger"], "lightning_logs/version_*/metrics.csv"),
    "several": (
        ["--trainer.logger=[lightning.pytorch.loggers.CSVLogger, tests.runs.test_run_folders.Noted]"],
        "lightning_logs/version_*/metrics.csv",
    ),
    "wandb": (["--trainer.logger=WandbLogger"], "wandb/offline-run-*"),
    "mlflow": (["--trainer.logger=MLFlowLogger"], "mlruns/*/*/metrics"),
}
MARKS = {"wandb": needs_wandb, "mlflow": needs_mlflow}


@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS.get(n, ())) for n in LOGGERS])
def test_every_logger_leaves_the_run_in_its_folder_and_lets_it_go_on(
    name: str, small: dict[str, Path], home: Path, tmp_path: Path
) -> None:
    words, written = LOGGERS[name]
    run = tmp_path / "run"
    words = [*words, f"--run.folder={run}", "--ckpt_path=auto", "--trainer.log_every_n_steps=1"]
    assert quick(small, "fit", *words, "--trainer.callbacks+=crab_lightning.dashboards.Pictures") == 0
    assert {"config.yaml", "metrics.json", "checkpoints/last.ckpt"} <= contents(run).keys()
    assert steps(run) == 2
    assert quick(small, "fit", *words, "--trainer.max_epochs=2") == 0
    assert steps(run) == 4, "the same command takes the run up"
    assert contents(home).keys() == {"config.yaml"}
    assert (home / "config.yaml").read_text() == "mine: true\n"
    if written:
        assert list(run.glob(written))


def test_folder_that_the_user_gives_a_logger_is_kept(
    small: dict[str, Path], home: Path, tmp_path: Path
) -> None:
    words = ["--trainer.logger=CSVLogger", f"--trainer.logger.init_args.save_dir={tmp_path / 'mine'}"]
    assert quick(small, "fit", *words, f"--run.folder={tmp_path / 'run'}") == 0
    assert list((tmp_path / "mine").rglob("metrics.csv")) or list((tmp_path / "mine").rglob("hparams.yaml"))
    assert (tmp_path / "run/config.yaml").is_file()


@pytest.fixture(scope="module")
def finished(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, as version_0 of the runs of its name; read-only."""
    root = tmp_path_factory.mktemp("runs")
    assert quick(small, "fit", f"--run.root={root}") == 0
    return root / "demo/version_0"


def refused(capsys: pytest.CaptureFixture[str], small: dict[str, Path], function: str, *words: Any) -> str:
    capsys.readouterr()
    assert quick(small, function, *words) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_finished_run_is_not_written_into_unless_it_is_said(
    finished: Path, small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    said = refused(capsys, small, "fit", f"--run.folder={finished}")
    for remedy in ("contains a run already", "--ckpt_path auto", "--run.folder", "--run.replace true"):
        assert remedy in said
    said = refused(capsys, small, "test", f"--run.folder={finished}")
    assert f"--ckpt_path {finished}" in said
    assert contents(finished) == before


def test_failed_fit_changes_nothing_and_leaves_no_version(
    finished: Path, small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    mistakes = (
        f"--model.init_args.pretrained={tmp_path / 'gone'}",
        "--model.init_args.adapter.rank=3",
        f"--data.root={tmp_path / 'gone'}",
    )
    for mistake in mistakes:
        refused(capsys, small, "fit", f"--ckpt_path={finished}", "--trainer.max_epochs=2", mistake)
        assert contents(finished) == before, mistake
    for mistake in (mistakes[0], mistakes[2], "--data.load_timeout_s=0.000001"):
        refused(capsys, small, "fit", f"--run.root={finished.parents[1]}", mistake)
        assert [p.name for p in finished.parent.iterdir()] == ["version_0"], mistake


def test_replaced_run_is_kept_beside_the_new_one(
    finished: Path, small: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [f"--run.folder={run}", "--trainer.logger=false"]
    assert quick(small, "fit", *words) == 0
    before = contents(run)
    assert quick(small, "fit", *words, "--run.replace=true", "--trainer.limit_train_batches=1") == 0
    assert contents(run / "earlier/run-0") == before
    assert steps(run) == 1


def test_test_without_a_checkpoint_is_a_zero_shot_run_of_its_own(
    finished: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished.parent)
    root = finished.parents[1]
    assert quick(small, "test", f"--run.root={root}") == 0
    assert (
        "No checkpoint is given: test uses the base model without training (zero-shot)"
        in capsys.readouterr().err
    )
    assert contents(finished.parent) == before, "the trained run is not touched, and report shows it"
    zero = root / "demo-zero-shot/version_0"
    results = json.loads((zero / "metrics.json").read_text())
    assert "ave" in results["test"]["datasets"]
    assert results["test"]["identity"]["model.init_args.load_adapter"] is None
    capsys.readouterr()
    assert main(["compare", str(zero), "--format", "csv"]) == 0
    assert "demo-zero-shot/version_0" in capsys.readouterr().out


def test_folder_in_use_is_refused_until_its_process_ends(tmp_path: Path) -> None:
    ready, child = tmp_path / "ready", os.fork()
    if child == 0:  # pragma: no cover - killed
        Ownership(tmp_path / "run", "fit")
        ready.touch()
        time.sleep(60)
        os._exit(1)
    while not ready.exists():
        time.sleep(0.01)
    with pytest.raises(RunFolderError, match=rf"in use: `fit`, process {child} on .* writes into it"):
        Ownership(tmp_path / "run", "test")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    Ownership(tmp_path / "run", "test").release()


def test_two_runs_never_get_the_same_version(tmp_path: Path) -> None:
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:  # pragma: no cover - exits
            own = own_new_version(tmp_path / "demo", "fit")
            (own.folder / str(os.getpid())).touch()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    found = sorted((tmp_path / "demo").iterdir())
    assert [len(list(p.iterdir())) for p in found] == [2] * 6, "its lock and its mark in each"


def test_abandoned_version_is_taken_again(tmp_path: Path) -> None:
    own_new_version(tmp_path, "fit").release()  # killed before it began: nothing but the lock
    assert own_new_version(tmp_path, "fit").folder.name == "version_0"


def test_folder_that_cannot_be_written_is_one_line(
    small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    said = refused(capsys, small, "fit", f"--run.root={tmp_path / 'file'}")
    assert "cannot be written" in said
    assert "--run.root" in said


def test_config_that_no_run_has_written_is_kept(
    small: dict[str, Path], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "was not written by a run" in refused(capsys, small, "fit", "--run.folder=.")
    assert (home / "config.yaml").read_text() == "mine: true\n"


def test_tilde_stands_for_the_home_folder_in_every_path_of_a_run(
    small: dict[str, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    for name in ("mini", "tiny"):
        (home / name).symlink_to(small[name])
    paths = {"run.folder": "~/run", "data.root": "~/mini", "model.init_args.pretrained": "~/tiny"}
    assert quick(small, "fit", *(f"--{key}={path}" for key, path in paths.items())) == 0
    assert quick(small, "test", "--ckpt_path=~/run") == 0
    assert (home / "run/metrics.json").is_file()
    assert not Path("~").exists()


def test_fast_dev_run_leaves_nothing(small: dict[str, Path], home: Path) -> None:
    assert quick(small, "fit", "--trainer.fast_dev_run=true") == 0
    assert contents(home).keys() == {"config.yaml"}


@pytest.mark.parametrize(
    ("switch", "said"),
    [
        ("--trainer.precision=bf16-true", "--model.init_args.dtype bfloat16"),
        ("--trainer.overfit_batches=2", "--data.datasets.NAME.limit N"),
    ],
)
def test_switch_that_cannot_work_is_refused_with_what_does_the_same(
    switch: str, said: str, small: dict[str, Path], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, small, "fit", switch)
    assert contents(home).keys() == {"config.yaml"}
