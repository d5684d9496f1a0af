"""What can be chosen about reasoning texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crab_lightning.builder.reasoning.prompts import Length
from crab_lightning.builder.reasoning.questions import BOUNDS, Bounds

Policy = Literal["short", "full", "auto"]


@dataclass(frozen=True)
class Settings:
    """How texts are asked for and checked.

    Args:
        length: Length of the reasoning. ``auto`` wants full reasoning only where ``answers`` shows that a
            cheap model's direct answer was wrong or unsure, and the bare answer elsewhere.
        tries: How often a text is asked for before the row is given up.
        least_words: Fewest words of the reasoning; by length when left out.
        most_words: Most words of the reasoning; by length when left out.
        examples: Folder of YAML files that take precedence over the shipped instructions and examples.
        leakage: File of phrases that no text may hold; the shipped one when left out.
        answers: Prediction files, or their folder, of a cheap model that answered the training rows.
        sure: A direct answer counts as sure if the model gives it at least this probability.
        frames: Frames of each video; those of the dataset when left out.
        size_px: Side of the frames; that of the dataset when left out.
        discarded: What becomes of a row without a good text: ``drop`` leaves it out of the manifest,
            ``direct`` keeps it with its bare answer.

    Raises:
        ValueError: If a number is out of its range, or ``auto`` has no answers.
    """

    length: Policy = "full"
    tries: int = 3
    least_words: int | None = None
    most_words: int | None = None
    examples: Path | None = None
    leakage: Path | None = None
    answers: Path | None = None
    sure: float = 0.9
    frames: int | None = None
    size_px: int | None = None
    discarded: Literal["drop", "direct"] = "drop"

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"--tries is {self.tries}; at least 1 is needed")
        if (self.length == "auto") != (self.answers is not None):
            raise ValueError(
                "--length auto and --answers belong together: auto wants reasoning where the direct"
                " answer of a small model was wrong or uncertain, and the prediction files in --answers"
                " say where that is"
            )
        if self.examples is not None and not self.examples.is_dir():
            raise NotADirectoryError(f"--examples {self.examples} is not a folder")

    def bounds(self, length: Length) -> Bounds:
        """Return how many words the reasoning may have."""
        usual = BOUNDS[length]
        least = usual.least if self.least_words is None else self.least_words
        return Bounds(least, usual.most if self.most_words is None else self.most_words)
