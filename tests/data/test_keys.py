"""The choice of rows by name."""

from __future__ import annotations

import pytest

from crab_lightning.data.manifests.keys import check_datasets, chosen_datasets
from crab_lightning.structures import DatasetSpec
from crab_lightning.tasks import EventParsing, OpenAnswer

ROWS = {name: DatasetSpec(task="t", layout=name) for name in ("ave", "avvp", "ks")}


def test_only_keeps_the_named_rows_in_the_order_of_the_rows() -> None:
    assert list(chosen_datasets(ROWS, ["ks", "ave"])) == ["ave", "ks"]


def test_without_only_all_rows_stay() -> None:
    assert chosen_datasets(ROWS, None) == ROWS


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError,
        match=r"data\.only names 'avee' \(did you mean 'ave'\?\); data\.datasets has: ave, avvp, ks",
    ):
        chosen_datasets(ROWS, ["avee"])


def test_an_empty_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="name at least one dataset"):
        chosen_datasets(ROWS, [])


def test_a_name_that_the_command_line_reads_as_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="has the key 'null', which the command line reads as null"):
        check_datasets({"t": None}, {"null": DatasetSpec("t", "plain")})
    check_datasets({"t": None}, {name: DatasetSpec("t", "plain") for name in ("1", "true", "on")})


def test_metrics_are_refused_where_the_task_reads_no_names() -> None:
    row = DatasetSpec("t", "plain", metrics=["exact"])
    check_datasets({"t": OpenAnswer()}, {"mine": row})
    with pytest.raises(
        ValueError, match=r"mine\.metrics is \['exact'\], and the task 't' does not read such"
    ):
        check_datasets({"t": EventParsing()}, {"mine": row})
