"""How models answer: they generate text, or compute the probabilities of a closed set of answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from crab_lightning.adapters import AnnouncedBatch, Places
from crab_lightning.models.asked import AskedModule, Predictions
from crab_lightning.models.decoder_pass import DecoderPass, Past, can_run, embedded
from crab_lightning.models.engine import Answer, AnswerEngine, Sampling, padded
from crab_lightning.models.likelihood import Answers, PromptReader
from crab_lightning.processing.base import IGNORED_LABEL
from crab_lightning.structures import TEXT, Batch, CandidateScores, Prediction, Sample

_REMEMBERED = 10_000


class PromptInputs(NamedTuple):
    """B left-padded prompts.

    Args:
        ids: ``(B, T)``.
        mask: ``(B, T)``, 0 in padding.
        positions: ``(3, B, T)``.
        media: Inputs of the model's forward for the media at the placeholders.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    media: Mapping[str, Tensor]


class Answering(AskedModule, ABC):
    """The base class of models with weights; it answers prompts."""

    model: Any
    """The base model with its adapters, an object of a class of transformers or of this package."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._announced: AnnouncedBatch | None = None
        self._answer_tokens: dict[str, list[int]] = {}
        self._stream: AnswerEngine | None = None

    @abstractmethod
    def prompt_inputs(self, batch: Batch) -> PromptInputs:
        """Return the tokens and the media of a batch of left-padded prompts."""

    @abstractmethod
    def read_tokens(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any, media: Mapping[str, Tensor]
    ) -> Tensor:
        """Read tokens that follow those in the cache, and return their hidden states ``(B, T, D)``.

        Args:
            ids: ``(B, T)``.
            positions: ``(3, B, T)``.
            mask: ``(B, past + T)``, or ``(B, 1, T, past + T)`` to be added to the attention scores.
            cache: Keys and values of the tokens read before; those of the new tokens are added to it.
            media: Inputs for the media at the placeholders among ``ids``; empty without placeholders.
        """

    @abstractmethod
    def answer_head(self) -> nn.Module:
        """Return the layer that maps hidden states to logits."""

    @abstractmethod
    def text_config(self) -> Any:
        """Return the config of the language model."""

    @abstractmethod
    def decoder(self) -> nn.Module:
        """Return the language model inside ``self.model``, to which adapters are added."""

    # What the adapters are told

    def announce(self, batch: Batch) -> None:
        """Tell the adapters which batch runs next: its tasks, and the modality of each position."""
        if self._announced is not None:
            self._announced.tell([sample.task for sample in batch.samples], lambda: self.places(batch))

    def announce_row(self, batch: Batch, row: int) -> None:
        """Tell the adapters that one row of a batch runs next, without its padding."""
        if self._announced is None:
            return
        present = batch.inputs["attention_mask"][row].bool()
        self._announced.tell(
            [batch.samples[row].task], lambda: Places(*(p[row, present][None] for p in self.places(batch)))
        )

    def announce_step(self, samples: Sequence[Sample]) -> None:
        """Tell the adapters that one more token of text follows for each of these samples."""
        if self._announced is None:
            return

        def places() -> Places:
            modality = torch.full((len(samples), 1), TEXT, device=self.device)
            present = torch.ones_like(modality, dtype=torch.bool)
            return Places(modality, ~present, present)

        self._announced.tell([sample.task for sample in samples], places)

    def places(self, batch: Batch) -> Places:
        """Return the content of each position of the language model's sequences."""
        present = batch.inputs["attention_mask"].bool()
        prompt = present if batch.labels is None else present & (batch.labels == IGNORED_LABEL)
        return Places(self.modalities(batch), prompt, present)

    @abstractmethod
    def modalities(self, batch: Batch) -> Tensor:
        """Return ``TEXT``, ``VISUAL`` or ``AUDIO`` of ``structures`` for each position, ``(B, T)``."""

    @torch.no_grad()
    def generate(self, batch: Batch) -> Predictions:
        """Answer B prompts with the likeliest tokens, with candidate probabilities, or both, by ``decoding``.

        Raises:
            ValueError: If the batch has labels, or candidate probabilities are needed with flash_attention_2.
        """
        if batch.labels is not None:
            raise ValueError("generate got a batch with labels; collate prompts (examples without a target)")
        if self.decoding == "generate" and self._streams():
            engine = self.engine(slots=len(batch))
            with self._answering():
                answers = self.queue(engine, batch)
                while engine.busy:
                    engine.step()
            return Predictions(map(self.prediction, answers))
        with self._answering():
            self.announce(batch)
            offered = [self._candidates_of(sample) for sample in batch.samples]
            reader = self.prompt_reader(batch)
            writes = self.decoding != "likelihood" or not all(offered)
            weighs = any(offered)
            if self._shards_weights():  # every process has to read as often as the others
                writes, weighs = self._on_any_process(writes, weighs)
            written = self._written(reader) if writes else None
            weights = self._weighed(reader, offered) if weighs else [None] * len(batch)
        made = Predictions()
        for row, sample in enumerate(batch.samples):
            found = weights[row]
            if written is None or (self.decoding == "likelihood" and found is not None):
                made.append(Prediction(sample, "", candidates=found))
            else:
                tokens = written.tokens[row]
                text = self.processor.decode(tokens)
                made.append(Prediction(sample, text, len(tokens), written.truncated[row], found))
        return made

    # Answers that are finished in another order than the prompts

    @torch.no_grad()
    def stream(self, batch: Batch) -> Predictions | None:
        """Accept a batch of prompts and return the answers that are finished now, of this or earlier batches.

        Call :meth:`drain` after the last batch. Samples that only repeat another sample are left out.

        Returns:
            The answers; ``None`` if answers cannot be given in another order, because weights are sharded,
            candidate probabilities are needed, or attention is flash_attention_2.
        """
        if self.decoding != "generate" or not self._streams():
            return None
        if self._stream is None:
            self._stream = self.engine(slots=len(batch))
        engine = self._stream
        with self._answering():
            answers = self.queue(engine, batch)
            for answer, repeated in zip(answers, batch.repeated, strict=True):
                answer.cancelled = repeated
            while engine.waiting:  # the last answers are written together with those of the next batch
                engine.step()
        return Predictions(self.prediction(answer) for answer in engine.take() if not answer.cancelled)

    @torch.no_grad()
    def drain(self) -> Predictions:
        """Finish the answers that :meth:`stream` has begun, and return them."""
        engine, self._stream = self._stream, None
        if engine is None:
            return Predictions()
        with self._answering():
            while engine.busy:
                engine.step()
        return Predictions(self.prediction(answer) for answer in engine.take() if not answer.cancelled)

    def engine(self, slots: int) -> AnswerEngine:
        """Return an engine that writes up to ``slots`` answers of this model at the same time."""

        def read(ids: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Tensor:
            return self.read_tokens(ids, positions, mask, cache, {})

        # Autocast would cast values inside the operations that DecoderPass joins.
        direct = can_run(self.decoder()) and not torch.is_autocast_enabled(self.device.type)
        blocks = DecoderPass(self.model, self.decoder()) if direct else None
        step = read if blocks is None else blocks.step
        head, end_token = self.answer_head(), self.processor.end_token
        return AnswerEngine(step, head, end_token, self.announce_step, slots, blocks)

    @torch.no_grad()
    def queue(
        self,
        engine: AnswerEngine,
        batch: Batch,
        sampling: Sequence[Sampling] | None = None,
        limits: Sequence[int] | None = None,
    ) -> list[Answer]:
        """Read a batch of prompts and put their answers into the queue of an engine.

        Args:
            engine: The engine that writes the answers.
            batch: B prompts.
            sampling: How the tokens of each answer are chosen; the likeliest tokens when left out.
            limits: Largest number of tokens of each answer; ``max_new_tokens`` when left out.

        Returns:
            The B answers, which the engine fills step by step.

        Raises:
            ValueError: If a prompt is padded to the right, or a limit is below 1.
        """
        self.announce(batch)
        inputs = self.prompt_inputs(batch)
        chosen = sampling or [Sampling()] * len(batch)
        most = limits or [self.max_new_tokens] * len(batch)
        answers = list(map(Answer, batch.samples, most, chosen))

        def read(ids: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Tensor:
            return self.read_tokens(ids, positions, mask, cache, inputs.media)

        def directly(ids: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, list[Past]]:
            assert engine.blocks is not None
            blocks = engine.blocks
            embeds, placed = embedded(
                self.decoder(), blocks.once, lambda: read(ids, positions, mask, DynamicCache())
            )
            return blocks.prompts(embeds, placed, mask, partial(self.announce_row, batch))

        way = padded(read) if engine.blocks is None else directly
        engine.add(answers, inputs.ids, inputs.mask, inputs.positions, way)
        return answers

    @torch.no_grad()
    def weigh(self, batch: Batch, texts: Sequence[str]) -> list[tuple[list[int], list[float]]]:
        """Return the tokens of one given answer to each of B prompts, and how likely each token is.

        Args:
            batch: B prompts.
            texts: The B answers without the end token; the result includes the end token.

        Returns:
            For each answer the tokens and their log-probabilities in nats.

        Raises:
            ValueError: If attention is flash_attention_2.
        """
        self._check_weighing()
        self.announce(batch)
        tokens = [self.processor.answer_tokens(text) for text in texts]
        found = self.prompt_reader(batch).token_log_probs([[row] for row in tokens])
        return [(row, values[0]) for row, values in zip(tokens, found, strict=True)]

    def prediction(self, answer: Answer) -> Prediction:
        """Return an answer as text."""
        text = self.processor.decode(answer.tokens)
        return Prediction(answer.sample, text, len(answer.tokens), answer.truncated)

    def prompt_reader(self, batch: Batch) -> PromptReader:
        """Return a reader of a batch of left-padded prompts; it reads nothing yet."""
        inputs = self.prompt_inputs(batch)
        cache = DynamicCache(config=self.text_config())

        def read(ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
            media = inputs.media if cache.get_seq_length() == 0 else {}  # read once, with the prompt
            return self.read_tokens(ids, positions, mask, cache, media)

        return PromptReader(read, self.answer_head(), inputs.ids, inputs.mask, inputs.positions)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Put the model in evaluation mode while the context is open."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def _streams(self) -> bool:
        """Whether the answers of a batch may be finished at different times."""
        # flash_attention_2 accepts no mask for each row, and sharded weights need equal steps.
        return not self._shards_weights() and getattr(self, "attention", None) != "flash_attention_2"

    def answer(self, batch: Batch) -> Answers:
        """Return the generated tokens of a batch of left-padded prompts."""
        return self._written(self.prompt_reader(batch))

    def _written(self, reader: PromptReader) -> Answers:
        return reader.answers(
            max_new_tokens=self.max_new_tokens,
            end_token=self.processor.end_token,
            synchronize=self._shards_weights(),
        )

    def _weighed(
        self, reader: PromptReader, offered: Sequence[tuple[str, ...]]
    ) -> list[CandidateScores | None]:
        self._check_weighing()
        tokens = [[self._tokens_of(text) for text in texts] for texts in offered]
        found = reader.token_log_probs(tokens, synchronize=self._shards_weights())
        return [
            CandidateScores(texts, tuple(map(sum, row)), tuple(map(len, row))) if texts else None
            for texts, row in zip(offered, found, strict=True)
        ]

    def _check_weighing(self) -> None:
        if getattr(self, "attention", None) == "flash_attention_2":
            raise ValueError(
                "the probabilities of candidate answers need an attention mask that flash_attention_2 does "
                "not support; set model.attention to sdpa, or evaluator.decoding to generate"
            )

    def _tokens_of(self, text: str) -> list[int]:
        """Return the tokens of an answer; they are kept, because many samples have the same candidates."""
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
        """Return whether the weights are sharded over processes, so that each step is a collective call."""
        trainer = self._trainer
        return trainer is not None and trainer.world_size > 1 and "DDP" not in type(trainer.strategy).__name__
