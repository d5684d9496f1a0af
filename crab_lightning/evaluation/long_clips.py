"""Joins the answers about the windows of a long clip into one answer, which is scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from crab_lightning.evaluation.prediction_files import PredictionFiles, Record
from crab_lightning.evaluation.scores import DatasetScores
from crab_lightning.structures import ClipWindow, DatasetSpec, Prediction, Sample
from crab_lightning.tasks.base import Task, parse_answer


class LongClips:
    """Stores the answers about windows, which may come in any order and on any process.

    Args:
        windowed: Whether long clips are tested by windows in this pass.
    """

    def __init__(self, windowed: bool = False) -> None:
        self.windowed = windowed
        self._parts: list[Prediction] = []

    def holds(self, answer: Prediction) -> bool:
        """Return whether an answer is about a window of a clip that is scored as a whole."""
        return self.windowed and answer.sample.window is not None

    def take(self, answer: Prediction) -> bool:
        """Store an answer if it is about a window, and return whether it is."""
        if self.holds(answer):
            self._parts.append(answer)
        return self.holds(answer)

    def stitch(
        self,
        trainer: Trainer,
        asked: Iterable[Sample],
        scores: Mapping[str, DatasetScores],
        files: PredictionFiles | None,
        asked_all: bool,
    ) -> dict[str, Sample]:
        """Score every long clip by the answers about its windows.

        Only the first process scores, so that each clip counts once.

        Args:
            trainer: The trainer, which knows the processes.
            asked: All samples of the test, in order.
            scores: Scores by dataset.
            files: Prediction files to which records are added; ``None`` writes none.
            asked_all: Whether the whole test was asked. Otherwise a clip is scored only if all its windows
                were answered.

        Returns:
            Id of a long clip -> sample of the whole clip, with its length.
        """
        parts, self._parts = self._parts, []
        if trainer.world_size > 1:
            everywhere: list[list[Prediction]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(everywhere, parts)
            parts = [p for those in everywhere for p in those]
        answers = {p.sample.id: p for p in parts}
        clips: dict[str, list[Sample]] = {}
        for sample in asked:
            if sample.window is not None:
                clips.setdefault(sample.window.of, []).append(sample)
        if not clips:
            rank_zero_info(
                "evaluator.windows: no clip of this test was split into windows. This needs clips that are "
                "longer than a window, and a dataset whose rows give the times of events in seconds"
            )
        whole = {}
        for clip, samples in clips.items():
            last = samples[-1].window
            assert last is not None
            whole[clip] = replace(samples[0], id=clip, window=None, whole_s=last.whole_s)
            given = [(s.window, answers.get(s.id)) for s in samples if s.window is not None]
            complete = asked_all or all(p is not None for _, p in given)
            if trainer.is_global_zero and complete and any(p is not None for _, p in given):
                record = scores[whole[clip].dataset].add_windows(whole[clip], given)
                if files is not None:
                    files.append([record])
        return whole


def window_record(prediction: Prediction) -> Record:
    """Return the record of an answer about a window, which is written until the clip is scored."""
    sample = prediction.sample
    assert sample.window is not None
    return {
        "id": sample.id,
        "dataset": sample.dataset,
        "of": sample.window.of,
        "answer": prediction.text,
        "truncated": prediction.truncated,
        "tokens": prediction.tokens,
    }


def parts_of(record: Mapping[str, Any], sample: Sample) -> list[tuple[ClipWindow, Prediction | None]]:
    """Return the windows in the record of a long clip, with their answers; empty if it has no windows.

    Args:
        record: Record of a prediction file.
        sample: The sample of the record, the whole clip.
    """
    parts: list[tuple[ClipWindow, Prediction | None]] = []
    for index, said in enumerate(record.get("windows") or ()):
        whole_s = float(record["whole_s"])
        window = ClipWindow(sample.id, index, float(said["start_s"]), float(said["end_s"]), whole_s)
        if said["answer"] is None:
            parts.append((window, None))
            continue
        asked = replace(sample, id=f"{sample.id}#{index}", window=window)
        cut_off = bool(said.get("truncated", False))
        parts.append((window, Prediction(asked, str(said["answer"]), truncated=cut_off)))
    return parts


def recorded_answer(
    record: Mapping[str, Any], sample: Sample, task: Task[Any], spec: DatasetSpec
) -> tuple[Any, Sample]:
    """Read the answer of a record; if the record has windows, their answers are joined.

    Args:
        record: Record of a prediction file.
        sample: The sample of the record.
        task: The task of the dataset.
        spec: The dataset's entry.

    Returns:
        The answer (``None`` if it cannot be read), and the sample with which it is scored.
    """
    parts = parts_of(record, sample)
    if not parts:
        return parse_answer(task, str(record["answer"]), sample, spec), sample
    whole = replace(sample, whole_s=float(record["whole_s"]))
    read = [(w, None if p is None else parse_answer(task, p.text, p.sample, spec)) for w, p in parts]
    return task.stitch(read, whole, spec), whole
