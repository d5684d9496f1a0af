"""Answers about the windows of long clips, kept until a clip is complete and then scored as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
import torch.distributed
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from crab_lightning.evaluation.prediction_files import PredictionFiles, Record
from crab_lightning.evaluation.scores import DatasetScores
from crab_lightning.structures import Prediction, Sample


class LongClips:
    """Keeps the answers about windows, which may come in any order and on any process.

    Args:
        windowed: Whether this pass asks long clips window by window.
    """

    def __init__(self, windowed: bool = False) -> None:
        self.windowed = windowed
        self._parts: list[Prediction] = []

    def holds(self, answer: Prediction) -> bool:
        """Tell whether an answer is about a window of a clip that is scored as a whole."""
        return self.windowed and answer.sample.window is not None

    def take(self, answer: Prediction) -> bool:
        """Keep an answer, if it is about a window; tell whether it is."""
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

        One process does it, so that each clip counts once.

        Args:
            trainer: Says which processes there are.
            asked: All samples of the test, in order.
            scores: Scores by dataset.
            files: Where records are written.
            asked_all: Whether the whole test was asked; else a clip is scored when all of its windows were.

        Returns:
            The long clips by id, with their length.
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
                "evaluator.windows: no clip of this test was asked window by window. That needs clips longer "
                "than a window, and a dataset whose rows give the times of events in seconds"
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
    """Return what is written down of an answer about a window until its clip is complete."""
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
