"""Learning from random windows of long clips: the truth is cut to each, and what is cut is counted."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from crab_lightning.data import AVDataModule
from crab_lightning.data.windows import length_of, random_window, spans_of
from crab_lightning.media import write_audio, write_video
from crab_lightning.structures import Batch, ClipWindow, DatasetSpec, Sample, Windows
from crab_lightning.tasks import EventLocalization, EventParsing, QuestionAnswering
from crab_lightning.tasks.event_localization import NOTHING
from crab_lightning.tasks.event_text import EventSpan
from crab_lightning.tasks.event_windows import IN_WINDOW
from tests.data.world import HZ, Letters
from tests.quiet import quiet_trainer

LONG_S = 24
EVENTS = [
    {"event": "dog", "start_s": 2, "end_s": 5},
    {"event": "cat", "start_s": 8, "end_s": 15},
    {"event": "dog", "start_s": 20.2, "end_s": 23.6},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with four clips of 24 s, and four of 10 s, that are no longer than a window."""
    root = tmp_path_factory.mktemp("windows")
    folder = root / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, seconds in (("long", LONG_S), ("short", 10)):
        frames = rng.integers(0, 255, (4 * seconds, 32, 32, 3), dtype=np.uint8)
        sound = rng.standard_normal(HZ * seconds).astype(np.float32) / 10
        write_video(folder / f"{name}.mp4", frames, 4, sound)
        write_audio(folder / f"{name}.wav", sound, HZ)
    rows = []
    for name, k in itertools.product(("long", "short"), range(4)):
        for suffix in (".mp4", ".wav"):
            shutil.copy(folder / f"{name}{suffix}", folder / f"{name}{k}{suffix}")
        events = EVENTS if name == "long" else EVENTS[:1]
        rows.append({"video": f"{name}{k}.mp4", "audio": f"{name}{k}.wav", "events": events})
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return root


def data_of(root: Path, **options: Any) -> AVDataModule:
    spec = DatasetSpec("events", "plain", metrics=["map"], frames=2, size_px=32)
    data = AVDataModule(root, {"events": EventLocalization()}, {"mine": spec}, batch_size=2, **options)
    data.processor = Letters()  # type: ignore[assignment]
    return data


def sample(**fields: Any) -> Sample:
    timed = [{"label": e["event"], "start_s": e["start_s"], "end_s": e["end_s"]} for e in EVENTS]
    return Sample("x", "mine", "events", "train", "c", fields={"events_s": timed, "annotation": "", **fields})


def window(start_s: float, end_s: float) -> ClipWindow:
    return ClipWindow("x", 0, start_s, end_s, LONG_S)


def test_a_window_has_a_truth_of_its_own() -> None:
    task, spec = EventLocalization(), DatasetSpec("events", "plain", classes=["cat", "dog"], metrics=["map"])
    cut = task.windowed(sample(), window(10, 20), spec)
    assert task.target(cut, "direct") == task.target(cut, "reasoning") == "<event>cat, (0 5)</event>"
    assert task.truth(cut, spec) == (EventSpan("cat", 0, 5),)
    assert cut.fields["events_s"] == [{"label": "cat", "start_s": 0, "end_s": 5}]
    assert cut.fields[IN_WINDOW] == {"whole": 0, "cut": 1, "outside": 2}
    both = task.windowed(sample(), window(0, 10), spec)
    assert task.direct(both) == "<event>dog, (2 5)</event><event>cat, (8 10)</event>"
    assert both.fields[IN_WINDOW] == {"whole": 1, "cut": 1, "outside": 1}
    whole = task.windowed(sample(), window(0, 24), spec)  # answers count in tenths of the window
    assert task.direct(whole) == "<event>dog, (1 2)(8 10)</event><event>cat, (3 6)</event>"
    metrics = task.metrics(spec)
    task.update(metrics, task.parse(task.direct(both), both, spec), both, spec)
    assert metrics.compute()["map_90"] == 1.0


