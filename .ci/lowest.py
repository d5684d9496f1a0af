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
    highest: dict[str, tuple[int, ...]] = {}  # two extras may need one library
    for name, version in _BOUND.findall(wanted):
        highest[name] = max(highest.get(name, ()), tuple(map(int, version.split("."))))
    return [f"{name}=={'.'.join(map(str, version))}" for name, version in highest.items()]


if __name__ == "__main__":
    print("\n".join(constraints(Path(__file__).parents[1].joinpath("setup.cfg").read_text(encoding="utf-8"))))
