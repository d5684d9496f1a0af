"""Every library has a lower bound, which ``make test-lowest`` installs."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[1]


def test_every_library_of_the_suite_is_held_at_its_lower_bound() -> None:
    script = [sys.executable, str(REPO / ".ci" / "lowest.py")]
    held = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()
    config = configparser.ConfigParser()
    config.read(REPO / "setup.cfg", encoding="utf-8")
    wanted = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    lines = [
        line.strip() for line in wanted.splitlines() if line.strip() and not line.strip().startswith("#")
    ]
    names = {re.split(r"[\[<>=!~ ]", line)[0] for line in lines}
    assert {entry.partition("==")[0] for entry in held} == names
    assert len(held) == len(names)
    assert {"torch==2.11", "timm==1.0.16"} <= set(held)