def test_a_window_without_events_says_so() -> None:
    task, spec = EventLocalization(), DatasetSpec("events", "plain", classes=["cat", "dog"], metrics=["map"])
    none = task.windowed(sample(), window(15, 20), spec)
    assert task.direct(none) == NOTHING == "<event></event>"
    assert none.fields[IN_WINDOW] == {"whole": 0, "cut": 0, "outside": 3}
    assert task.truth(none, spec) == ()
    assert task.parse(NOTHING, none, spec) == ()
    assert task.parse("Nothing happens.", none, spec) is None
    assert task.parse("<event>dog</event>", none, spec) is None
    parts = [(window(0, 10), ()), (window(10, 20), None)]
    assert task.stitch(parts, sample(), spec) == ()
    assert task.stitch([(window(0, 10), None)], sample(), spec) is None
    sliver = sample(events_s=[{"label": "dog", "start_s": 9.7, "end_s": 12}])
    assert task.windowed(sliver, window(0, 10), spec).fields[IN_WINDOW]["outside"] == 1


def test_windows_of_any_clip_give_the_whole_truth_back() -> None:
    """Cutting and stitching are inverse where events begin and end at whole seconds."""
    task, spec = EventLocalization(), DatasetSpec("events", "plain", classes=["a", "b"], metrics=["map"])
    rng = np.random.default_rng(1)
    for _ in range(30):
        length_s, events, at = int(rng.integers(21, 90)), [], 0
        while at < length_s - 4:
            start = at + int(rng.integers(1, 4))
            at = min(start + int(rng.integers(1, 15)), length_s)
            events.append({"label": "ab"[len(events) % 2], "start_s": start, "end_s": at})
        whole = sample(events_s=events)
        parts = []
        for k, (start_s, end_s) in enumerate(spans_of(length_s, Windows(10.0, float(rng.integers(3, 11))))):
            view = ClipWindow("x", k, start_s, end_s, length_s)
            cut = task.windowed(whole, view, spec)
            parts.append((view, task.parse(task.direct(cut), cut, spec)))
        found = task.stitch(parts, whole, spec)
        assert found is not None
        assert [(e.name, e.start_s, e.end_s) for e in found] == [
            (e["label"], e["start_s"], e["end_s"]) for e in events
        ]


def test_parsing_is_cut_as_well() -> None:
    task, spec = EventParsing(), DatasetSpec("events", "avvp", classes=["Dog", "Cat"])
    tags = "<visual>Dog,(25 35)</visual><audio>Cat,(2 4)</audio>"
    whole = Sample("x", "avvp", "avvp", "train", "c", fields={"annotation": tags}, target=f"Seen: {tags}")
    cut = task.windowed(whole, ClipWindow("x", 0, 30, 40, 40), spec)
    assert task.target(cut, "reasoning") == task.direct(cut) == "<visual>Dog,(0 5)</visual>"
    assert task.truth(cut, spec).visual == (EventSpan("Dog", 0, 5),)
    assert cut.fields[IN_WINDOW] == {"whole": 0, "cut": 1, "outside": 1}
    none = task.windowed(whole, ClipWindow("x", 0, 10, 20, 40), spec)
    assert task.parse(task.direct(none), none, spec) == task.truth(none, spec)
    assert task.parse("nothing", none, spec) is None


def test_each_epoch_shows_another_window_and_a_seed_the_same(root: Path) -> None:
    data = data_of(root)
    data.setup()
    long = next(s for s in data.samples("train") if "long" in str(s.videos[0]))
    short = next(s for s in data.samples("train") if "short" in str(s.videos[0]))
    task, spec = data.tasks["events"], data.datasets["mine"]
    drawn = [random_window(long, task, spec, 10.0, 42, epoch) for epoch in range(60)]
    starts = [one.window.start_s for one in drawn if one.window is not None]
    assert len(starts) == 60
    assert set(starts) == set(range(15))
    assert drawn == [random_window(long, task, spec, 10.0, 42, epoch) for epoch in range(60)]
    assert random_window(short, task, spec, 10.0, 42, 0) is short
    assert random_window(long, task, spec, 30.0, 42, 0) is long


