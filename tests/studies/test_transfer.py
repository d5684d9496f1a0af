"""Planted answers give exactly the gains, shares, tests and corrections that they were made for."""

from __future__ import annotations

import csv
import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crab_lightning.commands import main
from crab_lightning.metrics.scale import Scale
from crab_lightning.reports.runs import FinishedRun
from crab_lightning.reports.tables import IntervalCell, signed
from crab_lightning.studies.comparison import comparison
from crab_lightning.studies.conflicts import correlation
from crab_lightning.studies.figures import coverage_figure
from crab_lightning.studies.report import study_results, write_report
from crab_lightning.studies.run_data import data_of
from crab_lightning.studies.significance import holm, p_value, sign_test
from crab_lightning.studies.statistics import (
    Headline,
    MetricStatistic,
    RatioStatistic,
    drawn_counts,
    headline_of,
)
from crab_lightning.studies.study import Cell, Study, read_study
from tests.commands import test_full_disk as disk
from tests.runs.quick import contents
from tests.studies.conftest import study_file
from tests.studies.planted import plant

NAMES = ["ks", "ucf", "ave", "avvp", "arig"]
# Right answers of 40 when trained alone, and together. ks and ucf gain, avvp is harmed, arig is a tie.
ALONE = {"ks": 10, "ucf": 19, "ave": 20, "avvp": 30, "arig": 25}
TOGETHER = {"ks": 38, "ucf": 22, "ave": 21, "avvp": 5, "arig": 25}


def planted_scores(cell: Cell, dataset: str) -> list[float]:
    right = (ALONE if cell.regime == "single" else TOGETHER)[dataset]
    return [1.0] * right + [0.0] * (40 - right)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return read_study(_file(tmp_path))


def _file(folder: Path, **more: Any) -> Path:
    places = {"tiny": folder / "tiny", "mini": folder / "mini"}
    return study_file(folder, places, **{"datasets": NAMES, "seeds": [0, 1], "arms": {"lora": {}}} | more)


def test_gain_share_net_score_and_decisions_are_those_that_were_planted(study: Study) -> None:
    plant(study, planted_scores, lambda cell, _: [3.0 if cell.regime == "single" else 2.0] * 12)
    (arm,) = study_results(study).transfers
    gains = {row.dataset: row.score.gain for row in arm.rows}
    assert {name: round(40 * gain.value, 9) for name, gain in gains.items()} == {
        "ks": 28.0, "ucf": 3.0, "ave": 1.0, "avvp": -25.0, "arig": 0.0
    }  # fmt: skip
    shares = arm.shares
    assert (shares.gain.value, shares.harmed.value) == (0.6, 0.2)
    assert shares.net.value == pytest.approx(0.4)
    assert shares.ties == ("arig",)
    assert shares.sign_p == pytest.approx(10 / 16)  # three up, one down
    assert [name for name, gain in gains.items() if gain.certain] == ["ks", "avvp"]
    assert (shares.certain_gain, shares.certain_harmed, shares.certain_net) == (0.2, 0.2, 0.0)
    for name, gain in gains.items():
        assert gain.low is not None
        assert gain.high is not None
        assert gain.low <= gain.value <= gain.high, name
    assert (gains["arig"].low, gains["arig"].high, gains["arig"].p_holm) == (0.0, 0.0, 1.0)
    # Losses: a mean per target token, where less is better.
    assert arm.loss_shares is not None
    assert (arm.loss_shares.net.value, arm.loss_shares.certain_net) == (1.0, 1.0)
    assert {(row.loss.before, row.loss.after, row.loss.gain.value) for row in arm.rows if row.loss} == {
        (1.5, 1.0, 0.5)
    }


def test_lower_is_better_turns_the_sign(study: Study) -> None:
    plant(study, planted_scores, scales={"higher_is_better": False})
    (arm,) = study_results(study).transfers
    assert (arm.shares.gain.value, arm.shares.harmed.value) == (0.2, 0.6)


