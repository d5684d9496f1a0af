"""What the room gives out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

import crab_lightning.tasks as room
from crab_lightning.tasks import Task


def test_every_public_name_is_there() -> None:
    for name in room.__all__:
        assert getattr(room, name) is not None


def test_every_concrete_task_has_its_class_in_the_room() -> None:
    names = [
        n for n in room.__all__ if isinstance(getattr(room, n), type) and issubclass(getattr(room, n), Task)
    ]
    shipped = yaml.safe_load(Path("configs/data/av_uie_v2.yaml").read_text())["tasks"].values()
    assert {task["class_path"].rpartition(".")[2] for task in shipped} <= set(names)


def test_reading_manifests_does_not_load_torchmetrics() -> None:
    code = "import sys, crab_lightning.data.manifests.layout; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
