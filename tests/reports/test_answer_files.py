"""Answer files as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crab_lightning.reports.answer_files import JoinError, read_answers
from crab_lightning.reports.runs import FinishedRun


def test_line_separators_inside_an_answer_do_not_part_it(tmp_path: Path) -> None:
    record = {"id": "ks/test/0", "answer": "one\u2028two\x85three", "score": 1.0}
    (tmp_path / "predictions").mkdir()
    path = tmp_path / "predictions" / "ks.jsonl"
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_answers(path) == [record]
    assert FinishedRun(tmp_path, "run", "test", {}).records("ks") == [record]


def test_a_line_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"answer": "x"}\n{"answ')
    with pytest.raises(
        JoinError, match=r"line 2 of 2: not JSON .* The run was cut off there: remove the line"
    ):
        read_answers(path)


def test_an_empty_file_and_a_line_without_answer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n")
    with pytest.raises(JoinError, match="holds no answers"):
        read_answers(path)
    path.write_text('{"id": 1}\n')
    with pytest.raises(JoinError, match="line 1: expected an object with 'answer'"):
        read_answers(path)
