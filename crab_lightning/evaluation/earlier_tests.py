"""A run folder holds one test; one with other settings is set aside, not overwritten and not mixed in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "earlier"

# Pictures of a test: masks, their sheets and overlays, and the sheets of samples. Those of validations stay.
_PICTURES = ("masks", "figures/test", "figures/*_masks.png")


def set_aside(folder: Path, identity: Mapping[str, Any], *, whole: bool) -> Path | None:
    """Move the test that a run folder holds to ``earlier/test-<n>``, unless the coming one replaces it.

    It is replaced when nothing that decides answers differs (settings, weights, datasets), and the coming one
    does not see less of the split. What is set aside reads like a run folder, for ``compare`` and ``report``.

    Args:
        folder: The run folder.
        identity: What decides the answers of the coming test.
        whole: Whether it sees the whole split.

    Returns:
        Where the earlier test is now; ``None`` when there is none, or when it is to be replaced.
    """
    path = folder / "metrics.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "test" not in content:
        return None
    before = content["test"]
    if before.get("identity", {}) == dict(identity) and (whole or not before.get("whole_split")):
        return None
    place = _free(folder / FOLDER)
    (place / "predictions").mkdir(parents=True)
    patterns = ("predictions/*.jsonl", *_PICTURES, *(f"figures/{name}" for name in before["datasets"]))
    for found in [p for pattern in patterns for p in sorted(folder.glob(pattern))]:
        target = place / found.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(found, target)
    if (folder / "config.yaml").is_file():
        shutil.copy(folder / "config.yaml", place / "config.yaml")
    _write(place / "metrics.json", {"test": content.pop("test")})
    # Last: a process killed before this line finds the test still listed and sets the rest aside.
    _write(path, content)
    return place


def _free(home: Path) -> Path:
    number = 0
    while (home / f"test-{number}").exists():
        number += 1
    return home / f"test-{number}"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
