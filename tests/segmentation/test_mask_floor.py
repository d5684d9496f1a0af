"""Answers to the sound of another clip, scored beside the model's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crab_lightning.evaluation import Evaluator, SwappedAudioFloor
from crab_lightning.media import write_audio
from crab_lightning.structures import Batch, DatasetSpec, Encoded, Example, Prediction, Sample
from crab_lightning.tasks import Segmentation
from tests.evaluation.fakes import Parrot, Rows
from tests.quiet import quiet_trainer
from tests.segmentation.test_test_loop import Rectangle, box_mask, row

BOXES = [[20, 30, 100, 120], [120, 130, 200, 210]]


def told(box: list[int]) -> str:
    x1, y1, x2, y2 = box
    return f"[{x1},{y1},{x2},{y2}],[{x1 + 9},{y1 + 9}]"


class Loudness:
    """Encodes a sample as the number of its box, which its loudness tells."""

    def encode(self, example: Example) -> Encoded:
        assert example.target is None
        number = torch.tensor([round(float(example.audios[0].abs().max()) * 10) - 1])
        return Encoded({"input_ids": number}, None, example.sample)

    def collate(self, items: list[Encoded]) -> Batch:
        numbers = torch.stack([item.inputs["input_ids"] for item in items])
        return Batch({"input_ids": numbers}, None, [item.sample for item in items], [False] * len(items))


class Listener(Parrot):
    """Says what it hears."""

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        numbers = batch.inputs["input_ids"][:, 0].tolist()
        said = [Prediction(s, told(BOXES[n])) for s, n in zip(batch.samples, numbers, strict=True)]
        return {"predictions": said}


def sounding(tmp_path: Path, index: int) -> Sample:
    number = index % 2
    write_audio(tmp_path / f"{index}.wav", torch.full((16_000,), (number + 1) / 10), 16_000)
    sample = row(tmp_path, index, told(BOXES[number]), box_mask(BOXES[number]), clip=f"clip{index}")
    return replace(sample, audios=(tmp_path / f"{index}.wav",))


@pytest.fixture
def data(tmp_path: Path) -> Any:
    rows = Rows({"train": [], "val": [], "test": [sounding(tmp_path, i) for i in range(2)]})
    rows.tasks = {"spatial": Segmentation(mask_decoder=Rectangle(), ceiling=True)}
    rows.datasets = {"spatial": DatasetSpec(task="spatial", layout="s4")}
    rows.processor, rows.seed = Loudness(), 0  # type: ignore[attr-defined]
    return rows


def outcome(tmp_path: Path, data: Any) -> dict[str, Any]:
    evaluator = Evaluator(print_table=False)
    trainer = quiet_trainer(tmp_path, callbacks=[SwappedAudioFloor(), evaluator])
    trainer.test(Listener(), data, verbose=False)
    return evaluator.results["spatial"]


def test_who_listens_falls_to_nothing_with_the_sound_of_another_clip(tmp_path: Path, data: Any) -> None:
    found = outcome(tmp_path, data)["strict"]
    assert (found["crabplus_j"], found["crabplus_ceiling_j"], found["crabplus_floor_j"]) == (1.0, 1.0, 0.0)


def test_who_does_not_listen_reaches_the_same_with_any_sound(
    tmp_path: Path, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listener, "predict_step", Parrot.predict_step)
    found = outcome(tmp_path, data)["strict"]
    assert found["crabplus_floor_j"] == found["crabplus_j"] == 1.0


def test_tasks_without_a_decoder_are_not_asked_twice(tmp_path: Path, data: Any) -> None:
    data.tasks["spatial"] = Segmentation()
    assert "crabplus_floor_j" not in outcome(tmp_path, data)["strict"]


def test_one_recording_alone_has_no_floor(tmp_path: Path, data: Any) -> None:
    data.splits["test"] = data.splits["test"][:1]
    found = outcome(tmp_path, data)["strict"]
    assert found["crabplus_floor_j"] is None
    assert found["crabplus_j"] == 1.0


def test_process_without_such_questions_asks_when_another_process_does(data: Any) -> None:
    asked: list[Batch] = []

    class Other:
        """A strategy of several processes, of which another one has a question."""

        def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
            assert (decision, all) == (False, False)
            return True

        def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
            asked.append(batch)
            return model.predict_step(batch, batch_idx)

    trainer, model, floor = (
        SimpleNamespace(datamodule=data, strategy=Other()),
        Listener(),
        SwappedAudioFloor(),
    )
    floor.setup(trainer, model, "test")  # type: ignore[arg-type]
    own = data.samples("test")
    floor.on_test_batch_start(trainer, model, Batch({}, None, own, [False] * len(own)), 0)  # type: ignore[arg-type]
    assert [batch.samples for batch in asked] == [own[:1]]
    assert data.tasks["spatial"].masks.floor == {}


def test_a_floor_answer_that_was_cut_off_is_read_as_the_score_reads_it(
    tmp_path: Path, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Listener, batch: Batch, batch_idx: int) -> dict[str, Any]:
        numbers = batch.inputs["input_ids"][:, 0].tolist()  # it names the box that it does not hear
        said = [told(BOXES[1 - number]) for number in numbers]
        pairs = zip(batch.samples, said, strict=True)
        return {"predictions": [Prediction(s, text, truncated=True) for s, text in pairs]}

    monkeypatch.setattr(Listener, "predict_step", cut)
    # Hearing the other clip it so names its own box.
    assert outcome(tmp_path, data)["strict"]["crabplus_floor_j"] == 1.0
