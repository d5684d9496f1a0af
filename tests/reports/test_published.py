"""The paper's figures: the data file against what the paper prints, and its keys against the package."""

from __future__ import annotations

from crab_lightning.data.manifests.layout import LAYOUTS
from crab_lightning.metrics.boxes import BoxIoU
from crab_lightning.reports.published import known_test_samples, published_figures


def of(table: str, row: str) -> dict[tuple[str, str], float]:
    return {(f.dataset, f.metric): f.percent for f in published_figures() if (f.table, f.row) == (table, row)}


def test_the_papers_own_row_is_whole_and_agrees_between_tables() -> None:
    whole = of("2", "Crab+")
    assert len(whole) == 26
    assert whole["ave", "segment_accuracy"] == 83.58
    assert whole["meld", "weighted_f1"] == 51.14
    for table in "3456":
        shared = {key: value for key, value in of(table, "Crab+").items() if key in whole}
        assert shared
        assert shared.items() <= whole.items()


def test_every_figure_is_a_percentage_of_a_known_dataset() -> None:
    for figure in published_figures():
        assert figure.dataset in LAYOUTS
        assert 0 < figure.percent < 100


def test_rows_of_other_mask_protocols_and_of_all_folds_are_marked() -> None:
    marked = {(f.row, f.dataset, f.metric) for f in published_figures() if f.not_comparable}
    assert {
        ("Crab", "ms3", "crabplus_j"),
        ("AVSBench", "s4", "crabplus_j"),
        ("DFER-CLIP", "dfew", "war"),
    } <= marked
    assert ("Crab+", "ms3", "crabplus_j") not in marked
    assert ("Crab", "ave", "segment_accuracy") not in marked


def test_metric_keys_are_those_of_the_metrics() -> None:
    assert {m for _, m in of("2", "GroundingGPT")} <= set(BoxIoU().compute())
    assert known_test_samples("ave") == 402
    assert known_test_samples("ks") is None