def test_a_metric_in_seconds_is_printed_in_seconds_and_a_tie_has_no_sign(tmp_path: Path) -> None:
    heads = {"model": {"init_args": {"adapter": {"heads": 4}}}}
    regimes = {"single": "each", "multi": "all", "pairs": {"pairs_of": ["ks", "ucf"]}}
    path = _file(tmp_path, arms={"lora": {}, "ilora": heads}, datasets=["ks", "ucf", "ave"], regimes=regimes)
    study = read_study(path)
    seconds = {"higher_is_better": False, "low": 0.0, "high": None, "unit": "s"}

    def errors(cell: Cell, dataset: str) -> list[float]:
        return [(0.5 if cell.regime == "single" else 0.25) + 0.02 * i for i in range(20)]

    def losses(cell: Cell, dataset: str) -> list[float]:
        broken = dataset == "ks" and cell.regime == "multi"
        return [math.nan if broken else 1.0 + 0.1 * i for i in range(3)]

    plant(study, errors, losses, seconds)
    stale = study.folder / "report/gains-gone.csv"
    stale.parent.mkdir()
    own = [stale.parent / name for name in ("gains-mine.csv", "events.out.tfevents.1")]
    for path in (stale, *own):
        path.touch()
    (stale.parent / "report.json").write_text('{"files": ["gains-gone.csv"]}')
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        said = write_report(study, stale.parent, resamples=100)
    assert not stale.exists()
    assert all(path.exists() for path in own)
    assert "lora: in percent or in the unit named, validation loss" in said
    assert "Arms against lora, regime multi: in percent or in the unit named" in said
    assert "accuracy (s, lower is better)    0.69   0.44  +0.25 [+0.25, +0.25]" in said
    assert "With 100 resamples no gain or difference can be certain: 3 datasets need at least 120." in said
    assert "points over" not in said  # seconds have no mean with points
    assert not (stale.parent / "deviation.png").exists()
    assert "or one that is not a number: Kinetics-Sounds." in said
    assert "nan" not in said
    assert "0.0000 [0.0000, 0.0000]" in said
    assert "−0.0000" not in said
    pairs = (stale.parent / "pairs.csv").read_text()
    assert 'lora,ks,ucf,"accuracy (s, lower is better)",0.69,0.44,+0.25,+0.25,+0.25,' in pairs


def test_what_a_report_leaves_out_is_named(tmp_path: Path) -> None:
    heads = {"model": {"init_args": {"adapter": {"heads": 4}}}}
    study = read_study(_file(tmp_path, arms={"lora": {}, "ilora": heads}))
    plant(study, planted_scores)
    (study.folder / "cells/ilora.multi.seed1/cell.json").unlink()
    cell = study.folder / "cells/lora.multi.seed0"
    content = json.loads((cell / "metrics.json").read_text())
    content["test"]["datasets"]["ave"]["strict"]["accuracy"] = None
    (cell / "metrics.json").write_text(json.dumps(content))
    (cell / "predictions/ucf.jsonl").unlink()
    said = write_report(study, tmp_path / "report", resamples=100)
    assert (
        "1 of 24 cells are left out, because they are not finished or are damaged: ilora.multi.seed1"
        " (damaged)." in said
    )
    assert "ilora.multi.seed1 is damaged: " in said
    assert "There are no answers of ucf in the run lora.multi.seed0." in said
    assert "Finished with the seeds: 0, 1 (Kinetics-Sounds, UCF51, LLP, ARIG); 1 (AVE)." in said
    # The arms are compared on the seed that both have, and on no other.
    assert study_results(study, resamples=100).coverage["lora"]["tied"] == 1.0
    for one in study.cells():
        if one.seed == 1:
            (one.folder / "cell.json").unlink(missing_ok=True)
    said = write_report(study, tmp_path / "report", resamples=100)
    assert "All comparisons come from one seed (0)" in said
    assert "its test has no value of the primary metric: AVE." in said


