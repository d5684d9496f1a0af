"""Parts of prediction files become one file for each dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.evaluation.prediction_files import PredictionFiles


def record(key: str, answer: str) -> dict[str, Any]:
    return {"id": key, "dataset": "a", "answer": answer}


def test_of_two_records_of_a_sample_the_first_is_kept_and_the_order_is_the_datas(tmp_path: Path) -> None:
    # A sampler repeats samples to keep processes in step: process 1 answers again what process 0 has scored.
    ranks = [PredictionFiles(tmp_path, "test", rank) for rank in (0, 1)]
    ranks[0].start({}, fresh=True)
    ranks[1].append([record("a/2", "of rank 1"), record("a/1", "repeated"), record("a/9", "not asked")])
    ranks[0].append([record("a/1", "of rank 0"), record("a/1", "said again")])
    for files in ranks:
        files.close()
    assert ranks[0].merge({"a": ["a/1", "a/3", "a/2"]}) == {"a": {"a/1", "a/2", "a/9"}}
    lines = (tmp_path / "predictions" / "a.jsonl").read_text().splitlines()
    found = [(line["id"], line["answer"]) for line in map(json.loads, lines)]
    assert found == [("a/1", "of rank 0"), ("a/2", "of rank 1"), ("a/9", "not asked")]


def test_an_answer_that_json_cannot_hold_is_named(tmp_path: Path) -> None:
    files = PredictionFiles(tmp_path, "test")
    files.start({}, fresh=True)
    with pytest.raises(ValueError, match=r"data\.datasets\.a: an answer that the task 't' has read, \{1\}"):
        files.append([record("a/1", "one") | {"task": "t", "parsed": {1}}])


def test_a_part_that_was_cut_off_in_a_line_is_never_appended_to(tmp_path: Path) -> None:
    first = PredictionFiles(tmp_path, "test")
    first.start({}, fresh=True)
    first.append([record("a/1", "one")])
    first.close()
    part = next(first.parts.glob("*.jsonl"))
    part.write_text(part.read_text() + '{"id": "a/2", "dat')
    again = PredictionFiles(tmp_path, "test")
    assert [said["id"] for said in again.resume({})] == ["a/1"]
    again.append([record("a/9", "z"), record("a/2", "two"), record("a/10", "y")])
    again.close()
    assert again.merge({"a": ["a/2"]}) == {"a": {"a/1", "a/2", "a/9", "a/10"}}
    lines = (tmp_path / "predictions" / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a/2", "a/1", "a/10", "a/9"]  # the rest sorted
