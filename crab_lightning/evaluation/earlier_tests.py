"""A run folder holds one test; one with other settings is set aside, not overwritten and not mixed in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from crab_lightning import __version__
from crab_lightning.evaluation.scores import mean_headline
from crab_lightning.files import DamagedFileError, free_place, read_json, replace_json

METRICS = "metrics.json"
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
    # Last: a process killed before this line finds the test still listed and sets the rest aside.
    replace_json(path, content)
    return place


def write_metrics(
    folder: Path, split: str, results: dict[str, dict[str, Any]], about: Mapping[str, Any]
) -> None:
    """Write the results of a split into a run's ``metrics.json``; those of other splits stay.

    Args:
        folder: The run folder.
        split: ``val`` or ``test``.
        results: Dataset -> its entry.
        about: What else is said of the pass over the split.
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
    """Return what a run's ``metrics.json`` holds; a damaged one is set aside, since a test makes it again.

    Args:
        path: The file; it may be absent.
    """
    try:
        content = read_json(path, "")
    except FileNotFoundError:
        return {}
    except DamagedFileError:
        content = None
    if isinstance(content, dict):
        return content
    damaged = path.with_name(f"{path.name}.damaged")
    path.replace(damaged)
    rank_zero_warn(
        f"{path} was damaged, perhaps by a full disk; it is now {damaged}. Run `validate` and `test`"
        f" again for the results of other splits that it held."
    )
    return {}
