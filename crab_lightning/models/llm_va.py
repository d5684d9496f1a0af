"""LLM+V+A: a text model that gets pictures and sound from encoders, which are CLIP and BEATs in the paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from crab_lightning.distributed.every_tower import Unread
from crab_lightning.encoders import AudioEncoder, ClipVision, VisualEncoder
from crab_lightning.encoders.transformers_encoder import load_complete
from crab_lightning.models.composite import (
    CompositeModule,
    Modality,
    loaded,
    named,
    named_when_absent,
    splice,
    unread_sound,
)
from crab_lightning.models.connectors import Connector, ConnectorConfig
from crab_lightning.processing import LlmVaProcessor, Processor
from crab_lightning.processing.families import check_family
from crab_lightning.structures import AUDIO, VISUAL


class LlmVaModel(nn.Module):
    """A text model, a vision and an audio encoder, and new connectors between them.

    Args:
        language_model: Causal language model that takes ``inputs_embeds``.
        towers: The modules that the encoders loaded.
        visual: Computes the features of frames; a connector makes the tokens of each frame.
        audio: Computes the features of sound; a connector makes the tokens of each second.
        sizes: Sizes of both connectors.
    """

    def __init__(
        self,
        language_model: Any,
        towers: Mapping[Modality, nn.Module],
        visual: VisualEncoder,
        audio: AudioEncoder,
        sizes: ConnectorConfig,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.vision, self.audio = towers["visual"], towers["audio"]
        width = int(language_model.config.get_text_config().hidden_size)
        self.visual_connector = Connector(sizes, visual.width(self.vision), width, visual.name)
        self.audio_connector = Connector(sizes, audio.width(self.audio), width, audio.name, audio.cut)
        self.visual_encoder, self.audio_encoder = visual, audio

    def forward(
        self,
        input_ids: Tensor,
        media_kind: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        frames: Tensor | None = None,
        frame_counts: Tensor | None = None,
        sounds: Tensor | None = None,
        sound_steps: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the last hidden states.

        Args:
            input_ids: ``(B, T)``; media replace the tokens that ``media_kind`` marks.
            media_kind: ``(B, T)``, the modality of each position.
            attention_mask: ``(B, past + T)``, or ``(B, 1, T, past + T)`` to be added to the scores.
            position_ids: ``(B, T)``.
            frames: uint8 ``(F, 3, H, W)`` of all samples.
            frame_counts: Number of frames of each clip or image ``(clips,)``.
            sounds: Prepared pieces of sound of all samples ``(G, M, C)``.
            sound_steps: Number of steps of each piece ``(G,)``.
            options: ``use_cache``, and the cache under :func:`~crab_lightning.compat.cache_argument`.

        Returns:
            ``(B, T, D)``.
        """
        embeds = self.language_model.get_input_embeddings()(input_ids)
        if frames is not None and frame_counts is not None:
            with torch.no_grad():  # frozen in both stages
                features = self.visual_encoder.encoded(self.vision, frames, frame_counts)
            tokens = self.visual_connector(features)
            embeds = splice(embeds, media_kind, VISUAL, tokens)
        if sounds is not None and sound_steps is not None:
            with torch.no_grad():
                heard = self.audio_encoder.encoded(self.audio, sounds, sound_steps)
            embeds = splice(embeds, media_kind, AUDIO, self.audio_connector(*heard))
        decoder = self.language_model.get_decoder()
        found = decoder(
            inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids, **options
        )
        states: Tensor = found.last_hidden_state
        return states


