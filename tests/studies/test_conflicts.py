"""Agreement of gradients in the report of a study: planted values, and those of a real callback."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from crab_lightning.commands import main
from crab_lightning.dashboards.gradient_conflict import FOLDER, Conflict
from crab_lightning.studies.report import study_results
from crab_lightning.studies.study import Study, read_study
from tests.studies.conftest import study_file
from tests.studies.planted import plant
from tests.studies.test_transfer import NAMES, planted_scores

AGREEMENT = {"ks": 0.9, "ucf": 0.5, "ave": 0.1, "arig": -0.3, "avvp": -0.7}
"""In the order of the gains that ``planted_scores`` gives."""


def planted_conflict(seed: int, names: tuple[str, ...]) -> Conflict:
    own = np.array([AGREEMENT[name] for name in NAMES]) + (0.1 if seed else -0.1)
    cosines = (own[:, None] + own) / 2
    np.fill_diagonal(cosines, 1.0)
    parts = ("A", "B1", "B2", "router")
    return Conflict(
        50, tuple(NAMES), names, np.array([0, 0, 3, 3]), parts, np.stack([cosines] * 4), np.ones((4, 5))
    )


def planted_study(folder: Path, *, other_layers: bool = False) -> Study:
    places = {"tiny": folder / "tiny", "mini": folder / "mini"}
    study = read_study(study_file(folder, places, datasets=NAMES, seeds=[0, 1], arms={"ilora": {}}))
    plant(study, planted_scores, lambda cell, _: [3.0 if cell.regime == "single" else 2.0] * 12)
    for seed in (0, 1):
        names = tuple(f"layers.{seed if other_layers else 0}.part{i}" for i in range(4))
        folder = study.folder / f"cells/ilora.multi.seed{seed}" / FOLDER
        planted_conflict(seed, names).save(folder / "step-000050.npz")
        early = planted_conflict(seed, names)
        Conflict(**vars(early) | {"step": 2, "cosines": -early.cosines}).save(folder / "step-000002.npz")
    return study


def test_agreement_that_follows_the_gain_is_found(tmp_path: Path) -> None:
    (found,) = study_results(planted_study(tmp_path), resamples=100).conflicts
    assert (found.step, set(found.maps), set(found.depths)) == (50, {"A", "B", "router"}, {0, 3})
    i, j = NAMES.index("ks"), NAMES.index("avvp")
    assert found.maps["B"][i, j] == pytest.approx(0.1, abs=1e-6)  # the mean of two seeds
    assert found.agreement["ks"] == pytest.approx(np.mean([(0.9 + AGREEMENT[n]) / 2 for n in NAMES[1:]]))
    assert found.by_score.rho == pytest.approx(1.0)
    assert found.by_score.points == 5
    assert found.by_score.p == pytest.approx(2 / 120, abs=0.006)  # two of the 5! orders
    assert found.by_loss.rho is None  # all losses gain the same


def test_a_seed_that_was_measured_in_other_layers_is_left_out(tmp_path: Path) -> None:
    (found,) = study_results(planted_study(tmp_path, other_layers=True), resamples=100).conflicts
    assert found.maps["A"][0, 1] == pytest.approx((0.8 + 0.4) / 2, abs=1e-6)  # seed 0 alone


def test_conflict_pages_show_pictures_and_correlation(tmp_path: Path) -> None:
    study = planted_study(tmp_path)
    assert main(["study", "report", str(tmp_path / "tiny.yaml"), "--resamples", "100"]) == 0
    out = study.folder / "report"
    page = (out / "index.html").read_text()
    for name in ("conflict-ilora", "conflict-depth-ilora"):
        assert (out / f"{name}.png").stat().st_size > 5000
        assert f'datasets: {name}"' in page
    assert page.index("Why: agreement of gradients") < page.index('datasets: conflict-ilora"')
    (row,) = csv.DictReader((out / "conflict.csv").open())
    assert row["rho with gain (p)"].startswith("+1.00")
    assert row["pairs below 0"] == "40.00 %"  # arig and avvp with each other, and the two with ave or less


def test_a_real_study_measures_conflict_and_its_report_shows_it(finished: Path, tmp_path: Path) -> None:
    cells = read_study(finished).folder / "cells"
    assert not (
        cells / "ilora.single.avqa.seed0" / FOLDER
    ).exists()  # one dataset has no other to disagree with
    held = Conflict.load(cells / "ilora.multi.seed0" / FOLDER / "step-000002.npz")
    assert set(held.datasets) == {"avqa", "dfew"}
    assert np.isfinite(held.cosines).any()
    assert main(["study", "report", str(finished), "--out", str(tmp_path), "--resamples", "100"]) == 0
    rows = {row["arm"]: row for row in csv.DictReader((tmp_path / "conflict.csv").open())}
    assert set(rows) == {"lora", "ilora"}
    assert rows["lora"]["router"] == ""
    assert float(rows["ilora"]["B"]) == pytest.approx(held.mean("B")[0, 1], abs=6e-4)
    assert rows["ilora"]["rho with gain (p)"] == ""  # two datasets have no correlation
    assert (tmp_path / "conflict-lora.png").is_file()
