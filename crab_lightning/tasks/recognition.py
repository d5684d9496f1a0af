"""Recognition: the answer is one class name inside answer tags.

Action recognition: Kinetics-Sounds (``ks``) and UCF51 (``ucf``). Emotion recognition: MELD, MER2024, CREMA-D,
MAFW and DFEW.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torchmetrics import Metric, MetricCollection

from crab_lightning.metrics import (
    INVALID,
    Accuracy,
    UnweightedAverageRecall,
    WeightedAverageRecall,
    WeightedF1,
)
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.answers import class_index, distinct_names, read_answer
from crab_lightning.tasks.base import InstructedTask, chosen, classes_of, describe, index_tensor

RECOGNITION_METRICS: dict[str, Callable[[int], Metric]] = {
    "accuracy": lambda classes: Accuracy(),
    "weighted_f1": WeightedF1,
    "war": WeightedAverageRecall,
    "uar": UnweightedAverageRecall,
}
"""Metrics that a recognition dataset may name under ``metrics``; the first in its list is shown first."""


class Recognition(InstructedTask[str]):
    """Names the class of a clip; the answer is one of ``spec.classes``.

    An answer that is not a class is unreadable. It is scored as class -1, which is wrong and is not a class
    of the metrics.

    Args:
        lenient: Also read answers with emphasis or "The answer is" before them, which untrained models write.
            State it when you report such results.
    """

    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __init__(self, lenient: bool = False) -> None:
        self.lenient = lenient

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with the answer as ``class_name``."""
        return {**row, "class_name": str(row["answer"])}

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return sentences that explain the answer format."""
        names = ", ".join(classes_of(spec))
        return f"Choose one of: {names}. Write it inside tags: <answer>{classes_of(spec)[0]}</answer>"

    def direct(self, sample: Sample) -> str:
        """Return the class name in answer tags, with a full stop if the text of the manifest has one."""
        return f"<answer>{sample.fields['class_name']}</answer>{_stop(sample)}"

    def candidates(self, sample: Sample, spec: DatasetSpec) -> dict[str, str]:
        """Return every class, in the form of :meth:`direct`."""
        return {f"<answer>{name}</answer>{_stop(sample)}": name for name in classes_of(spec)}

    def truth(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return the class name in the spelling of ``spec.classes``.

        Raises:
            ValueError: If the annotated class is not in ``spec.classes``.
        """
        classes = classes_of(spec)
        name = str(sample.fields["class_name"])
        index = class_index(name, classes)
        if index is None:
            raise ValueError(
                f"{describe(sample)}: class {name!r} is not one of the dataset's classes: "
                f"{', '.join(classes)}. Add it to `classes`, or leave `classes` out to take them from the "
                "manifests."
            )
        return classes[index]

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> str | None:
        """Read the class name; ``None`` if the answer is not a class name."""
        answer = read_answer(text, lenient=self.lenient)
        classes = classes_of(spec)
        index = None if answer is None else class_index(answer, classes)
        return None if index is None else classes[index]

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return the metrics that the dataset's entry names; see ``RECOGNITION_METRICS``."""
        count = len(classes_of(spec))
        names = chosen(spec, tuple(RECOGNITION_METRICS), self.default_metrics)
        return MetricCollection({name: RECOGNITION_METRICS[name](count) for name in names})

    def update(
        self, metrics: MetricCollection, answer: str | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one answer by class index."""
        classes = classes_of(spec)
        index = INVALID if answer is None else class_index(answer, classes)
        truth = class_index(self.truth(sample, spec), classes)
        assert index is not None  # parse and truth return names of the closed set
        assert truth is not None
        metrics.update(index_tensor(index), index_tensor(truth))

    def headline(self, spec: DatasetSpec) -> str:
        """Return the first metric that the dataset's entry names."""
        return chosen(spec, tuple(RECOGNITION_METRICS), self.default_metrics)[0]

    def class_names(self, samples: Sequence[Sample]) -> list[str]:
        """Return the class names that occur in these samples."""
        return distinct_names([str(sample.fields["class_name"]) for sample in samples])


def _stop(sample: Sample) -> str:
    return "." if (sample.target or sample.reference).rstrip().endswith(".") else ""


class ActionRecognition(Recognition):
    """Names the action in a clip, one of ``spec.classes``.

    The task reads the field ``class_name``. The names of UCF51 are in lower case, as in the released
    reference texts. The score is the accuracy over all samples (``valid`` in GeWu-Lab/OGM-GE_CVPR2022
    main.py).
    """

    instruction = "Please identify the action taking place in the video."


class EmotionRecognition(Recognition):
    """Names the emotion of a person, one of ``spec.classes``.

    The task reads the field ``class_name``. The published metrics are accuracy (CREMA-D), accuracy and
    weighted F1 (MELD), and WAR and UAR (DFEW, MAFW, MER2024). The default is WAR and UAR.
    """

    instruction = "Please judge the person's emotion at the moment."
    default_metrics = ("war", "uar")