def test_seeds_that_disagree_widen_the_interval_and_shares_follow(tmp_path: Path) -> None:
    def scores(cell: Cell, dataset: str) -> list[float]:
        right = 20 if cell.regime == "single" else {0: 30, 1: 11}[cell.seed]
        return [1.0] * right + [0.0] * (40 - right)

    two = read_study(_file(tmp_path, datasets=["ks", "ucf"]))
    plant(two, scores)
    (arm,) = study_results(two).transfers
    gain = arm.rows[0].score.gain
    assert gain.value == pytest.approx(0.0125)
    assert gain.low is not None and gain.high is not None  # noqa: PT018
    assert gain.low < -0.2 < 0.2 < gain.high
    assert not gain.certain
    assert arm.shares.gain.value == 1.0
    assert (arm.shares.gain.low, arm.shares.gain.high) == (0.0, 1.0)


def test_unfinished_cells_are_left_out_and_named(study: Study) -> None:
    plant(study, planted_scores)
    state = study.folder / "cells/lora.single.ks.seed1/cell.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"state": "failed", "error": "x"}))
    results = study_results(study)
    assert {name: state.status for name, state in results.unfinished.items()} == {
        "lora.single.ks.seed1": "failed"
    }
    rows = {row.dataset: row for row in results.transfers[0].rows}
    assert (rows["ks"].score.seeds, rows["ucf"].score.seeds) == ((0,), (0, 1))


def test_report_is_written_in_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path, arms={"lora": {}, "ilora": {"model": {"init_args": {"adapter": {"heads": 4}}}}})

    def scores(cell: Cell, dataset: str) -> list[float]:
        other = cell.arm == "ilora" and cell.regime == "multi" and dataset == "avvp"
        return [1.0] * 40 if other else planted_scores(cell, dataset)

    plant(read_study(path), scores, lambda cell, _: [float(len(cell.datasets))] * 9)
    assert main(["study", "report", str(path), "--resamples", "200"]) == 0
    said = capsys.readouterr().out
    assert "net score" in said
    assert "ilora − lora" in said
    out = read_study(path).folder / "report"
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "+40.00" in page
    rows = list(csv.DictReader((out / "gains.csv").open()))
    assert len(rows) == 10
    assert float(rows[0]["score_gain"]) == pytest.approx(0.7)
    names = {path.suffix for path in out.iterdir()}
    assert {".csv", ".tex", ".md", ".png", ".html"} <= names
    assert len(list(out.glob("events.out.tfevents.*"))) == 1
    # lora is best nowhere alone, ilora on the one set where it differs.
    coverage = study_results(read_study(path), resamples=100).coverage
    assert coverage == {
        "lora": {"best": 0.0, "tied": 0.8, "gain": 0.6},
        "ilora": {"best": 0.2, "tied": 0.8, "gain": 0.8},
    }


def test_report_on_a_full_disk_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = _file(tmp_path)
    plant(read_study(path), planted_scores)
    words = ["study", "report", str(path), "--resamples", "100"]
    assert main(words) == 0
    before = contents(tmp_path)
    status, said = disk.call(words, 0)
    assert status == 1
    assert "File too large" in said
    assert "Traceback" not in said
    assert contents(tmp_path) == before
    assert main(words) == 0
    assert {path.name for path in tmp_path.rglob("events.*")}.isdisjoint(Path(path).name for path in before)


