"""The probe: four tests with the right options, and the table that they give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.commands import conditions, main, trainer
from tests.commands.test_compare import write_run

HEARD = {"intact": 0.75, "no_audio": 0.25, "no_vision": 0.75, "swapped_audio": 0.0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter.json").write_text("{}")
    (folder / "config.yaml").write_text("{}")
    return folder


@pytest.fixture
def tests(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stand in for `test`: write the results of a model that listens and does not look."""
    asked: list[list[str]] = []

    def fake(words: list[str]) -> None:
        asked.append(words)
        folder = Path(words[words.index("--run.folder") + 1])
        right = int(40 * HEARD[folder.name])
        write_run(folder, "ks", [1.0] * right + [0.0] * (40 - right), "accuracy")
        content = json.loads((folder / "metrics.json").read_text())
        content["test"]["whole_split"] = True
        content["test"]["datasets"]["ks"]["majority"] = {"accuracy": 0.1}
        (folder / "metrics.json").write_text(json.dumps(content))

    monkeypatch.setattr(trainer, "run", fake)
    return asked


def test_each_condition_is_one_test_of_the_runs_checkpoint(run: Path, tests: list[list[str]]) -> None:
    assert main(["probe", str(run), "--only", "ks"]) == 0
    assert [Path(words[4]).name for words in tests] == list(conditions.CONDITIONS)
    assert all(words[:3] == ["test", "--ckpt_path", str(run / "adapter")] for words in tests)
    assert all(words[-2:] == ["--only", "ks"] for words in tests)
    # The run's own test stays as it is: every condition has a folder of its own.
    assert all(Path(words[4]).parent == run / "probe" for words in tests)
    assert [words[5:7] for words in tests] == [list(options) for options in conditions.CONDITIONS.values()]


def test_table_tells_hearing_from_looking(
    run: Path, tests: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", str(run)]) == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("Kinetics-Sounds")).split()
    assert row[3:8] == ["75.00", "25.00", "75.00", "0.00", "10.00"]  # the last is the majority's
    assert "−50.00" in said
    assert "test: in percent, strict, as it is, without sound or pictures, and with swapped sound" in said
    assert "0.00 [0.00, 0.00]" in said
    content: dict[str, Any] = json.loads((run / "probe" / "probe.json").read_text())
    assert content["ks"]["loss"]["no_audio"]["mean"] == pytest.approx(0.5)
    assert content["ks"]["loss"]["no_audio"]["low"] > 0.3
    assert content["ks"]["loss"]["no_vision"]["high"] == 0
    assert content["ks"]["majority"] == 0.1


def test_table_does_not_say_percent_of_a_score_in_another_unit(
    run: Path, tests: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", str(run)]) == 0
    for name in conditions.CONDITIONS:
        file = run / "probe" / name / "metrics.json"
        content = json.loads(file.read_text())
        content["test"]["datasets"]["ks"]["scales"] = {"accuracy": {"high": None, "unit": "s"}}
        file.write_text(json.dumps(content))
    capsys.readouterr()
    conditions.summarise(run / "probe")
    assert "test: in percent or in the unit named, strict, as it is, without sound" in capsys.readouterr().out


def test_reuse_keeps_complete_conditions_only(run: Path, tests: list[list[str]]) -> None:
    assert main(["probe", str(run)]) == 0
    (run / "probe" / "no_vision" / "predictions" / ".parts-test").mkdir()
    tests.clear()
    assert main(["probe", str(run), "--reuse"]) == 0
    assert [Path(words[4]).name for words in tests] == ["no_vision"]
    (run / "probe" / "no_vision" / "predictions" / ".parts-test").rmdir()
    tests.clear()
    assert main(["probe", str(run), "--reuse", "--only", "ks"]) == 0  # other options: nothing is kept
    assert [Path(words[4]).name for words in tests] == list(conditions.CONDITIONS)
    tests.clear()
    (run / "adapter" / "adapter.json").write_text('{"kind": "ilora"}')  # other weights
    assert main(["probe", str(run), "--reuse", "--only", "ks"]) == 0
    assert len(tests) == len(conditions.CONDITIONS)
    tests.clear()
    assert main(["probe", str(run), "--reuse", "--only", "ks"]) == 0
    assert tests == []


def test_options_of_the_probe_itself_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", str(run), "--data.audio_swap=true"]) == 1
    assert "--data.audio_swap is set by `probe` itself" in capsys.readouterr().err