class Learner(lightning.LightningModule):
    """Learns nothing and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shown: list[Sample] = []
        self.heard: list[float] = []
        self.validated: list[Sample] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.shown += batch.samples
        self.heard += batch.inputs["facts"][:, 3].tolist()
        return self.weight * 0.0

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validated += batch.samples

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_run_learns_windows_and_says_what_was_cut(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = data_of(root, train_window_s=10.0, val_share=0.0)
    model = Learner()
    trainer = quiet_trainer(root, max_epochs=3, limit_val_batches=0)
    with caplog.at_level(logging.INFO):
        trainer.fit(model, datamodule=data)
    windows = [s for s in model.shown if s.window is not None]
    assert len(model.shown) == 24
    assert len(windows) == 12
    assert set(model.heard) == {10.0 * HZ}  # a window sounds as long as the short clip
    counted = data.window_counts["mine"]
    assert counted["windows"] == 12
    assert counted["whole"] + counted["cut"] + counted["outside"] == 12 * len(EVENTS)
    assert counted["cut"] == sum(s.fields[IN_WINDOW]["cut"] for s in windows)
    (line,) = [record.message for record in caplog.records if "trained on" in record.message]
    assert line.startswith("mine: trained on 12 windows of 10 s. Events of their clips: ")


def test_validation_takes_every_window_with_its_truth(root: Path) -> None:
    data = data_of(root, train_window_s=10.0, val_share=0.5)
    data.setup()
    whole = data_of(root, val_share=0.5)
    whole.setup()
    clips = len(whole.samples("val"))
    losses, answers = data.val_dataloader()
    asked = [s for batch in answers for s in batch.samples]
    learnt = [s for batch in losses for s in batch.samples]
    long = sum("long" in str(s.videos[0]) for s in whole.samples("val"))
    assert len(learnt) == len({s.id for s in learnt}) == clips - long + 3 * long
    assert {s.id for s in asked} == {s.id for s in learnt}
    assert {s.window.end_s for s in learnt if s.window is not None} == {10.0, 20.0, 24.0}


def test_what_cannot_be_cut_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.train_window_s is -1; it must be above 0"):
        data_of(root, train_window_s=-1)
    swapped = data_of(root, train_window_s=10.0, audio_swap=True)
    swapped.setup()
    swapped.test_dataloader()  # `probe` tests a run that learnt from windows with other sounds
    with pytest.raises(ValueError, match="exclude each other"):
        swapped.train_dataloader()
    spec = DatasetSpec("events", "plain", frames=2, size_px=32)  # scored by segments of ten seconds
    data = AVDataModule(root, {"events": EventLocalization()}, {"mine": spec}, train_window_s=10.0)
    data.processor = Letters()  # type: ignore[assignment]
    data.setup()
    with pytest.raises(
        ValueError, match=r"train_window_s is 10, but no dataset here can be cut into windows"
    ):
        data.train_dataloader()
    with pytest.raises(NotImplementedError, match="does not cut its truth"):
        QuestionAnswering().windowed(sample(), window(0, 10), spec)


@pytest.mark.parametrize("apart", [False, True], ids=["sound of the video file", "sound file"])
def test_windows_end_with_the_pictures_and_say_where_the_sound_goes_on(tmp_path: Path, apart: bool) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (4 * 20, 32, 32, 3), dtype=np.uint8)
    sound = rng.standard_normal(HZ * 30).astype(np.float32) / 10
    video, audio = tmp_path / "clip.mp4", tmp_path / "clip.wav"
    write_video(video, frames, 4, None if apart else sound)
    write_audio(audio, sound, HZ)
    sample = Sample(
        "mine/0", "mine", "events", "test", "", videos=(video,), audios=(audio if apart else video,)
    )
    with pytest.warns(UserWarning, match=r"the sound lasts 30.* s and the pictures 20 s\. The windows end"):
        assert length_of(sample) == pytest.approx(20, abs=0.01)


def test_length_of_a_sound_alone_is_its_own(tmp_path: Path) -> None:
    write_audio(tmp_path / "clip.wav", np.zeros(HZ * 12, np.float32), HZ)
    sample = Sample("mine/0", "mine", "events", "test", "", audios=(tmp_path / "clip.wav",))
    assert length_of(sample) == pytest.approx(12)
