"""Cells that run, fail, are interrupted, kept, made again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from crab_lightning.commands import main
from crab_lightning.configuration.files import ConfigError
from crab_lightning.studies import cells
from crab_lightning.studies.cells import difference, identity, run_cell, state_of
from crab_lightning.studies.engines import engine
from crab_lightning.studies.runner import run_study
from crab_lightning.studies.study import Study, read_study
from tests.studies import fake_cells
from tests.studies.conftest import study_file


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return read_study(study_file(tmp_path, {"tiny": tmp_path / "tiny", "mini": tmp_path / "mini"}))


def statuses(study: Study) -> dict[str, str]:
    return {cell.name.removesuffix(".seed0"): state_of(cell).status for cell in study.cells()}


def test_failed_and_dead_cells_do_not_stop_the_others(study: Study) -> None:
    failed = run_study(study.cells(), engine("local", jobs=2), fake_cells.faulty)
    assert failed["lora.single.avqa.seed0"] == "ValueError: the rows are gone"
    assert "ended by signal 9" in failed["lora.single.dfew.seed0"]
    assert len(failed) == 2
    assert statuses(study) == {
        "lora.single.avqa": "failed",
        "lora.single.dfew": "failed",
        "lora.multi": "done",
        "ilora.single.avqa": "done",
        "ilora.single.dfew": "done",
        "ilora.multi": "done",
    }
    log = (study.folder / "cells/lora.single.avqa.seed0/cell.log").read_text()
    assert "the rows are gone" in log
    # The next call tries those two again and leaves the others as they are.
    before = (study.folder / "cells/lora.multi.seed0/calls").read_text()
    assert run_study(study.cells(), engine("local"), fake_cells.quick) == {}
    assert set(statuses(study).values()) == {"done"}
    assert (study.folder / "cells/lora.multi.seed0/calls").read_text() == before


def test_full_disk_fails_the_cell_that_meets_it_and_a_rerun_continues(study: Study) -> None:
    cells = study.cells()
    run_study(cells[:1], engine("local"), fake_cells.quick)
    before = (cells[0].folder / "calls").read_text()
    failed = run_study(cells, engine("local", jobs=2), fake_cells.on_full_disk)
    assert list(failed) == ["lora.multi.seed0"]
    assert "File too large" in failed["lora.multi.seed0"]
    assert statuses(study) == {
        "lora.single.avqa": "done",
        "lora.single.dfew": "done",
        "lora.multi": "interrupted",  # nothing more could be written
        "ilora.single.avqa": "done",
        "ilora.single.dfew": "done",
        "ilora.multi": "done",
    }
    assert run_study(cells, engine("local"), fake_cells.quick) == {}
    assert set(statuses(study).values()) == {"done"}
    assert (cells[0].folder / "calls").read_text() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_study_that_is_asked_to_end_leaves_no_cell_at_work(
    tmp_path: Path, study: Study, number: signal.Signals
) -> None:
    program = (
        "import sys\n"
        "from crab_lightning.studies.engines import run_locally\n"
        "from crab_lightning.studies.study import read_study\n"
        "from tests.studies import fake_cells\n"
        "if __name__ == '__main__':\n"
        "    cells = read_study(sys.argv[1]).cells()\n"
        "    run_locally(cells, fake_cells.patient, print, jobs=2)\n"
    )
    (tmp_path / "program.py").write_text(program)
    words = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "tiny.yaml")]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    limit = time.monotonic() + 120
    started = [cell.folder / "waits" for cell in study.cells()[:2]]
    while not all(path.is_file() for path in started):
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "lora.single.avqa.seed0, lora.single.dfew.seed0" in said
    assert list(statuses(study).values()) == ["interrupted"] * 2 + ["new"] * 4


def test_every_cell_has_a_process_of_its_own(study: Study) -> None:
    run_study(study.cells(), engine("local", jobs=2), fake_cells.quick)
    pids = {(c.folder / "calls").read_text().split()[1] for c in study.cells()}
    assert len(pids) == 6
    assert str(os.getpid()) not in pids


def test_an_extended_study_keeps_its_cells(tmp_path: Path, study: Study) -> None:
    run_study(study.cells(), engine("local"), fake_cells.quick)
    places = {"tiny": tmp_path / "tiny", "mini": tmp_path / "mini"}
    longer = read_study(study_file(tmp_path, places, seeds=[0, 1]))
    assert [state_of(cell).status for cell in longer.cells()] == ["done"] * 6 + ["new"] * 6


def test_a_cell_of_other_settings_is_refused_and_moved_on_request(tmp_path: Path, study: Study) -> None:
    run_study(study.cells(), engine("local"), fake_cells.quick)
    places = {"tiny": tmp_path / "tiny", "mini": tmp_path / "mini"}
    other = read_study(study_file(tmp_path, places, equal={"epochs": 2}))
    with pytest.raises(
        ConfigError,
        match=r"6 of 6 cells were made with other settings.*trainer.max_epochs: made with 1, now 2",
    ):
        run_study(other.cells(), engine("local"), fake_cells.quick)
    with pytest.raises(ConfigError, match="was made with other settings"):
        run_cell(other.cells()[0], fake_cells.quick)
    assert run_study(other.cells(), engine("local"), fake_cells.quick, replace=True) == {}
    assert set(statuses(other).values()) == {"done"}
    assert len(list((study.folder / "replaced").iterdir())) == 6


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cell.json cut off": lambda folder: (folder / "cell.json").write_text('{"state": "done", "iden'),
    "cell.json empty": lambda folder: (folder / "cell.json").write_text(""),
    "cell.json no text": lambda folder: (folder / "cell.json").write_bytes(b"\xff\xfe\x00"),
    "cell.json a list": lambda folder: (folder / "cell.json").write_text("[]"),
    "cell.json without state": lambda folder: (folder / "cell.json").write_text('{"identity": {}}'),
    "cell.json of an unknown state": lambda folder: (folder / "cell.json").write_text(
        '{"state": "dnoe", "identity": {}}'
    ),
    "cell.json without identity": lambda folder: (folder / "cell.json").write_text('{"state": "done"}'),
    "cell.json missing": lambda folder: (folder / "cell.json").unlink(),
    "metrics.json cut off": lambda folder: (folder / "metrics.json").write_text('{"test": {"data'),
    "metrics.json of another split": lambda folder: (folder / "metrics.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cell_is_named_and_stops_no_other(
    study: Study, damage: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cells = study.cells()
    first = cells[0]
    run_study(cells[:2], engine("local"), fake_cells.quick)
    DAMAGES[damage](first.folder)
    state = state_of(first)
    assert state.status == "damaged"
    assert str(first.folder / damage.split()[0]) in state.detail
    assert "emove" in state.detail or "cli.py test" in state.detail  # what to do
    capsys.readouterr()
    assert main(["study", "status", str(tmp_path / "tiny.yaml")]) == 0
    said = capsys.readouterr().out
    assert "1 damaged, 1 done, 4 new" in said
    assert said.startswith(f"{first.name:<44} damaged        {state.detail}\n")
    failed = run_study(cells, engine("local"), fake_cells.quick)
    assert failed == {first.name: state.detail}
    assert "4 to make, 1 done, 0 running elsewhere, 1 damaged" in capsys.readouterr().out
    assert [state_of(cell).status for cell in cells] == ["damaged"] + ["done"] * 5
    assert run_study(cells, engine("local"), fake_cells.quick, replace=True) == {}
    assert {state_of(cell).status for cell in cells} == {"done"}
    assert [path.name for path in (study.folder / "replaced").iterdir()] == [f"{first.name}-0"]


def test_a_renamed_arm_keeps_its_cells_if_its_folders_are_renamed(
    tmp_path: Path, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    run_study(study.cells(), engine("local"), fake_cells.quick)
    path = tmp_path / "tiny.yaml"
    path.write_text(path.read_text().replace("\n  lora:\n", "\n  plain:\n"))
    words = ["study", "status", str(path)]
    assert main(words) == 0
    assert "3 new, 3 done" in (said := capsys.readouterr().out)
    assert "3 more folders, which belong to no cell of this study: lora.multi.seed0, lora.single.avqa" in said
    for old in (study.folder / "cells").glob("lora.*"):
        old.rename(old.with_name(old.name.replace("lora", "plain")))
    assert main(words) == 0
    assert "6 done" in (said := capsys.readouterr().out)
    assert "more folders" not in said
    # A state of an earlier version, which also compared the names.
    state = study.folder / "cells/plain.multi.seed0/cell.json"
    content = json.loads(state.read_text())
    content["identity"]["settings"]["run.name"] = "lora.multi.seed0"
    state.write_text(json.dumps(content | {"identity": content["identity"] | {"hash": "other"}}))
    assert set(statuses(read_study(path)).values()) == {"done"}


def test_other_rows_other_weights_and_another_version_are_other_settings(
    tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = study.cells()[0]
    run_cell(_made(cell), fake_cells.quick)
    monkeypatch.setattr(cells, "__version__", "0.0.other")
    assert "version: made with" in state_of(cell).detail
    monkeypatch.undo()
    assert state_of(cell).status == "done"
    manifest = tmp_path / "mini/AVUIE_2/avqa/train.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("[]")
    cells._manifests.cache_clear()
    assert "manifests.avqa" in state_of(cell).detail
    run_study([cell], engine("local"), fake_cells.quick, replace=True)
    shutil.rmtree(tmp_path / "mini")
    cells._manifests.cache_clear()
    assert f"now not found under data.root '{tmp_path / 'mini'}', seen from" in state_of(cell).detail
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.json").write_text("{}")
    cells._weights.cache_clear()
    assert "weights" in state_of(cell).detail


def test_own_manifests_and_connectors_are_part_of_what_made_a_cell(tmp_path: Path) -> None:
    path = study_file(tmp_path, {"tiny": tmp_path / "tiny", "mini": tmp_path / "mini"})
    content = yaml.safe_load(path.read_text())
    row = {"task": "question_answering", "layout": "plain", "train_file": "lists/a.csv"}
    content["overlay"]["data"]["datasets"] = {"mine": row, "lost": {"task": "question_answering"}}
    connector = tmp_path / "connector.safetensors"
    content["overlay"]["model"]["init_args"]["audio_connector"] = str(connector)
    path.write_text(yaml.safe_dump(content | {"datasets": ["mine", "lost"]}))
    made, lost = read_study(path).cells()[:2]
    assert state_of(lost).status == "new"  # a row without a layout is the business of `fit`
    files = [tmp_path / f"mini/mine/{name}" for name in ("lists/a.csv", "test.jsonl")]
    for number, file in enumerate([*files, connector]):
        run_study([made], engine("local"), fake_cells.quick, replace=True)
        assert state_of(made).status == "done"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a")
        cells._manifests.cache_clear()
        cells._weights.cache_clear()
        key = "files.model.init_args.audio_connector" if number == 2 else f"manifests.mine.{file.name}"
        assert key.replace("mine.a", "mine.lists/a") in state_of(made).detail


def test_shipped_weights_are_compared_by_what_they_are_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = "crab_lightning/assets/mini_omni"
    study = read_study(study_file(tmp_path, {"tiny": Path(shipped), "mini": tmp_path / "mini"}))
    here = identity(study.cells()[0])
    monkeypatch.chdir(tmp_path)
    cells._weights.cache_clear()
    assert identity(study.cells()[0])["weights"] == here["weights"] != shipped
    assert "weights: made with 'other'" in difference(here | {"hash": "", "weights": "other"}, here)


def _made(cell: object) -> object:
    cell.folder.mkdir(parents=True)  # type: ignore[attr-defined]
    return cell


def test_an_interrupted_cell_is_no_failed_one(study: Study) -> None:
    cell = study.cells()[0]
    with pytest.raises(SystemExit):
        run_cell(cell, fake_cells.interrupted)
    assert state_of(cell).status == "interrupted"


def test_only_one_process_works_on_a_cell(study: Study) -> None:
    from crab_lightning.studies.cells import _locked

    cell = study.cells()[0]
    run_cell(cell, fake_cells.quick)
    with _locked(cell), pytest.raises(BlockingIOError, match="another process works on"):
        run_cell(cell, fake_cells.quick)


def test_cell_that_another_command_has_begun_is_not_failed(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    from crab_lightning.studies.cells import _locked

    def late(cells: Any, command: Any, report: Any) -> None:
        cells[0].folder.mkdir(parents=True)
        with _locked(cells[0]):
            engine("local")(cells, command, report)

    assert run_study(study.cells()[:2], late, fake_cells.quick) == {}
    said = capsys.readouterr().out
    assert f"{study.cells()[0].name}: another process works on it" in said
    assert f"{study.cells()[1].name}: done in" in said


def outcome(folder: Path) -> dict[str, bytes]:
    """Return what a cell leaves that has no clock, no path and no number of a save in it."""
    files = [*sorted((folder / "predictions").glob("*.jsonl")), *folder.glob("sample_losses.json")]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    weights = load_file(folder / "adapter" / "adapter.safetensors")
    return found | {name: value.numpy().tobytes() for name, value in weights.items()}


def test_two_jobs_leave_what_one_job_leaves_and_a_second_call_makes_nothing(
    finished: Path, tmp_path: Path, small: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    made = read_study(finished)
    assert set(statuses(made).values()) == {"done"}
    stamps = {cell.name: (cell.folder / "metrics.json").stat().st_mtime_ns for cell in made.cells()}
    assert main(["study", "run", str(finished)]) == 0
    assert "Cells: 0 to make, 6 done" in capfd.readouterr().out
    assert stamps == {cell.name: (cell.folder / "metrics.json").stat().st_mtime_ns for cell in made.cells()}
    alone = study_file(tmp_path, small)
    assert main(["study", "run", str(alone), "--cells", "ilora.multi.*", "lora.single.avqa.*"]) == 0
    for cell in read_study(alone).cells():
        if cell.name in ("ilora.multi.seed0", "lora.single.avqa.seed0"):
            assert outcome(cell.folder) == outcome(made.folder / "cells" / cell.name)
            assert outcome(cell.folder)
    assert main(["study", "status", str(alone)]) == 0
    assert "2 done, 4 new" in capfd.readouterr().out.replace("4 new, 2 done", "2 done, 4 new")


def test_a_killed_study_is_taken_up_and_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path, small: dict[str, Path]
) -> None:
    made = read_study(finished)
    path = study_file(tmp_path, small)
    cell = next(c for c in read_study(path).cells() if c.name == "ilora.multi.seed0")
    words = [sys.executable, "cli.py", "study", "run", str(path), "--cells", cell.name]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not (cell.folder / "checkpoints/last.ckpt").is_file():
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    os.killpg(json.loads((cell.folder / "cell.json").read_text())["process"], signal.SIGKILL)
    while state_of(cell).status == "running":  # the system is slow to end it
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert state_of(cell).status == "interrupted"
    assert main(["study", "run", str(path), "--cells", cell.name]) == 0
    assert state_of(cell).status == "done"
    assert outcome(cell.folder) == outcome(made.folder / "cells" / cell.name)


def test_a_finished_cell_is_a_run_that_other_commands_read(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = read_study(finished).folder / "cells"
    a, b = cells / "lora.multi.seed0", cells / "ilora.multi.seed0"
    assert main(["compare", str(a), str(b), "--resamples", "100"]) == 0
    assert "ilora.multi.seed0" in capsys.readouterr().out
    assert main(["report", str(a), "--out", str(tmp_path / "page.html")]) == 0
    shutil.rmtree(tmp_path)
    content = json.loads((a / "sample_losses.json").read_text())
    assert set(content) == {"dfew"}  # all rows of the other are trained on