class LlmVaModule(CompositeModule):
    """A text model with adapters, a frozen vision and audio encoder, and a Q-Former connector for each.

    Args:
        pretrained: Folder or hub name of a chat model: Llama 2, Llama 3, or any other causal language model.
        vision: Folder or hub name of a CLIP model; its vision encoder is used. Not read when
            ``visual_encoder`` is set.
        visual_encoder: A vision encoder instead of CLIP, by its class.
        visual_connector: Connector file of a stage 1 run on pictures. When left out, the connector starts
            with random weights.
        connector: Sizes of both connectors.
        train_connectors: Connectors that are trained: both in stage 2, one of them in stage 1.
        end_token: Token that ends an answer; the tokenizer's end token when left out.
        options: The arguments of ``CompositeModule``.

    Raises:
        ValueError: If the kind of the connector is not ``qformer``. When the model is loaded, also if weights
            are missing, or a connector is neither trained nor loaded.

    Sources: arXiv:2603.04128 (4.2, 5.2, 5.3); CLIP arXiv:2103.00020; BEATs arXiv:2212.09058.
    """

    paradigm = "llm_va"
    model_class: ClassVar[Any] = AutoModelForCausalLM
    processor_class: ClassVar[type[LlmVaProcessor]] = LlmVaProcessor
    connected: ClassVar[tuple[Modality, ...]] = ("visual", "audio")

    def __init__(
        self,
        pretrained: str = "meta-llama/Llama-2-7b-chat-hf",
        *,
        vision: str = "openai/clip-vit-large-patch14",
        visual_encoder: VisualEncoder | None = None,
        visual_connector: str | Path | None = None,
        connector: ConnectorConfig = ConnectorConfig(),  # noqa: B008 - frozen
        train_connectors: list[Modality] = ["visual", "audio"],  # noqa: B006 - jsonargparse shows it
        end_token: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(pretrained, connector=connector, train_connectors=train_connectors, **options)
        if connector.kind != "qformer":
            raise ValueError(
                "model.connector.kind must be 'qformer' here, because this model groups tokens by frame"
                " and by second"
            )
        self.visual_encoder = visual_encoder or named(ClipVision(vision), "vision")
        self.encoders = {"visual": self.visual_encoder, **self.encoders}
        self.connector_files = {"visual": visual_connector, **self.connector_files}
        self.chat_options |= {"end_token": end_token}

    def make_processor(self) -> Processor:
        """Return the processor, made from the tokenizer and the two encoders."""
        check_family(self.pretrained, self.processor_class)
        with named_when_absent(self.visual_encoder):
            _ = self.visual_encoder.side_px  # reads its config.json
        return self.processor_class(
            self.pretrained,
            self.visual_encoder,
            self.connector.queries,
            self.geometry,
            self.max_length,
            audio=self.audio_encoder,
            **self.chat_options,
        )

    def load_base(self) -> nn.Module:
        """Return the text model, the encoders and connectors with random weights.

        Raises:
            ValueError: If a checkpoint is of another family or lacks weights, or the text model changes its
                logits after the head.
        """
        check_family(self.pretrained, self.processor_class)
        dtype: torch.dtype = getattr(torch, self.dtype_name)
        language_model: Any = load_complete(
            self.model_class,
            self.pretrained,
            "language model",
            trust_remote_code=False,
            attn_implementation=self.attention,
            dtype=dtype,
        )
        refuse_changed_logits(self.pretrained, language_model.config)
        towers = {modality: loaded(encoder, dtype) for modality, encoder in self.encoders.items()}
        return LlmVaModel(language_model, towers, self.visual_encoder, self.audio_encoder, self.connector)

    def unread_media(self) -> dict[str, Unread]:
        """Return the smallest picture and sound that the encoders read."""
        processor: Any = self.processor
        frame = torch.zeros(1, 3, processor.image_px, processor.image_px, dtype=torch.uint8)
        inputs = {"frames": frame, "frame_counts": torch.ones(1, dtype=torch.long)}
        seen = Unread(inputs, self.connector.queries, processor.chat.pad_token, VISUAL)
        return {"frames": seen, "sounds": unread_sound(processor)}


def refuse_changed_logits(name: str, config: Any) -> None:
    """Raise an error for a model that changes its logits after the head, because this package does not.

    Args:
        name: Folder or hub name of the model, for the error message.
        config: Config of the model.

    Raises:
        ValueError: If the model scales or caps the logits.
    """
    text = config.get_text_config()
    for key, neutral in (("final_logit_softcapping", None), ("logit_scale", 1), ("logits_scaling", 1)):
        value = getattr(text, key, neutral)
        if value not in (None, neutral):
            raise ValueError(
                f"{name}: the config of this model sets {key} to {value}, which LLM+V+A cannot apply. Use "
                "another language model"
            )
