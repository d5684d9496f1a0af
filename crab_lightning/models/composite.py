"""The base class of the two models with connectors: encoders, trained connectors, frozen weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed import get_rank, is_available, is_initialized

from crab_lightning.adapters.kinds.lora import adapter_layers
from crab_lightning.compat import cache_argument
from crab_lightning.distributed.every_tower import Unread
from crab_lightning.distributed.sharding import readable_weights
from crab_lightning.encoders import AudioEncoder, BeatsAudio, VisualEncoder
from crab_lightning.models.answering import PromptInputs
from crab_lightning.models.base import AVModule
from crab_lightning.models.checkpoints import clear_when_absent
from crab_lightning.models.connectors import (
    PUBLISHED_ENCODERS,
    Connector,
    ConnectorConfig,
    connector_state,
    load_connector,
    save_connector,
)
from crab_lightning.models.losses import target_losses
from crab_lightning.structures import AUDIO, Batch

Modality = Literal["visual", "audio"]
AnyEncoder = TypeVar("AnyEncoder", AudioEncoder, VisualEncoder)
_TEXT_INPUTS = ("input_ids", "media_kind", "attention_mask", "position_ids")


class CompositeModule(AVModule):
    """A language model, frozen encoders and connectors between them.

    Only the adapters, if any, and the connectors in ``train_connectors`` are trained. All other weights are
    frozen. A run checks this before the first step and prints it as a table.

    Args:
        pretrained: Folder or hub name of the language model.
        connector: Sizes of the connectors.
        train_connectors: Connectors that are trained.
        beats: Published BEATs checkpoint (``BEATs_iter3_plus_AS2M.pt``), or a folder in safetensors. Not read
            when ``audio_encoder`` is set.
        audio_encoder: An audio encoder instead of BEATs, by its class.
        audio_connector: Connector file of a stage 1 run on sound. When left out, the connector starts with
            random weights.
        system: System message. When left out, the chat template decides.
        chat_template: File with a Jinja chat template, for tokenizers that have none.
        options: The arguments of ``AVModule``.

    Raises:
        ValueError: If ``train_connectors`` names a connector that the model does not have.
    """

    connected: ClassVar[tuple[Modality, ...]] = ("audio",)
    """The modalities that reach the language model through a connector."""

    def __init__(
        self,
        pretrained: str,
        *,
        connector: ConnectorConfig,
        train_connectors: list[Modality],
        beats: str = "BEATs_iter3_plus_AS2M.pt",
        audio_encoder: AudioEncoder | None = None,
        audio_connector: str | Path | None = None,
        system: str | None = None,
        chat_template: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(pretrained, **options)
        if unknown := [name for name in train_connectors if name not in self.connected]:
            known = ", ".join(self.connected)
            raise ValueError(f"model.train_connectors contains {unknown[0]!r}; this model has: {known}")
        self.train_connectors = list(train_connectors)
        self.connector = connector
        self.audio_encoder = audio_encoder or named(BeatsAudio(beats), "beats")
        self.encoders: dict[Modality, AudioEncoder | VisualEncoder] = {"audio": self.audio_encoder}
        self.connector_files: dict[Modality, str | Path | None] = {"audio": audio_connector}
        self.chat_options: dict[str, Any] = {"system": system, "chat_template": chat_template}

    # Parts

    def connectors(self) -> dict[Modality, Connector]:
        """Return the connectors inside ``self.model``."""
        return {modality: getattr(self.model, f"{modality}_connector") for modality in self.connected}

    def decoder(self) -> nn.Module:
        """Return the language model without its head."""
        decoder: nn.Module = self.model.language_model.get_decoder()
        return decoder

    def answer_head(self) -> nn.Module:
        """Return the layer that maps hidden states to logits."""
        head: nn.Module = self.model.language_model.get_output_embeddings()
        return head

    def hidden_states(self, inputs: dict[str, Tensor], **options: Any) -> Tensor:
        """Return the last hidden states ``(B, T, D)``."""
        states: Tensor = self.model(**inputs, **options)
        return states

    # Construction

    def modalities(self, batch: Batch) -> Tensor:
        """Return the modality of each position ``(B, T)``, which the processor stores in the batch."""
        return batch.inputs["media_kind"]

    @property
    def freezes_base(self) -> bool:
        """Always True, because encoders and language model are never trained."""
        return True

    @property
    def saves_parts(self) -> bool:
        """Whether there are adapters or trained connectors to save."""
        return self.adapter is not None or bool(self.train_connectors)

    def set_trainable(self) -> None:
        """Freeze all weights but adapters and trained connectors, and load the files of connectors.

        Raises:
            ValueError: If a connector is neither trained nor loaded, so that it would keep random weights, or
                a file does not fit.
            FileNotFoundError: If a connector file does not exist.
        """
        self.model.requires_grad_(False)
        for parameter in self._adapter_parameters():
            parameter.requires_grad = True
        for modality, connector in self.connectors().items():
            trained, key = modality in self.train_connectors, f"model.{modality}_connector"
            connector.requires_grad_(trained)
            if (file := self.connector_files[modality]) is not None:
                if self.load_adapter is None or not trained:  # a trained one is in that folder
                    load_connector(connector, modality, Path(file), key)
            elif not trained and self._needs_connector(modality):
                raise ValueError(
                    f"{key} is null and model.train_connectors does not contain {modality!r}: the connector"
                    f" would keep random weights. Give the connector file of a stage 1 run, or train it"
                )

    def _adapter_parameters(self) -> list[nn.Parameter]:
        return [p for layer in adapter_layers(self.model).values() for p in layer.parameters(recurse=False)]

    def _needs_connector(self, modality: Modality) -> bool:
        # Stage 1 has no adapters: it trains one connector, on data of the same modality.
        return self.adapter is not None

    def train(self, mode: bool = True) -> CompositeModule:
        """Switch adapters and trained connectors to training mode; other parts stay in evaluation mode."""
        super().train(mode)
        if hasattr(self, "model"):
            for modality in self.train_connectors:
                self.connectors()[modality].train(mode)
        return self

    def on_fit_start(self) -> None:
        """Check that only adapters and trained connectors are trainable, and print the trained parameters."""
        self.check_policy()
        super().on_fit_start()

    def check_policy(self) -> None:
        """Check that the trainable parameters are exactly those of adapters and trained connectors.

        Raises:
            RuntimeError: If another parameter is trainable, or one of these parameters is frozen.
        """
        wanted = {id(p) for p in self._adapter_parameters()}
        for modality in self.train_connectors:
            wanted |= {id(p) for p in self.connectors()[modality].parameters()}
        names = {id(p): name for name, p in self.named_parameters()}
        found = {id(p) for p in self.parameters() if p.requires_grad}
        if found != wanted:
            raise RuntimeError(
                f"only the adapters and the connectors {self.train_connectors} are to be trained, but "
                f"{len(found - wanted)} other parameters are trainable (first: "
                f"{sorted(names[i] for i in found - wanted)[:1]}), and {len(wanted - found)} parameters of "
                f"adapters and connectors are frozen (first: {sorted(names[i] for i in wanted - found)[:1]})"
            )

    # Saving

    def save_adapter(self, folder: Path | str) -> None:
        """Write adapters and trained connectors to a folder, which ``model.load_adapter`` reads.

        Raises:
            ValueError: If the model has neither.
        """
        if not self.saves_parts:
            raise ValueError("nothing to save: model.adapter is null and model.train_connectors is empty")
        folder = Path(folder)
        if self.adapter is not None:
            super().save_adapter(folder)
        for modality in self.train_connectors:
            connector = self.connectors()[modality]
            with readable_weights(self._trainer):  # sharded weights exist only inside this context
                state = connector_state(connector)
                if not (is_available() and is_initialized()) or get_rank() == 0:
                    save_connector(state, connector, modality, folder / f"{modality}_connector.safetensors")

    def load_saved(self, folder: Path) -> None:
        """Load the adapters and all trained connectors from a folder.

        Raises:
            AdapterError: If the adapters are missing or do not fit.
            FileNotFoundError: If the file of a trained connector is missing.
            ConnectorFileError: If a connector does not fit.
        """
        super().load_saved(folder)
        for modality in self.train_connectors:
            file = folder / f"{modality}_connector.safetensors"
            load_connector(self.connectors()[modality], modality, file, "model.load_adapter")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise an error for a checkpoint whose trained connectors belong to another encoder.

        Raises:
            ValueError: If the encoders differ, or for a reason of the parent class.
        """
        stored = checkpoint.get("crab_lightning", {}).get("init", {})
        for modality, encoder in self.encoders.items():
            path = (stored.get(f"{modality}_encoder") or {}).get("class_path", PUBLISHED_ENCODERS[modality])
            if modality in self.train_connectors and (found := path.rpartition(".")[2]) != encoder.name:
                raise ValueError(
                    f"the checkpoint was trained with the {modality} encoder {found}, but this run has "
                    f"{encoder.name}. Set model.{modality}_encoder to that of the checkpoint"
                )
        super().on_load_checkpoint(checkpoint)

    # Learning and answering

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed target loss, fp32 ``(B,)``, and the number of target tokens, int64 ``(B,)``."""
        if batch.labels is None:
            raise ValueError("the loss needs a batch with targets, but this batch has prompts only")
        hidden = self.hidden_states(self._positioned(batch.inputs), use_cache=False)
        return target_losses(hidden, batch.labels, self.answer_head())

    def prompt_inputs(self, batch: Batch) -> PromptInputs:
        """Return the tokens and the media of a batch of left-padded prompts."""
        inputs = self._positioned(batch.inputs)
        positions = inputs["position_ids"]
        return PromptInputs(
            inputs["input_ids"],
            inputs["attention_mask"],
            positions if positions.ndim == 3 else positions.expand(3, -1, -1),
            {k: v for k, v in inputs.items() if k not in _TEXT_INPUTS} | {"media_kind": inputs["media_kind"]},
        )

    def read_tokens(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any, media: Mapping[str, Tensor]
    ) -> Tensor:
        """Read tokens that follow those in the cache; see :class:`Answering`."""
        step = {"media_kind": torch.zeros_like(ids)} | dict(media)
        step |= {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": self._model_positions(positions),
        }
        past = {cache_argument(self.model.language_model): cache}
        return self.hidden_states(step, use_cache=True, **past)

    def text_config(self) -> Any:
        """Return the config of the language model."""
        return self.model.language_model.config.get_text_config()

    def _positioned(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs with ``position_ids``; if the processor made none, the mask is counted."""
        if "position_ids" in inputs:
            return inputs
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return inputs | {"position_ids": positions}

    def _model_positions(self, positions: Tensor) -> Tensor:
        """Return positions ``(3, B, T)`` in the shape that the language model takes."""
        return positions[0]


