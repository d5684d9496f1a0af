"""Captioning: a free text about the pictures and the sound of a clip (a VALOR subset, ``avcap``)."""

from __future__ import annotations

from typing import Any

from torchmetrics import MetricCollection

from crab_lightning.metrics import CaptionScores
from crab_lightning.metrics.caption_tools import TOKENIZERS, Tokenizer, choose_tokenizer
from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks.answers import cut_end_tokens
from crab_lightning.tasks.base import InstructedTask


class Captioning(InstructedTask[str]):
    """Describes a clip; the manifest's text is the reference caption.

    An empty answer counts as unreadable and is scored as an empty caption. A caption has no shorter form, so
    both target policies give the manifest's text.

    Args:
        tokenizer: Tokenizer of the scores: ``ptb`` is the published one (it needs Java), ``python`` needs no
            Java, and ``auto`` takes ``ptb`` if it runs.
        with_meteor: Whether METEOR is also reported (it needs Java).
    """

    instruction = "Please describe this video and audio."

    def __init__(self, tokenizer: Tokenizer = "auto", with_meteor: bool = False) -> None:
        self.tokenizer: Tokenizer = tokenizer
        self.with_meteor = with_meteor

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the answer as the caption to be learnt.

        Raises:
            KeyError: If the row has neither an answer nor a target.
            ValueError: If the row has both, and they differ.
        """
        caption = row.get("text") or row.get("target") or row["answer"]
        if "text" not in row and row.get("answer", caption) != caption:
            raise ValueError(
                f"the answer is {row['answer']!r} and the target {caption!r}, but this task learns and "
                "scores one text. Correct the row: keep one of the two keys."
            )
        return {**row, "target": caption}

    def direct(self, sample: Sample) -> str:
        """Return the manifest's text."""
        return self.target(sample, "reasoning")

    def truth(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return the reference caption."""
        return self.target(sample, "reasoning").strip()

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> str | None:
        """Return the text before its end token; ``None`` if it is empty."""
        return cut_end_tokens(text).strip() or None

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return BLEU, ROUGE-L, CIDEr and, with ``with_meteor``, METEOR."""
        return MetricCollection({"caption": CaptionScores(self.tokenizer, self.with_meteor)})

    def update(
        self, metrics: MetricCollection, answer: str | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one caption with its reference."""
        metrics.update([answer or ""], [[self.truth(sample, spec)]])

    def score(self, answer: str | None, sample: Sample, spec: DatasetSpec) -> None:
        """Return ``None``: CIDEr weights words by the whole test set, so a single caption has no score."""

    def note(self, spec: DatasetSpec) -> str:
        """Return a remark that names the tokenizer of the scores."""
        used = choose_tokenizer(self.tokenizer)
        return f"captions are split by the tokenizer {used}: {TOKENIZERS[used]}"

    def headline(self, spec: DatasetSpec) -> str:
        """Return ``cider``."""
        return "cider"
