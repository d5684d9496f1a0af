"""Cross-modal matching (VGG-CM): which of two videos fits a sound (``a2v``), or the reverse (``v2a``)."""

from __future__ import annotations

import re
from typing import Any

from torchmetrics import MetricCollection

from crab_lightning.metrics import INVALID, Accuracy
from crab_lightning.structures import Conversation, DatasetSpec, Media, Sample
from crab_lightning.tasks.answers import read_choice
from crab_lightning.tasks.base import Task, describe, index_tensor

TWO_VIDEOS_AND_AUDIO = "These are two videos and an audio:"
VIDEO_AND_TWO_AUDIOS = "This is a video and two audio clips:"
CHOOSE_VIDEO = "Please listen to the audio and indicate which of the two videos matches what you hear."
CHOOSE_AUDIO = "Please view the video and indicate which of the two audio clips matches what you see."

_CHOICES = (("one", "two"), ("first", "second"), ("1", "2"))


class CrossModalMatching(Task[int]):
    """Chooses the candidate, 1 or 2, that fits a query of the other modality.

    The candidates are videos if the sample has two videos, and audio clips if it has two audio files. The
    task reads the fields ``match`` and ``match_text``. The score is the accuracy; chance is one half.

    Args:
        lenient: Also read answers with emphasis, "The answer is" before them, or brackets, which untrained
            models write. State it when you report such results.
    """

    def __init__(self, lenient: bool = False) -> None:
        self.lenient = lenient

    def prompt(self, sample: Sample) -> Conversation:
        """Return the opening text, the query, the first and the second candidate, and the instruction.

        Raises:
            ValueError: If the sample has neither two videos and an audio file nor a video and two audio
                files.
        """
        counts = len(sample.videos), len(sample.audios)
        if counts == (2, 1):
            return (TWO_VIDEOS_AND_AUDIO, Media.AUDIO, Media.VIDEO, Media.VIDEO, CHOOSE_VIDEO)
        if counts == (1, 2):
            return (VIDEO_AND_TWO_AUDIOS, Media.VIDEO, Media.AUDIO, Media.AUDIO, CHOOSE_AUDIO)
        raise ValueError(
            f"{sample.id} has {counts[0]} videos and {counts[1]} audio files; matching needs two of one kind "
            "and one of the other"
        )

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with the answer, 1 or 2, as ``match``, and its text as ``match_text``."""
        match = read_choice(str(row["answer"]))
        if match is None:
            raise ValueError(f"answer is {row['answer']!r}; it must be 1 or 2, or 'one' or 'two'")
        return {**row, "match": match, "match_text": str(row["answer"])}

    def explanation(self, sample: Sample, spec: DatasetSpec) -> str:
        """Return sentences that explain the answer format."""
        return "Write one or two inside tags: <answer>one</answer>"

    def direct(self, sample: Sample) -> str:
        """Return the manifest's text of the choice in answer tags, and a full stop."""
        return f"<answer>{sample.fields['match_text']}</answer>."

    def candidates(self, sample: Sample, spec: DatasetSpec) -> dict[str, int]:
        """Return both choices, in the form of the manifest; without one, as ``one`` and ``two``.

        Raises:
            ValueError: If the manifest's text of the choice names neither candidate.
        """
        own = str(sample.fields.get("match_text", "one"))
        for pair in _CHOICES:
            if found := re.search(rf"\b(?:{'|'.join(pair)})\b", own, re.IGNORECASE):
                texts = [own[: found.start()] + word + own[found.end() :] for word in pair]
                return {f"<answer>{text}</answer>.": number for number, text in enumerate(texts, 1)}
        raise ValueError(f"{describe(sample)}: {own!r} names no choice; it must contain one, two, 1 or 2")

    def truth(self, sample: Sample, spec: DatasetSpec) -> int:
        """Return the number of the candidate that fits, 1 or 2."""
        return int(sample.fields["match"])

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> int | None:
        """Read ``1``, ``one`` or ``first`` (or the same for 2), perhaps with words such as "video"."""
        return read_choice(text, lenient=self.lenient)

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        """Return the accuracy."""
        return MetricCollection({"accuracy": Accuracy()})

    def update(
        self, metrics: MetricCollection, answer: int | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        """Add one choice."""
        metrics.update(
            index_tensor(INVALID if answer is None else answer), index_tensor(self.truth(sample, spec))
        )

    def headline(self, spec: DatasetSpec) -> str:
        """Return ``accuracy``."""
        return "accuracy"
