"""Open questions: the answer is a text that is compared with the true answer."""

from __future__ import annotations

from typing import Any

from torchmetrics import MetricCollection

from crab_lightning.metrics import Accuracy
from crab_lightning.structures import Conversation, DatasetSpec, Media, Sample
from crab_lightning.tasks.answers import cut_end_tokens, extract_answer, normalise
from crab_lightning.tasks.base import Task, chosen, index_tensor

_METRICS = ("exact", "contained")


class OpenAnswer(Task[str]):
    """Answers any question about any media; the normalised answer is compared with the true answer.

    Use it for conversations (layout ``messages``) and for plain rows with ``question`` and ``answer``. The
    task reads the fields ``question``, ``answer`` and ``options``. The ``metrics`` of a dataset's entry are
    ``exact`` (the answer is the true answer) and ``contained`` (the true answer is a part of the answer, as
    whole words); both are in [0, 1], and higher is better. With ``classes`` in the entry or ``options`` in
    the sample, the model can also answer with the likeliest of them.
    """

    optional_keys = ("options",)

    def prompt(self, sample: Sample) -> Conversation:
        """Return the videos, images and sounds, and then the question."""
        media = [*[Media.VIDEO] * len(sample.videos), *[Media.IMAGE] * len(sample.images)]
        return (*media, *[Media.AUDIO] * len(sample.audios), str(sample.fields["question"]))

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with its answer as the text to be learnt.

        Raises:
            KeyError: If the row has no answer.
            ValueError: If the answer is not one of the options.
        """
        options = [normalise(str(option)) for option in row.get("options", ())]
        if options and normalise(str(row["answer"])) not in options:
            raise ValueError(f"the answer {row['answer']!r} is not one of the options {list(row['options'])}")
        return {**row, "target": row.get("text", str(row["answer"]))}

    def direct(self, sample: Sample) -> str:
        """Return the text of the answer."""
        return str(sample.fields["answer"])

    def candidates(self, sample: Sample, spec: DatasetSpec) -> dict[str, str] | None:
        """Return the options of the sample, or the dataset's ``classes``; ``None`` if there are neither."""
        names = sample.fields.get("options") or spec.classes
        return {str(name): normalise(str(name)) for name in names} if names else None

    def truth(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return the normalised answer."""
        return normalise(str(sample.fields["answer"]))

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> str | None:
        """Read the text in answer tags, or else the whole text; ``None`` if it is empty."""
        return normalise(extract_answer(cut_end_tokens(text))) or None

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return the metrics that the dataset's entry names."""
        names = chosen(spec, _METRICS)
        return MetricCollection({name: Accuracy() for name in names}, compute_groups=False)

    def update(
        self, metrics: MetricCollection, answer: str | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one answer."""
        truth = self.truth(sample, spec)
        right = {
            "exact": answer == truth,
            "contained": answer is not None and f" {truth} " in f" {answer} ",
        }
        for name, metric in metrics.items():
            metric.update(index_tensor(int(right[name])), index_tensor(1))

    def headline(self, spec: DatasetSpec) -> str:
        """Return the first metric that the dataset's entry names."""
        return chosen(spec, _METRICS)[0]
