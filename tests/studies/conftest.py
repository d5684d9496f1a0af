"""A tiny finished study, made once, and what writes studies whose answers are known."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def study_file(folder: Path, small: dict[str, Path], **changes: Any) -> Path:
    """Write the file of a study that a tiny checkpoint can run."""
    content: dict[str, Any] = {
        "root": str(folder / "studies"),
        "base": str(CONFIGS / "demo.yaml"),
        "overlay": {
            "model": {
                "init_args": {
                    "pretrained": str(small["tiny"]),
                    "adapter": {"rank": 2, "alpha": 4},
                    "max_new_tokens": 4,
                }
            },
            "data": {
                "root": str(small["mini"]),
                "num_workers": 0,
                "val_share": 0.3,
                "val_generate_per_dataset": 0,
                "epoch_size": 8,
                "batch_size": 2,
            },
            "checkpoint": {"monitor": None, "every_n_steps": 1},
            "evaluator": {"print_table": False, "majority": False},
            "trainer": {
                "callbacks": [
                    {
                        "class_path": "crab_lightning.dashboards.GradientConflict",
                        "init_args": {"at_steps": [2], "samples": 1},
                    }
                ]
            },
        },
        "datasets": ["avqa", "dfew"],
        "arms": {
            "lora": {
                "model": {"init_args": {"adapter": {"kind": "lora"}}},
                "data": {"datasets": {"*": {"target": "direct"}}},
            },
            "ilora": {},
        },
        "regimes": {"single": "each", "multi": "all"},
        "seeds": [0],
        "equal": {"epochs": 1},
    }
    path = folder / "tiny.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session", autouse=True)
def server() -> None:
    """Start the one server that forks cells for all tests with what real cells need imported."""
    from multiprocessing import forkserver

    from crab_lightning.commands.study import PRELOAD

    multiprocessing.get_context("forkserver").set_forkserver_preload(["__main__", *PRELOAD])
    forkserver.ensure_running()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, small: dict[str, Path]) -> Path:
    """The file of a study of six cells that two jobs have made."""
    from crab_lightning.commands import main

    path = study_file(tmp_path_factory.mktemp("study"), small)
    assert main(["study", "run", str(path), "--jobs", "2"]) == 0
    return path
