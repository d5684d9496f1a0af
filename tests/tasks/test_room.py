"""What the room gives out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from pydoc import locate

import yaml

import crab_lightning.tasks as room
from crab_lightning.tasks import Task


def test_every_public_name_is_there() -> None:
    for name in room.__all__:
        assert getattr(room, name) is not None


def test_every_task_of_the_shipped_config_is_there() -> None:
    for task in yaml.safe_load(Path("configs/data/av_uie_v2.yaml").read_text())["tasks"].values():
        found = locate(task["class_path"])
        assert isinstance(found, type)
        assert issubclass(found, Task)


def test_reading_manifests_does_not_load_torchmetrics() -> None:
    code = "import sys, crab_lightning.data.manifests.layout; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