def splice(embeds: Tensor, media_kind: Tensor, kind: int, tokens: Tensor) -> Tensor:
    """Return embeddings in which media tokens replace the placeholders of one modality, in order.

    Args:
        embeds: ``(B, T, D)``.
        media_kind: ``(B, T)``, the modality of each position.
        kind: The modality to replace: ``VISUAL`` or ``AUDIO`` of ``structures``.
        tokens: ``(N, D)``, of all samples in order.

    Raises:
        ValueError: If the number of placeholders is not N.
    """
    places = media_kind == kind
    if int(places.sum()) != len(tokens):
        raise ValueError(
            f"there are {int(places.sum())} placeholders of media kind {kind} for {len(tokens)} tokens: the"
            f" processor and the connector use different numbers of tokens for a frame or segment"
        )
    return embeds.masked_scatter(places[..., None], tokens.to(embeds.dtype))


def named(encoder: AnyEncoder, key: str) -> AnyEncoder:
    """Set the argument of the model that an encoder's error messages name, and return the encoder."""
    encoder.key = key
    return encoder


def named_when_absent(encoder: AudioEncoder | VisualEncoder) -> AbstractContextManager[None]:
    """Return a context in which the error for a missing checkpoint names the encoder's argument."""
    return clear_when_absent(f"model.{encoder.key} {encoder.pretrained}: no checkpoint")


def loaded(encoder: AudioEncoder | VisualEncoder, dtype: torch.dtype) -> nn.Module:
    """Return the module of an encoder with its weights.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If the checkpoint is of another family, weights are missing, ``load`` returns no module,
            or the features of a clip depend on the other clips of a batch.
    """
    with named_when_absent(encoder):
        tower = encoder.load(dtype)
    if not isinstance(tower, nn.Module):
        raise ValueError(
            f"{type(encoder).__name__}.load returns {tower!r:.60}; it must return the loaded nn.Module"
        )
    if not type(encoder).__module__.startswith("crab_lightning."):  # tests have checked those of this package
        encoder.check_apart(tower.eval())
    return tower


def unread_sound(processor: Any) -> Unread:
    """Return the shortest sound that the audio encoder reads.

    Args:
        processor: Processor of the model; it has the audio encoder and the token at placeholders.
    """
    sound = processor.audio.prepared(torch.zeros(1))
    inputs = {"sounds": sound[None], "sound_steps": torch.tensor([len(sound)])}
    return Unread(inputs, processor.audio_tokens(len(sound)), processor.chat.pad_token, AUDIO)
