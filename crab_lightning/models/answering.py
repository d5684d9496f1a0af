"""How every paradigm answers: in its own words, or by weighing the answers that a question leaves open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule

from crab_lightning.models.decoding import Answers
from crab_lightning.models.likelihood import PromptReader
from crab_lightning.processing import Processor
from crab_lightning.structures import Batch, CandidateScores, Decoding, Prediction, Sample

Candidates = Callable[[Sample], Sequence[str] | None]

_REMEMBERED = 10_000


class Predictions(list[Prediction]):
    """Answers that Lightning moves between devices as one piece, since there is nothing in them to move.

    Left a plain list, ``Trainer.predict`` would walk into the samples and stop at their being frozen.
    """

    def to(self, *_: Any, **__: Any) -> Predictions:
        """Return itself."""
        return self


class Answering(LightningModule, ABC):
    """The part of a model that answers prompts."""

    max_new_tokens: int

    def __init__(self) -> None:
        super().__init__()
        self.decoding: Decoding = "generate"
        """How prompts are answered; anything but ``generate`` needs ``candidates``."""
        self.candidates: Candidates | None = None
        """The answers that a question leaves open, as texts; the Evaluator asks the tasks for them."""
        self._answer_tokens: dict[str, list[int]] = {}

    @property
    @abstractmethod
    def processor(self) -> Processor:
        """The processor of this model."""

    @abstractmethod
    def prompt_reader(self, batch: Batch) -> PromptReader:
        """Return what reads a batch of left-padded prompts; nothing is read yet."""

    @abstractmethod
    def announce(self, batch: Batch) -> None:
        """Tell the adapters which batch runs next."""

    @torch.no_grad()
    def generate(self, batch: Batch) -> Predictions:
        """Answer B prompts greedily, weigh the candidates of those that have some, or both, by ``decoding``.

        Each answer is what the prompt alone would get.

        Raises:
            ValueError: If the batch is padded for training.
        """
        if batch.labels is not None:
            raise ValueError("generate got a batch with labels; collate prompts (examples without a target)")
        training = self.training
        self.announce(batch)
        self.eval()
        try:
            offered = [self._candidates_of(sample) for sample in batch.samples]
            reader = self.prompt_reader(batch)
            writes = self.decoding != "likelihood" or not all(offered)
            weighs = any(offered)
            if self._shards_weights():  # every process has to read as often as the others
                writes, weighs = self._on_any_process(writes, weighs)
            answers = self._written(reader) if writes else None
            weights = self._weighed(reader, offered) if weighs else [None] * len(batch)
        finally:
            self.train(training)
        made = Predictions()
        for row, sample in enumerate(batch.samples):
            found = weights[row]
            if answers is None or (self.decoding == "likelihood" and found is not None):
                made.append(Prediction(sample, "", candidates=found))
            else:
                tokens = answers.tokens[row]
                text = self.processor.decode(tokens)
                made.append(Prediction(sample, text, len(tokens), answers.truncated[row], found))
        return made

    def answer(self, batch: Batch) -> Answers:
        """Return the generated tokens of a batch of left-padded prompts."""
        return self._written(self.prompt_reader(batch))

    def _written(self, reader: PromptReader) -> Answers:
        return reader.answers(
            max_new_tokens=self.max_new_tokens,
            end_token=self.processor.end_token,
            synchronize=self._shards_weights(),
        )

    def _candidates_of(self, sample: Sample) -> tuple[str, ...]:
        if self.decoding == "generate" or self.candidates is None:
            return ()
        return tuple(self.candidates(sample) or ())

    def _weighed(
        self, reader: PromptReader, offered: Sequence[tuple[str, ...]]
    ) -> list[CandidateScores | None]:
        if getattr(self, "attention", None) == "flash_attention_2":
            raise ValueError(
                "candidate answers are weighed under a mask that flash_attention_2 does not take; set "
                "model.attention to sdpa, or evaluator.decoding to generate"
            )
        tokens = [[self._tokens_of(text) for text in texts] for texts in offered]
        sums = reader.log_probs(tokens, synchronize=self._shards_weights())
        return [
            CandidateScores(texts, tuple(row), tuple(map(len, lengths))) if texts else None
            for texts, row, lengths in zip(offered, sums, tokens, strict=True)
        ]

    def _tokens_of(self, text: str) -> list[int]:
        """Return an answer's tokens; a closed set's come back with every sample."""
        if text not in self._answer_tokens:
            if len(self._answer_tokens) >= _REMEMBERED:
                self._answer_tokens.clear()
            self._answer_tokens[text] = self.processor.answer_tokens(text)
        return self._answer_tokens[text]

    def _on_any_process(self, *flags: bool) -> list[bool]:
        gathered: Any = self.all_gather(torch.tensor(flags, device=self.device))
        anywhere: list[bool] = gathered.reshape(-1, len(flags)).any(0).tolist()
        return anywhere

    def _shards_weights(self) -> bool:
        """Tell whether the weights lie on several processes, so that each step is a collective call."""
        trainer = self._trainer
        return trainer is not None and trainer.world_size > 1 and "DDP" not in type(trainer.strategy).__name__
