"""Runs side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from crab_lightning.commands import main
from crab_lightning.reports.runs import find_results


def write_run(
    folder: Path, dataset: str, scores: Sequence[float], metric: str = "segment_accuracy", **more: str
) -> Path:
    mean = sum(scores) / len(scores)
    entry = {
        "task": "event_localization",
        "layout": more.get("layout", dataset),
        "headline": metric,
        "strict": {metric: float(more.get("value", mean)), "other": 0.5},
        "valid_only": {metric: mean + 0.1, "other": 0.5},
        "counts": {"scored": len(scores), "unparsed": 0, "truncated": 0, "missing": 0},
    }
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"test": {"datasets": {dataset: entry}}}))
    lines = [json.dumps({"id": f"{dataset}/{i}", "score": s}) + "\n" for i, s in enumerate(scores)]
    (folder / "predictions" / f"{dataset}.jsonl").write_text("".join(lines))
    return folder


def compare(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    status = main(["compare", *words])
    said = capsys.readouterr()
    return said.err if status else said.out


def test_difference_and_interval_stand_beside_the_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_run(tmp_path / "a", "ave", [0.5] * 60)
    b = write_run(tmp_path / "b", "ave", [0.6] * 60)
    out = compare(capsys, str(a), str(b), "--format", "markdown")
    assert "| AVE | segment_accuracy | 60 | 50.00 | 60.00 | +10.00 [+10.00, +10.00]* |" in out
    assert "| other" not in out
    assert "other" in compare(capsys, str(a), str(b), "--all-metrics")


def test_a_metric_that_is_no_mean_over_samples_has_no_interval_without_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_run(tmp_path / "a", "dfew", [0.0, 1.0], "uar", value="0.4")
    b = write_run(tmp_path / "b", "dfew", [1.0, 0.0], "uar", value="0.4")
    out = compare(capsys, str(a), str(b))
    assert "(1) there is no interval, because the manifests are needed to score resamples" in out
    assert " 0.00(1)" in out


def test_figures_of_the_paper_are_marked_where_the_test_split_is_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = write_run(tmp_path / "small", "ave", [0.5] * 10)
    whole = write_run(tmp_path / "whole", "ave", [0.5] * 402)
    assert "83.58†(1)" in compare(capsys, str(small), "--published")
    assert "the paper's test split has 402 samples, and the runs answered 10" in compare(
        capsys, str(small), "--published"
    )
    out = compare(capsys, str(whole), "--published")
    assert "83.58†" not in out
    assert "83.58" in out


def test_synthetic_data_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", "ks", [1.0] * 9, "accuracy")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mini.json").write_text("{}")
    (run / "config.yaml").write_text(f"data: {{root: {tmp_path / 'root'}}}")
    out = compare(capsys, str(run), "--published", "Crab+", "CAL")
    assert "91.12†(1)" in out
    assert "74.82†(1)" in out
    assert "synthetic (Mini AV-UIE)" in out


def test_valid_only_has_no_interval_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (write_run(tmp_path / n, "ave", [0.5] * 4) for n in "ab")
    out = compare(capsys, str(a), str(b), "--protocol", "valid_only")
    assert "60.00" in out
    assert "There are no intervals" in out


def test_likelihood_is_compared_by_the_chosen_candidates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for name, right in (("a", False), ("b", True)):
        run = write_run(tmp_path / name, "ks", [0.0] * 6, "accuracy")
        content = json.loads((run / "metrics.json").read_text())
        entries = content["test"]["datasets"]
        entries["ave"] = entries["ks"] | {"layout": "ave"}  # open answers: nothing was weighed
        entries["ks"] = entries["ks"] | {"likelihood": {"accuracy": float(right)}}
        (run / "metrics.json").write_text(json.dumps(content))
        file = run / "predictions" / "ks.jsonl"
        lines = [json.loads(line) | {"choice_right": right} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        runs.append(str(run))
    out = compare(capsys, *runs, "--protocol", "likelihood", "--format", "markdown")
    assert "| Kinetics-Sounds | accuracy | 6 | 0.00 | 100.00 | +100.00 [+100.00, +100.00]* |" in out
    assert "AVE" not in out


def test_test_that_was_set_aside_is_named_with_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "demo/version_0/earlier/test-1"
    write_run(folder, "ks", [1.0], "accuracy")
    assert find_results(folder).name == "demo/version_0/test-1"


def test_runs_without_common_samples_get_no_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_run(tmp_path / "a", "ave", [0.5] * 4)
    b = write_run(tmp_path / "b", "other", [0.5] * 4, layout="ave")
    out = compare(capsys, str(a), str(b), "--format", "csv")
    assert [line.split(",")[3:] for line in out.splitlines()[1:]] == [
        ["50.00", "", ""],
        ["", "50.00", ""],
    ]


def test_few_samples_get_no_star(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (write_run(tmp_path / name, "ave", [score] * 5) for name, score in (("a", 0.2), ("b", 0.8)))
    out = compare(capsys, str(a), str(b))
    assert "+60.00 [+60.00, +60.00](1)" in out
    assert "(1) with fewer than 6 samples, every difference may be chance." in out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '{"id": "ave/0", "score": NaN}',
            "line 2: 'score' is nan; a number from 0 to 1, or null, is expected",
        ),
        ('{"id": "ave/0", "score": 1e30}', "line 2: 'score' is 1e+30; a number from 0 to 1"),
        ('{"id": "ave/0", "score": "high"}', "line 2: 'score' is 'high'; a number from 0 to 1"),
        ('{"id": "ave/0", "score": 0', "line 2 is not JSON"),
        ("[]", "line 2 is not a record with an 'id'"),
        (b'{"id": "\xe9"}', "is not UTF-8 text (invalid continuation byte, after line"),
    ],
)
def test_damaged_answers_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str | bytes, said: str
) -> None:
    a, b = (write_run(tmp_path / name, "ave", [0.5]) for name in "ab")
    file = b / "predictions/ave.jsonl"
    file.write_bytes(file.read_bytes() + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    for command in (["compare", str(a), str(b)], ["report", str(b)]):
        assert main(command) == 1
        err = capsys.readouterr().err
        assert f"{file}" in err
        assert said in err


def test_errors_say_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", "ave", [0.5])
    assert "gone; give the folder of a run that `cli.py test`" in compare(capsys, str(tmp_path / "gone"))
    assert "has results of test, not of 'val'" in compare(capsys, str(run), "--split", "val")
    assert "no run has scores for --protocol likelihood; `test --evaluator.decoding both`" in compare(
        capsys, str(run), "--protocol", "likelihood"
    )
    assert "--published Crba (did you mean 'Crab'?): the paper's tables have: TimeChat" in compare(
        capsys, str(run), "--published", "Crba"
    )


def test_one_run_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a/version_0", "ave", [0.5])
    assert "version_0 is given twice" in compare(capsys, str(tmp_path / "a"), str(run))


def test_older_version_with_the_results_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older = write_run(tmp_path / "a/version_0", "ave", [0.5])
    newer = write_run(tmp_path / "a/version_1", "ave", [0.5])
    (newer / "metrics.json").write_text(json.dumps({"val": {"datasets": {}}}))
    os.utime(older, (1, 1))
    said = compare(capsys, str(tmp_path / "a"))
    assert f"has results of val, not of 'test'; run `cli.py test --ckpt_path {newer}`" in said
    assert f"or {older}, which has them" in said


def test_a_run_on_all_datasets_is_set_against_runs_on_one_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ks = write_run(tmp_path / "single_ks", "ks", [0.0] * 40, "accuracy")
    ave = write_run(tmp_path / "single_ave", "ave", [1.0] * 40)
    multi = write_run(tmp_path / "multi", "ks", [1.0] * 40, "accuracy")
    entries = json.loads((multi / "metrics.json").read_text())
    write_run(multi, "ave", [0.5] * 40)
    entries["test"]["datasets"] |= json.loads((multi / "metrics.json").read_text())["test"]["datasets"]
    (multi / "metrics.json").write_text(json.dumps(entries))
    out = compare(capsys, str(multi), "--against", str(ks), str(ave), "--format", "markdown")
    assert "Δ multi [95 % CI]" in out
    assert "| 40 | 0.00 | 100.00 | +100.00 [+100.00, +100.00]* |" in out
    assert "| 40 | 100.00 | 50.00 | −50.00 [−50.00, −50.00]* |" in out
    # Any pair: the second as the baseline of the first.
    assert "−100.00 [−100.00, −100.00]*" in compare(capsys, str(ks), "--against", str(multi))
    again = write_run(tmp_path / "again", "ks", [0.0], "accuracy")
    assert "were both tested on ks" in compare(capsys, str(multi), "--against", str(ks), str(again))
    assert "is given twice" in compare(capsys, str(multi), "--against", str(multi))
