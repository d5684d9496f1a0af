"""Which of several versions of a run is read, and what is known of runs read as one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crab_lightning.reports.runs import FinishedRun, JoinedRuns, find_results


def test_the_newest_version_with_results_is_read(tmp_path: Path) -> None:
    for age, number in enumerate((2, 0, 1)):  # version_0 is newer than version_1, and version_2 the newest
        folder = tmp_path / f"version_{number}"
        folder.mkdir()
        split = "val" if number == 2 else "test"
        (folder / "metrics.json").write_text(json.dumps({split: {"datasets": {}}}))
        os.utime(folder, (1000 - age, 1000 - age))
    assert find_results(tmp_path, "val").folder.name == "version_2"
    with pytest.raises(ValueError, match=r"has results of val, not of 'test'.*version_0, which has them"):
        find_results(tmp_path)


@pytest.mark.parametrize(
    ("known", "whole"), [((True, True), True), ((True, False), None), ((False, None), None), ((None,), None)]
)
def test_runs_read_as_one_are_synthetic_where_all_are(known: tuple[bool | None, ...], whole: bool) -> None:
    parts = [
        FinishedRun(Path(str(n)), str(n), "test", {"datasets": {f"d{n}": {}}}, synthetic)
        for n, synthetic in enumerate(known)
    ]
    assert JoinedRuns(parts, "both").synthetic is whole
