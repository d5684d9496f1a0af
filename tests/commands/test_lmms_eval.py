"""The task files for lmms-eval are read as it reads them, ask our questions, and our `score` scores them."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from crab_lightning.commands import main
from crab_lightning.structures import Media


@pytest.fixture(scope="module")
def folder(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lmms") / "tasks"
    assert main(["data", "lmms-eval", "--root", str(small["mini"]), "--out", str(out)]) == 0
    return out


def loaded(path: Path) -> Any:
    """Read a task file as lmms-eval's ``load_yaml_config`` does: names of functions become functions."""

    class Loader(yaml.FullLoader):
        pass

    def function(loader: Any, node: Any) -> Any:
        module, name = loader.construct_scalar(node).split(".")
        spec = importlib.util.spec_from_file_location(module, path.parent / f"{module}.py")
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        return getattr(made, name)

    Loader.add_constructor("!function", function)
    return yaml.load(path.read_text(encoding="utf-8"), Loader)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_test_set_is_a_task_that_asks_our_questions(folder: Path, small: dict[str, Path]) -> None:
    from crab_lightning.configuration.sections import one_dataset, read_rows_of

    group = yaml.safe_load((folder / "crab_lightning.yaml").read_text())
    assert len(group["task"]) == 16
    for name in group["task"]:
        task = loaded(folder / f"{name}.yaml")
        key = name.removeprefix("crab_lightning_")
        file = Path(task["dataset_kwargs"]["data_files"][task["test_split"]])
        docs = rows(file)
        data = one_dataset("data/av_uie_v2.yaml", small["mini"], key)
        spec, _, samples = read_rows_of(data, key)
        assert [doc["id"] for doc in docs] == [sample.id for sample in samples]
        assert all(set(map(type, doc.values())) == {str} for doc in docs), "one type for the JSON reader"
        for doc, sample in list(zip(docs, samples, strict=True))[:3]:
            asked = data.tasks[spec.task].prompt(sample)
            content = task["doc_to_messages"](doc)[0]["content"]
            kinds = [part.value if isinstance(part, Media) else "text" for part in asked]
            assert [part["type"] for part in content] == kinds
            urls = [part["url"] for part in content if part["type"] != "text"]
            assert sorted(urls) == sorted(map(str, (*sample.videos, *sample.images, *sample.audios)))
            assert all(Path(url).is_file() for url in urls)
            text = task["doc_to_text"](doc)
            assert text.split("\n")[-1] in str(asked[-1])
            assert str(small["mini"]) not in text


def test_media_are_given_in_the_types_that_models_take(folder: Path) -> None:
    image = loaded(folder / "crab_lightning_arig.yaml")
    with pytest.MonkeyPatch.context() as patch:
        librosa = type(sys)("librosa")
        librosa.load = lambda path, sr, mono: ([0.0] * sr, sr)  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "librosa", librosa)
        found = image["doc_to_visual"](rows(folder / "arig.jsonl")[0])
    assert {type(one).__name__ for one in found} == {"Image", "dict"}
    video = loaded(folder / "crab_lightning_ks.yaml")
    doc = rows(folder / "ks.jsonl")[0]
    parts = [part for part in json.loads(doc["content"]) if part["type"] == "video"]
    assert parts
    assert not Path(parts[0]["path"]).is_absolute(), "the root may move"
    assert video["generation_kwargs"]["until"] == ["<|im_end|>"]


def test_answers_are_scored_by_our_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = loaded(folder / "crab_lightning_ks.yaml")
    docs = rows(folder / "ks.jsonl")
    metric = task["metric_list"][0]
    wrong = {docs[0]["id"]}
    items = [
        task["process_results"](doc, ["nothing" if doc["id"] in wrong else task["doc_to_target"](doc)])
        for doc in docs
    ]
    answers = [item[metric["metric"]] for item in items]
    assert math.isnan(metric["aggregation"](answers))
    assert "Score them with: crab-lightning score --root" in capsys.readouterr().out
    monkeypatch.setenv("CRAB_LIGHTNING", f"{sys.executable} -m crab_lightning")
    assert metric["aggregation"](answers) == pytest.approx(1 - 1 / len(docs))
    results = json.loads((folder / "scores/metrics.json").read_text())["test"]["datasets"]
    assert results["ks"]["strict"]["accuracy"] == pytest.approx(1 - 1 / len(docs)), "compare reads this"
    monkeypatch.setenv("CRAB_LIGHTNING", f"{sys.executable} -c raise(SystemExit(3))")
    with pytest.raises(RuntimeError, match="could not score"):
        metric["aggregation"](answers)


def test_explained_questions_are_read_leniently(
    small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--root", str(small["mini"]), "--only", "ks,unav"]
    assert main(["data", "lmms-eval", *words, "--out", str(tmp_path / "out"), "--explain"]) == 0
    assert "unav: left out, since there is no test file" in capsys.readouterr().out
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert settings["lenient"] == ["ks"]
    text = loaded(tmp_path / "out/crab_lightning_ks.yaml")["doc_to_text"](rows(tmp_path / "out/ks.jsonl")[0])
    assert "<answer>" in text
    assert main(["data", "lmms-eval", *words, "--out", str(tmp_path / "out")]) == 1
    assert "exists already" in capsys.readouterr().err
    words = ["--root", str(small["mini"]), "--only", "unav", "--out", str(tmp_path / "none")]
    assert main(["data", "lmms-eval", *words]) == 1
    assert "none of the datasets has a test file" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_lmms_eval_itself_reads_the_folder(folder: Path) -> None:
    tasks = pytest.importorskip("lmms_eval.tasks")
    manager = tasks.TaskManager(include_path=str(folder), include_defaults=False)
    found = manager.load_task_or_group(["crab_lightning_ks"], task_type="chat")
    task = found["crab_lightning_ks"]
    assert task.task_docs[0]["id"].startswith("ks/")
    assert task.doc_to_messages(task.task_docs[0])[0]["role"] == "user"
