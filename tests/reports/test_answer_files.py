"""Answer files as text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.reports.answer_files import JoinError, join_answers, read_answers
from crab_lightning.reports.runs import FinishedRun
from crab_lightning.structures import Sample


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
        JoinError, match=r"line 2 of 2 is not JSON.* The file was cut off there: remove the line"
    ):
        read_answers(path)


def test_a_line_with_a_key_twice_was_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"answer": "x"}\n{"answer": "x", "answer": "y"}')
    with pytest.raises(JoinError, match=r"line 2 of 2 has the key 'answer' twice .*Keep one of the two\.$"):
        read_answers(path)


def test_an_empty_file_and_a_line_without_answer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n")
    with pytest.raises(JoinError, match="contains no answers"):
        read_answers(path)
    for line, said in (
        ('{"id": 1}', "line 1: the keys are id; a text under 'answer'"),
        ('{"id": 1, "answer": 5}', "line 1: 'answer' is a number; a text under 'answer'"),
        ('{"id": 1, "predict": null}', "line 1: 'predict' is null; a text under 'answer'"),
        ("3", "line 1 is a number; an object with 'answer' is expected"),
        ("id,answer", "line 1 of 2 is not JSON: .* Each line must be an object, for example"),
    ):
        path.write_text(f"{line}\n{line}\n")
        with pytest.raises(JoinError, match=said):
            read_answers(path)
    path.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(JoinError, match="is not UTF-8 text; unpack it if it is compressed"):
        read_answers(path)


def row(key: str, layout: str, **more: Any) -> Sample:
    return Sample(id=key, dataset=layout, task="t", split="test", clip=key, **more)


def test_a_frame_is_found_by_clip_and_number_whatever_the_root() -> None:
    rows = [row(clip, "arig", images=(Path(f"/here/{clip}/frames/0.jpg"),)) for clip in ("one", "two")]
    said = [{"frame_path": f"/there/{clip}/frames/0.jpg", "predict": clip} for clip in ("two", "one")]
    joined = join_answers(said, rows, "arig", "arig", lambda _: "")
    assert joined.per_sample
    assert {key: record["predict"] for key, record in joined.answers.items()} == {"one": "one", "two": "two"}


def test_what_a_script_writes_before_a_question_does_not_part_it_from_its_row() -> None:
    rows = [row(f"q{i}", "avqa_thu", videos=(Path("v.mp4"),)) for i in (0, 1)]
    said = [{"vid": "v", "instruction": f"Look. Please answer: q{i}", "predict": str(i)} for i in (1, 0)]
    joined = join_answers(said, rows, "avqa_thu", "avqa_thu", lambda s: f"Please answer: {s.id}")
    assert (joined.per_sample, joined.unmatched) == (True, 0)
    assert {key: record["predict"] for key, record in joined.answers.items()} == {"q0": "0", "q1": "1"}


def test_a_second_run_that_says_the_same_in_the_same_order_is_no_conflict() -> None:
    rows = [row(key, "ks", reference="dog") for key in ("a", "b")]
    said = [{"output": "dog", "predict": text} for text in ("dog", "cat", "dog", "cat")]
    joined = join_answers(said, rows, "ks", "ks", lambda _: "")
    assert (joined.duplicates, joined.conflicts, joined.per_sample) == (2, 0, False)
    said[0]["predict"] = "horn"
    assert join_answers(said, rows, "ks", "ks", lambda _: "").conflicts == 1
