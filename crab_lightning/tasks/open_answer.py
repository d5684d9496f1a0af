"""A question of one's own, answered in words and compared with the true answer."""

from __future__ import annotations

from typing import Any

from torchmetrics import MetricCollection

from crab_lightning.metrics import Accuracy
from crab_lightning.structures import Conversation, DatasetSpec, Media, Sample
from crab_lightning.tasks.answers import cut_end_tokens, extract_answer, normalise
from crab_lightning.tasks.base import Task, chosen, index_tensor

_METRICS = ("exact", "contained")


class OpenAnswer(Task[str]):
    """Answers any question about any media; the answer is compared with the row's, both normalised.

    Use it for conversations (layout ``messages``) and for plain rows with ``question`` and ``answer``. Reads
    the fields ``question``, ``answer`` and ``options``. A row's ``metrics`` name ``exact`` (the answer is the
    true one) and ``contained`` (the true answer occurs in it as whole words); both in [0, 1], higher is
    better. With ``classes`` in the dataset's row, or ``options`` in the sample, answers can be judged by
    likelihood too.
    """

    def prompt(self, sample: Sample) -> Conversation:
        """Return the media, then the question."""
        media = [*[Media.VIDEO] * len(sample.videos), *[Media.IMAGE] * len(sample.images)]
        return (*media, *[Media.AUDIO] * len(sample.audios), str(sample.fields["question"]))

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row, whose answer is the text to be learnt."""
        return {**row, "target": row.get("text", str(row["answer"]))}

    def direct(self, sample: Sample) -> str:
        """Return the answer alone."""
        return str(sample.fields["answer"])

    def candidates(self, sample: Sample, spec: DatasetSpec) -> dict[str, str] | None:
        """Return the sample's options, else the row's ``classes``; ``None`` where there are neither."""
        names = sample.fields.get("options") or spec.classes
        return {str(name): normalise(str(name)) for name in names} if names else None

    def truth(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return the normalised answer."""
        return normalise(str(sample.fields["answer"]))

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> str | None:
        """Read the answer: what stands in answer tags, else the whole text; ``None`` when it is empty."""
        return normalise(extract_answer(cut_end_tokens(text))) or None

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return the metrics that the row names."""
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
        """Return the first metric that the row names."""
        return chosen(spec, _METRICS)[0]