def test_nothing_to_compare_is_an_error(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no two finished cells can be compared yet"):
        study_results(study)
    joint = read_study(_file(tmp_path / "joint", regimes={"multi": "all"}))
    plant(joint, planted_scores)
    with pytest.raises(
        ValueError, match="all 2 done, and there is nothing to compare: the study has one arm"
    ):
        study_results(joint)


def test_arms_are_compared_on_one_seed_and_a_subset_with_a_word_about_it(tmp_path: Path) -> None:
    heads = {"model": {"init_args": {"adapter": {"heads": 4}}}}
    arms = {"three": {}, "four": heads}
    study = read_study(_file(tmp_path, regimes={"multi": "all"}, arms=arms, seeds=[4]))
    plant(study, planted_scores)
    said = write_report(study, tmp_path / "report", resamples=100)
    assert "All comparisons come from one seed (4)" in said
    assert "With 100 resamples no gain or difference can be certain" in said
    regimes = {"few": ["ks", "ucf"], "all": "all"}
    study = read_study(_file(tmp_path / "few", regimes=regimes, compare=["few", "all"]))
    plant(study, planted_scores)
    said = write_report(study, tmp_path / "report", resamples=100)
    assert "Left out, because" not in said  # the other datasets are not meant to be compared


def test_damaged_answers_and_losses_leave_their_cell_out(study: Study, tmp_path: Path) -> None:
    plant(study, planted_scores, lambda cell, _: [1.0] * 3)
    names = [f"lora.single.{name}.seed0" for name in ("ks", "ucf")]
    folders = [study.folder / "cells" / name for name in names]
    (folders[0] / "predictions/ks.jsonl").write_text('{"id": "ks/0", "sco')
    (folders[1] / "sample_losses.json").write_text('{"ucf": {')
    said = write_report(study, tmp_path / "report", resamples=100)
    assert (
        "2 of 12 cells are left out, because they are not finished or are damaged: "
        + ", ".join(f"{name} (damaged)" for name in names)
        in said
    )
    assert f"{folders[0] / 'predictions/ks.jsonl'}, line 1 is not JSON" in said
    assert "Remove the file metrics.json of this cell; `study run` then tests the cell again." in said
    assert "Remove it; the next validation of the run writes it again." in said
    assert "seeds: 1 (Kinetics-Sounds, UCF51); 0, 1 (AVE, LLP, ARIG)." in said


def test_holm_sign_test_and_p_values_are_those_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert sign_test([1.0] * 8 + [-1.0, 0.0]) == pytest.approx(2 * (1 + 9) / 2**9)
    assert sign_test([0.0]) == 1.0
    drawn = np.ones(999)
    assert p_value(drawn, 100) == pytest.approx(0.002)
    assert p_value(drawn, 3) == 0.25  # three questions make nothing certain
    assert p_value(np.zeros(999), 100) == 1.0


def test_the_legend_names_a_gain_that_the_first_arm_does_not_have() -> None:
    coverage = {"lora": {"best": 0.0, "tied": 0.5}, "ilora": {"best": 0.5, "tied": 0.5, "gain": 0.75}}
    (axes,) = coverage_figure(coverage).axes
    named = {text.get_text() for text in axes.get_legend().get_texts()}
    assert named == {"best of all arms", "tied for the best", "better than trained alone"}
    assert max(bar.get_height() for bar in axes.patches if bar.get_height() > 0) == 75


def test_correlation_is_that_of_ranks() -> None:
    found = correlation([1, 2, 3, 4, 5, 6, 7], [1, 4, 9, 16, 25, 36, 49])
    assert found.rho == pytest.approx(1.0)
    assert found.p is not None
    assert found.p < 0.01
    assert correlation([1, 2, 3], [1, 2, 3]).rho is None
    assert correlation([1, 2, 3, 4], [5, 5, 5, 5]).rho is None


def test_counts_are_those_of_drawing_with_replacement() -> None:
    counts = drawn_counts(50, 4000, np.random.default_rng(0))
    assert (counts.sum(1) == 50).all()
    assert counts.mean() == 1
    assert counts.var() == pytest.approx(49 / 50, abs=0.02)


def test_resampled_uar_and_map_are_those_of_the_metric_on_the_drawn_answers() -> None:
    import torch

    from crab_lightning.metrics import EventMeanAP, UnweightedAverageRecall

    rng = np.random.default_rng(3)
    calls: dict[str, list[tuple[torch.Tensor, ...]]] = {"uar": [], "map_average": []}
    for _ in range(12):
        calls["uar"].append((torch.tensor([rng.integers(-1, 4)]), torch.tensor([rng.integers(0, 4)])))
        spans = torch.sort(torch.from_numpy(rng.random((2, 2)) * 10), dim=1).values
        classes = torch.from_numpy(rng.integers(0, 2, 2))
        calls["map_average"].append((spans + rng.random(), classes, torch.ones(2), spans, classes))
    made = {"uar": UnweightedAverageRecall(4), "map_average": EventMeanAP(2)}
    counts = drawn_counts(12, 6, rng)
    for key, metric in made.items():
        states = []
        for call in calls[key]:
            metric.reset()
            metric.update(*call)
            held = {name: getattr(metric, name) for name in metric._defaults}
            states.append(
                {n: [p.clone() for p in v] if isinstance(v, list) else v.clone() for n, v in held.items()}
            )
        found = MetricStatistic([str(i) for i in range(12)], metric, key, states).at(counts)
        for row, value in zip(counts, found, strict=True):
            plain = type(metric)(4 if key == "uar" else 2)
            for i in np.repeat(np.arange(12), row.astype(int)):
                plain.update(*calls[key][i])
            wanted = plain.compute()
            assert value == pytest.approx(float(wanted[key] if isinstance(wanted, dict) else wanted))


def test_a_metric_without_scores_of_samples_is_computed_anew_from_a_run(
    finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(read_study(finished).folder / "cells/ilora.multi.seed0", run)
    data = data_of(run, ("dfew",))
    samples = data.samples("test", "dfew")
    task = data.tasks["emotion_recognition"]
    lines = [{"id": s.id, "answer": task.direct(s), "score": None} for s in samples]
    (run / "predictions/dfew.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entry = {"task": "emotion_recognition", "headline": "uar", "counts": {"scored": len(lines)}}
    for value, statistic in ((1.0, MetricStatistic), (0.5, type(None))):
        summary = {"datasets": {"dfew": entry | {"strict": {"uar": value}}}}
        found = headline_of(FinishedRun(run, "run", "test", summary), "dfew")
        assert found is not None
        assert isinstance(found.statistic, statistic), found.note
    assert "uar of the answers on disk is 1.000000, metrics.json says 0.500000" in found.note


def test_runs_are_compared_by_the_metric_itself_if_it_is_no_mean_over_samples(
    finished: Path, tmp_path: Path
) -> None:
    cell = read_study(finished).folder / "cells/ilora.multi.seed0"
    data = data_of(cell, ("dfew",))
    samples = data.samples("test", "dfew")
    task, spec = data.tasks["emotion_recognition"], data.datasets["dfew"]
    runs = []
    for name, right in (("all", True), ("some", False)):
        shutil.copytree(cell, tmp_path / name)
        metrics = task.metrics(spec)
        lines = []
        for place, one in enumerate(samples):
            said = task.direct(one) if right or place % 2 else "?"
            answer = task.parse(said, one, spec)
            task.update(metrics, answer, one, spec)
            score = task.score(answer, one, spec)
            lines.append(json.dumps({"id": one.id, "answer": said, "score": score}) + "\n")
        (tmp_path / name / "predictions/dfew.jsonl").write_text("".join(lines))
        entry = {
            "task": "emotion_recognition",
            "layout": "dfew",
            "headline": "uar",
            "counts": {"scored": len(lines)},
            "strict": {"uar": float(metrics.compute()["uar"])},
        }
        runs.append(FinishedRun(tmp_path / name, name, "test", {"datasets": {"dfew": entry}}))
    values = [run.datasets["dfew"]["strict"]["uar"] for run in runs]
    assert values[1] < values[0] == 1
    table = comparison(runs, resamples=100)
    cell_text = table.rows[0][-1]
    assert isinstance(cell_text, IntervalCell)
    assert cell_text.parts[0] == signed(values[1] - values[0])
    assert not any("no interval" in note for note in table.notes)


def test_a_metric_without_a_value_on_the_common_samples_has_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    null = RatioStatistic(["a", "b"], [0.0, 0.0], [0.0, 0.0])  # such as null questions of Ref-AVS
    found = Headline("j", 0.5, Scale(), null, "", "t")
    monkeypatch.setattr("crab_lightning.studies.comparison.headline_of", lambda run, dataset: found)
    entry = {"layout": "ref_avs", "headline": "j", "strict": {"j": 0.5}, "counts": {"scored": 2}}
    runs = [FinishedRun(tmp_path, name, "test", {"datasets": {"x": entry}}) for name in "ab"]
    table = comparison(runs, resamples=100)
    assert table.rows[0][-1] == "(1)"
    assert table.notes[0] == "(1) the metric has no value on the samples that both runs answered."
