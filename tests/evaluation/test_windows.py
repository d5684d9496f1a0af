"""Long clips asked window by window through the real loop, by a model that knows the truth."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from crab_lightning.commands.ask import show
from crab_lightning.data import AVDataModule
from crab_lightning.data.check.rows import check_annotations
from crab_lightning.data.windows import length_of, spans_of
from crab_lightning.evaluation import Evaluator
from crab_lightning.evaluation.long_clips import parts_of, recorded_answer
from crab_lightning.evaluation.scores import DatasetScores
from crab_lightning.inference.answer import windows_of_text
from crab_lightning.inference.loading import TrainedRun
from crab_lightning.inference.question import AskError
from crab_lightning.media import probe, write_video
from crab_lightning.mini import write_long_clips
from crab_lightning.structures import Batch, ClipWindow, DatasetSpec, Prediction, Sample, Windows
from crab_lightning.tasks import EventLocalization, EventParsing, QuestionAnswering
from crab_lightning.tasks.event_text import EventSpan
from tests.data.world import Letters
from tests.quiet import quiet_trainer


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("long")
    write_long_clips(root, train=1, test=2)
    return root


class Oracle(lightning.LightningModule):
    """Answers with the true events of the window that it is shown, in tenths of it, and out of order.

    Args:
        adds: Text that follows every answer.
        die_after: Raise after this many answers, as a killed process would stop.
    """

    def __init__(self, adds: str = "", die_after: int | None = None) -> None:
        super().__init__()
        self.processor = Letters("released")  # type: ignore[arg-type]
        self.adds, self.die_after = adds, die_after
        self.asked: list[Sample] = []
        self.waiting: list[Prediction] = []

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        if self.die_after is not None and len(self.asked) >= self.die_after:
            raise RuntimeError("killed")
        self.asked += batch.samples
        said = [Prediction(s, self.answer(s) + self.adds, 3) for s in batch.samples]
        now, self.waiting = self.waiting, said[::-1]
        return {"answers": said if self.die_after else now}

    def drain(self) -> list[Prediction]:
        return self.waiting

    def answer(self, sample: Sample) -> str:
        window = sample.window or ClipWindow(sample.id, 0, 0.0, sample.fields["duration_s"], 0.0)
        unit_s = (window.end_s - window.start_s) / 10
        said = ""
        for event in sample.fields["events_s"]:
            start_s, end_s = max(event["start_s"], window.start_s), min(event["end_s"], window.end_s)
            if start_s < end_s:
                start, end = ((time - window.start_s) / unit_s for time in (start_s, end_s))
                said += f"<event>{event['label']}, ({start:g} {end:g})</event>"
        return said or "Nothing happens."


def run(
    root: Path, out: Path, model: Oracle, windows: Windows | None, processes: int = 1, **options: Any
) -> dict[str, Any]:
    spec = DatasetSpec("events", "unav", folder="long_events", metrics=["map"], frames=2, size_px=32)
    data = AVDataModule(
        root, {"events": EventLocalization()}, {"long": spec}, eval_batch_size=2, val_share=0.0, **options
    )
    trainer = quiet_trainer(
        run=out,
        devices=processes,
        strategy=DDPStrategy(process_group_backend="gloo", start_method="fork") if processes > 1 else "auto",
        use_distributed_sampler=False,
        callbacks=[Evaluator(print_table=False, windows=windows)],
    )
    trainer.test(model, datamodule=data, verbose=False)
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())["test"]["datasets"]["long"]
    return found


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions/long.jsonl").read_text().splitlines()]


def test_an_event_of_two_windows_is_found_whole_at_its_time(long_clips: Path, tmp_path: Path) -> None:
    model = Oracle()
    result = run(long_clips, tmp_path / "run", model, Windows(10.0))
    planted, other = records(tmp_path / "run")
    assert planted["whole_s"] == pytest.approx(40, abs=0.1)
    (event,) = planted["parsed"]
    assert (event["start_s"], event["end_s"]) == (25, 35)
    assert planted["parsed"] == planted["truth"]
    assert [w["start_s"] for w in planted["windows"]] == [0, 10, 20, 30]
    assert [w["parsed"] is None for w in planted["windows"]] == [True, True, False, False]
    assert len(other["windows"]) == round(other["whole_s"] / 10)
    assert (result["counts"]["scored"], result["counts"]["missing"], result["clips_by_window"]) == (2, 0, 2)
    assert result["strict"]["map_average"] == 1.0
    assert {s.window.end_s - s.window.start_s for s in model.asked if s.window} == {10.0}


def test_an_answer_file_is_scored_as_the_test_was(long_clips: Path, tmp_path: Path) -> None:
    result = run(
        long_clips, tmp_path / "run", Oracle("<event>dog barking, (1 2)</event>"), Windows(10.0, 5.0)
    )
    spec = DatasetSpec("events", "unav", folder="long_events", metrics=["map"], frames=2, size_px=32)
    data = AVDataModule(long_clips, {"events": EventLocalization()}, {"long": spec}, val_share=0.0)
    data.setup()
    task, spec = data.tasks["events"], data.datasets["long"]
    asked = {sample.id: sample for sample in data.samples("test")}
    metrics, again = task.metrics(spec), DatasetScores("long", task, spec)
    for record in records(tmp_path / "run"):
        answer, whole = recorded_answer(record, asked[record["id"]], task, spec)
        assert task.jsonable(answer) == record["parsed"]
        task.update(metrics, answer, whole, spec)
        parts = parts_of(record, asked[record["id"]])
        line = again.add_windows(whole, parts)
        assert line == {**record, "tokens": 0}
    strict = {key: float(value) for key, value in metrics.compute().items()}
    assert strict == pytest.approx(result["strict"])
    assert again.result(again.sums(), None)["strict"] == result["strict"]


def test_windows_of_any_length_count_in_tenths_and_may_overlap(long_clips: Path, tmp_path: Path) -> None:
    assert run(long_clips, tmp_path / "half", Oracle(), Windows(10.0, 5.0))["strict"]["map_90"] == 1.0
    longer = run(long_clips, tmp_path / "longer", Oracle(), Windows(20.0))
    assert longer["strict"]["map_50"] > 0.9  # an answer counts in whole tenths, here of two seconds
    whole = run(long_clips, tmp_path / "whole", Oracle(), None)
    assert whole["counts"]["scored"] == 2
    assert "clips_by_window" not in whole
    short = run(long_clips, tmp_path / "short", Oracle(), Windows(100.0))
    assert short["strict"] == whole["strict"]  # no clip is longer than a window


def test_killed_test_asks_no_window_twice(long_clips: Path, tmp_path: Path) -> None:
    run(long_clips, tmp_path / "whole", Oracle(), Windows(10.0))
    first = Oracle(die_after=3)
    with pytest.raises(RuntimeError, match="killed"):
        run(long_clips, tmp_path / "killed", first, Windows(10.0))
    again = Oracle()
    run(long_clips, tmp_path / "killed", again, Windows(10.0))
    ids = [s.id for s in [*first.asked, *again.asked]]
    assert len(first.asked) == 4
    assert len(ids) == len(set(ids))
    whole, killed = (tmp_path / name / "predictions/long.jsonl" for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()


@pytest.mark.ddp
def test_windows_of_a_clip_may_lie_on_several_processes(long_clips: Path, tmp_path: Path) -> None:
    alone = run(long_clips, tmp_path / "one", Oracle(), Windows(10.0, 5.0))
    command = [sys.executable, "-m", "tests.evaluation.test_windows", str(long_clips), str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "two" / "metrics.json").read_text())["test"]
    assert found["processes"] == 2
    assert found["datasets"]["long"] == alone
    one, two = (tmp_path / name / "predictions/long.jsonl" for name in ("one", "two"))
    assert two.read_bytes() == one.read_bytes()


def test_an_event_beyond_its_window_is_written_down(long_clips: Path, tmp_path: Path) -> None:
    result = run(long_clips, tmp_path / "run", Oracle("<event>dog barking, (25 35)</event>"), Windows(10.0))
    planted, _ = records(tmp_path / "run")
    assert {tuple(w["beyond_window"]) for w in planted["windows"]} == {("dog barking (25 35)",)}
    assert result["events_beyond_clip"] == sum(len(r["windows"]) for r in records(tmp_path / "run"))


def test_ask_draws_one_timeline_of_a_long_clip(long_clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((long_clips / "AVUIE_2/long_events/test.json").read_text())
    truth = {row["video_path"]: row for row in rows}

    class Asked(Oracle):
        def generate(self, batch: Batch) -> list[Prediction]:
            (sample,) = batch.samples
            fields = truth[sample.videos[0].name]
            return [Prediction(sample, self.answer(replace(sample, fields=fields)) + self.adds, 3)]

    model: Any = Asked("<event>dog barking, (25 35)</event>")
    tasks = {"events": EventLocalization(), "qa": QuestionAnswering()}
    specs = {
        "long": DatasetSpec("events", "unav", frames=2, size_px=32),
        "qa": DatasetSpec("qa", "avqa", frames=2, size_px=32),
    }
    data = AVDataModule(long_clips, tasks, specs)  # type: ignore[arg-type]
    data.processor = model.processor
    run = TrainedRun(model, data)
    video = long_clips / "AVUIE_2/long_events/video" / rows[0]["video_path"]
    answer = run.ask("events", video=video, windows=windows_of_text("10,5"))
    assert answer.value == [{"event": rows[0]["events_s"][0]["label"], "start_s": 25, "end_s": 35}]
    assert [w["start_s"] for w in answer.windows] == [0, 5, 10, 15, 20, 25, 30]
    show(answer, None, as_json=False)
    printed = capsys.readouterr().out
    assert "·" * 25 + "█" * 10 + "·" * 5 + "  25 to 35 s" in printed
    assert printed.count("cut off at the end of this window: dog barking (25 35)") == 7
    show(answer, None, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["windows"]) == 7
    with pytest.raises(AskError, match="tasks whose answers are events"):
        run.ask("qa", video=video, question="What?", windows=Windows(10.0))
    with pytest.raises(AskError, match="which is only one window"):
        run.ask("events", video=video, windows=Windows(60.0))
    with pytest.raises(AskError, match=r"--windows 5,9: windows\.hop_s is 9"):
        windows_of_text("5,9")
    with pytest.raises(AskError, match="LENGTH or LENGTH,HOP"):
        windows_of_text("ten")


def test_windows_that_apply_to_no_clip_are_told(
    long_clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(long_clips, tmp_path / "run", Oracle(), Windows(100.0))
    assert "no clip of this test was split into windows" in caplog.text


def test_a_clip_whose_header_states_no_length_is_asked_in_windows(tmp_path: Path) -> None:
    """As recorders write them: a stream of H.264 or MP3 in a file."""
    write_video(tmp_path / "clip.mp4", np.zeros((100, 32, 32, 3), np.uint8), 4, torch.zeros(16_000 * 25))
    with av.open(str(tmp_path / "clip.mp4")) as source, av.open(str(tmp_path / "clip.webm"), "w", "matroska",
                options={"live": "1"}) as target:  # fmt: skip
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    assert probe(tmp_path / "clip.webm").duration_s is None
    sample = Sample("x", "d", "t", "test", "c", videos=(tmp_path / "clip.webm",))
    assert length_of(sample) == pytest.approx(25, abs=0.5)
    assert length_of(replace(sample, videos=(tmp_path / "missing.mp4",))) == 0.0


def test_swapped_sounds_and_windows_exclude_each_other(long_clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        run(long_clips, tmp_path / "run", Oracle(), Windows(10.0), audio_swap=True)


def test_windows_cover_the_clip_and_end_with_it() -> None:
    assert spans_of(10.4, Windows(10.0)) == []
    assert spans_of(25.0, Windows(10.0)) == [(0, 10), (10, 20), (15, 25)]
    assert spans_of(20.0, Windows(10.0, 5.0)) == [(0, 10), (5, 15), (10, 20)]
    assert spans_of(12.0, Windows(10.0)) == [(0, 10), (2, 12)]
    for whole_s in torch.arange(11, 60, 1.3).tolist():
        spans = spans_of(whole_s, Windows(10.0, 7.0))
        assert all(b[0] <= a[1] for a, b in itertools.pairwise(spans))
        assert whole_s - 0.5 - 1e-6 <= spans[-1][1] <= whole_s + 1e-3
    with pytest.raises(
        ValueError, match=r"would ask 495,001 questions about a clip of 60 s; 100,000 is the most"
    ):
        spans_of(60.0, Windows(10.0, 0.0001))
    for wrong in ({"length_s": 0.0}, {"hop_s": 11.0}, {"hop_s": 0.0}, {"length_s": -5.0}, {"hop_s": -1.0}):
        with pytest.raises(ValueError, match="windows"):
            Windows(**wrong)


def test_parsing_stitches_what_is_seen_and_heard_in_seconds() -> None:
    task, spec = EventParsing(), DatasetSpec("avvp", "avvp", classes=["Dog", "Cat"])
    tags = "<visual>Dog,(25 35)</visual><audio>Cat,(2 4)</audio>"
    sample = Sample("x", "avvp", "avvp", "test", "c", fields={"annotation": tags}, whole_s=40.0)
    parts = []
    for k, text in enumerate(
        ["<audio>Cat,(2 4)</audio>", "", "<visual>dog,(5 10)</visual>", "<visual>Dog,(0 5)</visual>"]
    ):
        window = ClipWindow("x", k, 10.0 * k, 10.0 * k + 10, 40.0)
        parts.append((window, task.parse(text, sample, spec)))
    stitched = task.stitch(parts, sample, spec)
    assert stitched == task.truth(sample, spec)
    assert stitched is not None
    assert stitched.visual == (EventSpan("Dog", 25, 35),)
    assert task.score(stitched, sample, spec) == 1.0
    assert task.score(None, sample, spec) < 1.0


@pytest.mark.parametrize(
    ("task", "layout", "fields"),
    [
        (EventLocalization(), "unav", {"annotation": "<event>Dog, (2 4)(25 35)</event>"}),
        (EventLocalization(), "ave", {"event": "Dog", "start_s": 25, "end_s": 35}),
        (EventParsing(), "avvp", {"annotation": "<visual>Dog,(25 35)</visual><audio>Dog,(1 3)</audio>"}),
    ],
)
def test_check_names_an_annotated_event_beyond_the_clip(
    task: Any, layout: str, fields: dict[str, Any]
) -> None:
    sample = Sample("x", layout, layout, "test", "c", fields=fields, row=3)
    problems = list(check_annotations(task, [sample], DatasetSpec(layout, layout, classes=["Dog"])))
    assert any("Dog (25 35) ends after the clip of 10 s" in problem.message for problem in problems)


def test_check_names_intervals_that_fill_nothing() -> None:
    spec = DatasetSpec("events", "unav", classes=["Dog"])
    fields = {
        "annotation": "<event>Dog, (2 4)(8 6)(5.1 5.3)</event>",
        "events_s": [{"label": "Dog", "start_s": 4.0, "end_s": 4.0}],
        "duration_s": 10.0,
    }
    sample = Sample("x", "unav", "events", "test", "c", fields=fields, row=3)
    messages = [p.message for p in check_annotations(EventLocalization(), [sample], spec)]
    for interval in ("(8 6)", "(5.1 5.3)"):
        assert any(f"interval {interval} of the annotation contains no whole second" in m for m in messages)
    assert any("events_s ends at 4.0 s, which is not after its start" in m for m in messages)
    assert not any("(2 4)" in m for m in messages)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), Oracle(), Windows(10.0, 5.0), processes=2)
