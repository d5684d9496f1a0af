"""Question answering: MUSIC-AVQA (``avqa``, open answers) and AVQA (``avqa_thu``, four options)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torchmetrics import Metric, MetricCollection

from crab_lightning.metrics import Accuracy, AVQAAccuracy, GroupedAccuracy, MusicAVQAAccuracy
from crab_lightning.structures import Conversation, DatasetSpec, Sample
from crab_lightning.tasks.answers import normalise, read_answer, read_option
from crab_lightning.tasks.base import VIDEO_AND_AUDIO, Task, chosen, describe, index_tensor

_METRICS: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy,
    "music_avqa": MusicAVQAAccuracy,
    "avqa": AVQAAccuracy,
}


class QuestionAnswering(Task[str | int]):
    """Answers a question with a text, or with one of the sample's options.

    A sample with the field ``options`` is a multiple-choice question: the answer is a zero-based index, and
    the prompt contains the options as Python prints a list. Any other sample has a text as its answer, which
    is compared after normalisation. The task reads the fields ``question``, ``answer``, ``options``,
    ``options_text``, ``modality`` and ``question_type``.

    The ``metrics`` of a dataset's entry have one of ``accuracy`` (overall only), ``music_avqa`` (overall, by
    modality and by type) and ``avqa`` (overall and by type).

    Args:
        lenient: Also read answers with emphasis, "The answer is" before them, or a letter before the text of
            an option, which untrained models write. State it when you report such results.
    """

    optional_keys = ("options",)

    def __init__(self, lenient: bool = False) -> None:
        self.lenient = lenient

    def prompt(self, sample: Sample) -> Conversation:
        """Return the opening text, the video, the audio and the question."""
        question = sample.fields["question"]
        if "options" in sample.fields:
            instruction = (
                "Please answer the question based on the options: "
                f"{question}, options:{sample.fields['options_text']}"
            )
        else:
            instruction = f"Please answer this question: {question}"
        return (*VIDEO_AND_AUDIO, instruction)

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with ``options_text``, the options as the prompt contains them.

        Raises:
            KeyError: If the row has no question or no answer.
            ValueError: If the answer is a number, but not one of the options.
        """
        row["question"], row["answer"]  # raises KeyError
        number = str(row["answer"]).strip()
        if number.isdecimal() and number not in map(str, row.get("options", (number,))):
            raise ValueError(f"the answer {number} is no option; write the text of the right option")
        return {**row, "options_text": str(list(row["options"]))} if "options" in row else row

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return sentences that explain the answer format."""
        if "options" in sample.fields:
            return "Write the text of one option inside tags: <answer>OPTION</answer>"
        known = (
            f" Choose one of: {', '.join(spec.classes)}." if spec.classes else " Use one word or a number."
        )
        return f"Write the answer inside tags: <answer>ANSWER</answer>{known}"

    def direct(self, sample: Sample) -> str:
        """Return the text of the answer, or of the right option, in answer tags."""
        answer = sample.fields["answer"]
        if "options" in sample.fields:
            answer = sample.fields["options"][self._option(sample)]
        return f"<answer>{answer}</answer>"

    def candidates(self, sample: Sample, spec: DatasetSpec) -> dict[str, str | int] | None:
        """Return the options of the sample, or the dataset's ``classes``; ``None`` if there are neither.

        Of options that are equal after normalisation only the first is kept, as in the annotations.
        """
        if "options" in sample.fields:
            kept: dict[str, tuple[str, int]] = {}
            for index, option in enumerate(sample.fields["options"]):
                kept.setdefault(normalise(option), (f"<answer>{option}</answer>", index))
            return dict(kept.values())
        if not spec.classes:
            return None
        return {f"<answer>{name}</answer>": normalise(name) for name in spec.classes}

    def truth(self, sample: Sample, spec: DatasetSpec) -> str | int:
        """Return the normalised answer, or the index of the right option.

        Raises:
            ValueError: If the annotated answer is not one of the options.
        """
        return self._option(sample) if "options" in sample.fields else normalise(str(sample.fields["answer"]))

    def _option(self, sample: Sample) -> int:
        """Return the index of the right option.

        An integer is an index, as in the source dataset. A text is read like a model's answer; if two options
        are equal after normalisation, the first one is meant.
        """
        answer, options = sample.fields["answer"], sample.fields["options"]
        if isinstance(answer, bool):
            raise ValueError(
                f"{describe(sample)}: the answer is {str(answer).lower()}; write the text of the right"
                " option. Correct the row or remove it."
            )
        if isinstance(answer, int):
            index = answer if 0 <= answer < len(options) else None
        else:
            index = read_option(answer, options)
            texts = [normalise(option) for option in options]
            if index is None and normalise(answer) in texts:
                index = texts.index(normalise(answer))
        if index is None:
            raise ValueError(
                f"{describe(sample)}: the answer {answer!r} is not one of the options {list(options)}. "
                "Correct the row or remove it."
            )
        return int(index)

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> str | int | None:
        """Return the answer as normalised text, or the index of the option that it names.

        The result is ``None`` for an empty answer, for an answer that names no option, and for an answer that
        is not one of the dataset's ``classes``, if there are any.
        """
        if "options" in sample.fields:
            return read_option(text, sample.fields["options"], lenient=self.lenient)
        answer = read_answer(text, lenient=self.lenient)
        if answer is not None and spec.classes and answer not in {normalise(name) for name in spec.classes}:
            return None
        return answer

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return the accuracy metric that the dataset's entry names.

        Raises:
            ValueError: If the entry names more than one metric, or an unknown one.
        """
        names = chosen(spec, tuple(_METRICS), ("accuracy",))
        if len(names) != 1:
            raise ValueError(
                f"metrics is {names}; {', '.join(_METRICS)} all contain the overall accuracy, so give one"
            )
        return MetricCollection({names[0]: _METRICS[names[0]]()})

    def update(
        self, metrics: MetricCollection, answer: str | int | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one answer to the group of its question."""
        right = answer is not None and answer == self.truth(sample, spec)
        for metric in metrics.values():
            if isinstance(metric, GroupedAccuracy):
                metric.update(torch.tensor([right]), index_tensor(self._group(metric, sample)))
            else:
                metric.update(index_tensor(int(right)), index_tensor(1))

    def _group(self, metric: GroupedAccuracy, sample: Sample) -> int:
        """Return the group of a question; -1 (overall only) for a type that the metric does not know."""
        kind = sample.fields["question_type"]
        name = f"{sample.fields['modality']}/{kind}" if "modality" in sample.fields else kind
        return metric.index(name) if name in metric.groups else -1

    def headline(self, spec: DatasetSpec) -> str:
        """Return ``accuracy``."""
        return "accuracy"
