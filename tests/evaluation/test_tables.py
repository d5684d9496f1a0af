"""The first table that a person sees: one row a dataset, 80 columns, and honest words under it."""

from __future__ import annotations

import io
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from crab_lightning.evaluation import tables
from crab_lightning.evaluation.tables import print_results, results_table, summary_table
from crab_lightning.program import print_table


def entry(strict: float, valid: float | None, majority: float | None, **more: Any) -> dict[str, Any]:
    key = "segment_accuracy"
    return {
        "task": "event_localization", "layout": "ave", "headline": key, "scales": {}, "note": None,
        "strict": {key: strict}, "valid_only": {} if valid is None else {key: valid},
        "majority": {} if majority is None else {key: majority}, "likelihood": {}, "calibration": None,
        "counts": {"scored": 12_345, "unparsed": 1234, "truncated": 0, "missing": 0, "loss_samples": 0},
        "loss": 1.25, "unparsed_score": 0.8,
    } | more  # fmt: skip


def drawn(results: dict[str, dict[str, Any]], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_table(summary_table(results, "test"), console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_table_fits_80_columns_and_cuts_no_number() -> None:
    results = {f"avqa_thu{n}": entry(1.0, 1.0, 1.0) for n in range(3)}
    results = {k: v | {"likelihood": {"segment_accuracy": 1.0}} for k, v in results.items()}
    text = drawn(results)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("100.00") == 4 * 4
    assert text.count("12,345") == 3
    for heading in ("strict", "valid", "majority", "likeli-", "answers", "unread-"):
        assert heading in text


def test_no_terminal_is_so_narrow_that_a_cell_is_cut() -> None:
    results = {"avqa_thu": entry(1.0, 1.0, 1.0)}
    for width in (60, 40, 20):
        text = drawn(results, width)
        assert "…" not in text
        assert text.count("100.00") == 3
        assert {"segment_accu", "racy"} <= set(text.split())
    mixture = Table(box=SIMPLE, padding=0, show_footer=True)
    for heading, footer in (("task", ""), ("share", "100.0 %")):
        mixture.add_column(heading, footer=footer)
    mixture.add_row("event_localization", "1 %")
    console = Console(file=io.StringIO(), width=10)
    print_table(mixture, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "event_localization" in text
    assert "100.0 %" in text


def test_a_long_name_of_a_metric_takes_more_lines_and_no_column_of_numbers() -> None:
    scale = {"higher_is_better": False, "low": 0.0, "high": None, "unit": "seconds", "counts_as": None}
    text = drawn({"mine": entry(1.0, 1.0, 1.0) | {"scales": {"segment_accuracy": scale}}})
    assert "in percent or in the unit named" in " ".join(text.split())
    assert "unread-" in text
    assert "…" not in text
    every = results_table({"mine": entry(1.0, 1.0, 1.0) | {"scales": {"segment_accuracy": scale}}}, "test")
    assert str(every.title).startswith("test: in percent or in the unit named, strict")
    assert "1.00" in text


def test_mean_row_is_over_datasets_that_have_every_column() -> None:
    results = {
        "a": entry(0.9, 0.9, 0.1),
        "b": entry(0.5, 0.7, 0.3),
        "c": entry(0.0, None, 0.5),  # no readable answer: no value among the valid ones
    }
    [mean] = [line for line in drawn(results).splitlines() if line.strip().startswith("mean")]
    assert "of 2 of 3" in mean
    assert mean.split()[-4:-1] == ["70.00", "80.00", "20.00"]


def test_points_that_unreadable_answers_earn_are_told(monkeypatch: Any) -> None:
    console = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(tables, "Console", lambda **_: console)
    print_results(
        {"ave": entry(0.5, 0.4, 0.1), "ks": entry(0.5, 0.5, 0.1, unparsed_score=0.0)},
        "test",
        1.5,
        more="More.",
    )
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "scored as an empty prediction" in text
    assert "scored as an empty prediction, gets on average (percent): ave 80.0." in text
    assert "1.50 answers per second" in text
    assert text.endswith("More.")


def test_the_primary_metric_of_a_dataset_comes_first() -> None:
    strict = {"aaa": 0.25, "segment_accuracy": 0.5, "zzz": 0.75, "per_class": [0.1]}
    table = results_table({"ave": entry(0.5, 0.5, 0.1) | {"strict": strict}}, "test")
    assert list(table.columns[2].cells) == ["[bold]segment_accuracy[/bold]", "aaa", "zzz"]
    assert list(table.columns[3].cells) == ["50.00", "25.00", "75.00"]
