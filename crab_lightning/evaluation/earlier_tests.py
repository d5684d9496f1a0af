"""Keeps one test in a run folder; an earlier test with other settings is moved to a sub-folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from crab_lightning import __version__
from crab_lightning.evaluation.metric_values import mean_headline
from crab_lightning.files import DamagedFileError, free_place, read_json, replace_json

METRICS = "metrics.json"
FOLDER = "earlier"

# Pictures of a test: masks, sheets and overlays of masks, and sheets of samples.
_PICTURES = ("masks", "figures/test", "figures/*_masks.png")


def set_aside(folder: Path, identity: Mapping[str, Any], *, whole: bool) -> Path | None:
    """Move the test in a run folder to ``earlier/test-<n>``, unless the new test replaces it.

    The new test replaces it if all settings that decide the answers are equal (settings, weights, datasets),
    and the new test does not use a smaller part of the split. ``compare`` and ``report`` can read the new
    folder like a run folder.

    Args:
        folder: The run folder.
        identity: Settings that decide the answers of the new test.
        whole: Whether the new test uses the whole split.

    Returns:
        The folder of the earlier test; ``None`` if there is none, or if the new test replaces it.
    """
    path = folder / METRICS
    content = read_metrics(path)
    if "test" not in content:
        return None
    before = content["test"]
    if before.get("identity", {}) == dict(identity) and (whole or not before.get("whole_split")):
        return None
    place = free_place(folder / FOLDER, "test")
    (place / "predictions").mkdir(parents=True)
    patterns = ("predictions/*.jsonl", *_PICTURES, *(f"figures/{name}" for name in before["datasets"]))
    for found in [p for pattern in patterns for p in sorted(folder.glob(pattern))]:
        target = place / found.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(found, target)
    if (folder / "config.yaml").is_file():
        shutil.copy(folder / "config.yaml", place / "config.yaml")
    replace_json(place / METRICS, {"test": content.pop("test")})
    # This is the last step: if the process is stopped before, the next call moves the remaining files.
    replace_json(path, content)
    return place


def write_metrics(
    folder: Path, split: str, results: dict[str, dict[str, Any]], about: Mapping[str, Any]
) -> None:
    """Write the results of a split into ``metrics.json`` of a run; results of other splits are kept.

    Args:
        folder: The run folder.
        split: ``val`` or ``test``.
        results: Dataset -> entry with its results.
        about: Further entries for the split, such as step and settings.
    """
    content = read_metrics(folder / METRICS)
    content[split] = {
        **about,
        "made": {"date": datetime.now(UTC).isoformat(timespec="seconds"), "version": __version__},
        "mean": {
            "headline": mean_headline(results),
            "headline_valid_only": mean_headline(results, "valid_only"),
            "headline_majority": mean_headline(results, "majority"),
        },
        "datasets": results,
    }
    replace_json(folder / METRICS, content)


def read_metrics(path: Path) -> dict[str, Any]:
    """Return the content of ``metrics.json``; a damaged file is renamed, with a warning.

    Args:
        path: The file; it need not exist.

    Returns:
        The content; empty if the file does not exist or was damaged.
    """
    try:
        return read_json(path, "")
    except FileNotFoundError:
        return {}
    except DamagedFileError:
        pass
    damaged = path.with_name(f"{path.name}.damaged")
    path.replace(damaged)
    rank_zero_warn(
        f"{path} was damaged, perhaps by a full disk, and was renamed to {damaged}. Run `validate` and `test`"
        f" again if you need the other results that it contained."
    )
    return {}
