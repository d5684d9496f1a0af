"""Reads the results in a run folder: the scores of each dataset and the scored answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crab_lightning.configuration.files import read_yaml
from crab_lightning.evaluation.prediction_files import read_records
from crab_lightning.files import read_json


@dataclass
class FinishedRun:
    """The results of one split of a run.

    Args:
        folder: The run folder.
        name: Short name, unique among the runs shown together.
        split: ``test`` or ``val``.
        summary: Entry of the split in ``metrics.json``.
        synthetic: Whether the data root of the run is Mini AV-UIE; ``None`` if this is not known.
    """

    folder: Path
    name: str
    split: str
    summary: dict[str, Any]
    synthetic: bool | None = None

    @property
    def datasets(self) -> dict[str, dict[str, Any]]:
        """The entry of each dataset, in the order of the run."""
        found: dict[str, dict[str, Any]] = self.summary["datasets"]
        return found

    def records(self, dataset: str) -> list[dict[str, Any]]:
        """Return the answers of a dataset; empty if the run wrote none.

        Raises:
            ValueError: If the file is damaged; the message names it and the line.
        """
        base = self.folder / "predictions"
        path = (base if self.split == "test" else base / self.split) / f"{dataset}.jsonl"
        if not path.is_file():
            return []
        records = list(read_records(path, is_whole=True))
        for number, record in enumerate(records, 1):
            score = record.get("score")
            if score is not None and not (isinstance(score, int | float) and 0 <= score <= 1):
                raise ValueError(
                    f"{path}, line {number}: 'score' is {score!r:.60}; a number from 0 to 1, or null, is"
                    " expected. Test the run again"
                )
        return records

    def scores(self, dataset: str, protocol: str = "strict") -> dict[str, float]:
        """Return the scores in [0, 1] of the answers that have one, by sample id.

        Args:
            dataset: Key of the dataset.
            protocol: With ``likelihood``, a score says whether the most probable candidate is right.
        """
        key = "choice_right" if protocol == "likelihood" else "score"
        return {r["id"]: float(r[key]) for r in self.records(dataset) if r.get(key) is not None}


class JoinedRuns(FinishedRun):
    """Several runs that count as one, each with the datasets on which it was tested.

    Args:
        parts: The runs, with results of one split.
        name: Name of the joined run.

    Raises:
        ValueError: If two runs were tested on the same dataset.
    """

    def __init__(self, parts: Sequence[FinishedRun], name: str) -> None:
        home: dict[str, FinishedRun] = {}
        for part in parts:
            for dataset in part.datasets:
                if dataset in home:
                    raise ValueError(
                        f"{home[dataset].folder} and {part.folder} were both tested on {dataset}; give "
                        "runs on different datasets"
                    )
                home[dataset] = part
        entries = {dataset: part.datasets[dataset] for dataset, part in home.items()}
        synthetic = {part.synthetic for part in parts}
        super().__init__(
            parts[0].folder,
            name,
            parts[0].split,
            {"datasets": entries},
            synthetic.pop() if len(synthetic) == 1 else None,
        )
        self.home = home

    def records(self, dataset: str) -> list[dict[str, Any]]:
        """Return the answers of a dataset, from the run that was tested on it."""
        return self.home[dataset].records(dataset) if dataset in self.home else []


def find_results(path: Path, split: str = "test") -> FinishedRun:
    """Read the results of a run folder, or of the newest run with results in a folder of runs.

    Args:
        path: A run folder, or a folder of ``version_N`` folders.
        split: ``test`` or ``val``.

    Raises:
        FileNotFoundError: If there is no such folder, or no metrics.json in it.
        ValueError: If metrics.json has no results of the split, or is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"there is no run folder {path}; give the folder of a run that `cli.py test` has tested"
        )
    versions = sorted(path.glob("version_*"), key=lambda p: p.stat().st_mtime, reverse=True)
    folder = next((p for p in (path, *versions) if (p / "metrics.json").is_file()), None)
    if folder is None:
        raise FileNotFoundError(
            f"no metrics.json in {path} or its version_* folders; test this run first (`test --ckpt_path"
            f" {path}`, or run_test in Python)"
        )
    content = _results_in(folder)
    if split not in content:
        older = next((p for p in versions if p != folder and split in _results_in(p)), None)
        raise ValueError(
            f"{folder / 'metrics.json'} has results of {', '.join(content) or 'nothing'}, not of '{split}';"
            f" run `cli.py {'test' if split == 'test' else 'validate'} --ckpt_path {folder}`, or give --split"
            + (f", or {older}, which has them" if older is not None else "")
        )
    return FinishedRun(folder, _name(folder), split, content[split])


def is_synthetic(folder: Path) -> bool | None:
    """Return whether a run used Mini AV-UIE; ``None`` if its config or its data root is missing."""
    configs = sorted(folder.glob("config*.yaml"), key=lambda p: p.stat().st_mtime)
    if not configs:
        return None
    content = read_yaml(configs[-1]) or {}
    root = Path(str((content.get("data") or {}).get("root", "")))
    return (root / "mini.json").is_file() if root.is_dir() else None


_ENTRY: dict[str, Any] = {"task": str, "layout": str, "strict": dict, "counts": dict, "headline": str | None}


def _value(entry: Any, key: str) -> Any:
    return entry.get(key, ...) if isinstance(entry, dict) else ...


def _results_in(folder: Path) -> dict[str, Any]:
    """Return the results of a run folder by split."""
    path = folder / "metrics.json"
    content = read_json(path, "Test the run again, or remove the file") if path.is_file() else {}
    if not all(isinstance(part, dict) for part in content.values()):
        raise ValueError(f"{path} does not contain the results of a run, by split")
    for split, part in content.items():
        entries = part.get("datasets")
        if not isinstance(entries, dict):
            raise ValueError(f"{path}: {split} has no datasets; test the run again")
        for name, entry in entries.items():
            wrong = [key for key, kind in _ENTRY.items() if not isinstance(_value(entry, key), kind)]
            if wrong:
                raise ValueError(f"{path}: {split}.datasets.{name} has no {wrong[0]}; test the run again")
    return content


def _name(folder: Path) -> str:
    """Return a short name for a run folder. ``version_N`` gets the name of the folder above, too."""
    if folder.name.startswith("version_"):
        return f"{folder.parent.name}/{folder.name}"
    if folder.parent.name == "earlier":  # a test that was moved within its run folder
        return f"{_name(folder.parent.parent)}/{folder.name}"
    return folder.name
