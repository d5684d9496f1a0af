"""Print the lowest library versions that setup.cfg allows, as constraints for pip."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

_BOUND = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*])?>=([0-9.]+)", re.MULTILINE)


def constraints(text: str) -> list[str]:
    """Return ``name==version`` for every lower bound of the package and of its extra ``test``."""
    config = configparser.ConfigParser()
    config.read_string(text)
    wanted = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    return [f"{name}=={version}" for name, version in _BOUND.findall(wanted)]


if __name__ == "__main__":
    print("\n".join(constraints(Path(__file__).parents[1].joinpath("setup.cfg").read_text(encoding="utf-8"))))
