"""V-LLM+A: Qwen2.5-VL, which has a vision encoder, and an audio encoder, which is BEATs in the paper."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from crab_lightning.distributed.every_tower import Unread, unread_patches
from crab_lightning.encoders import AudioEncoder
from crab_lightning.encoders.transformers_encoder import load_complete
from crab_lightning.models.checkpoints import refuse_inherited
from crab_lightning.models.composite import (
    CompositeModule,
    Modality,
    loaded,
    splice,
    unread_sound,
)
from crab_lightning.models.connectors import Connector, ConnectorConfig
from crab_lightning.models.losses import last_hidden_states
from crab_lightning.processing import Processor, VllmAProcessor
from crab_lightning.processing.families import check_family
from crab_lightning.structures import AUDIO, VISUAL, Batch, Media


class VllmAModel(nn.Module):
    """Qwen2.5-VL, an audio encoder and a connector between them.

    Args:
        language_model: Qwen2.5-VL with its vision tower.
        audio: Module that ``audio_encoder`` loaded.
        audio_encoder: Computes the features of sound with ``audio``.
        sizes: Sizes of the connector.
    """

    def __init__(
        self, language_model: Any, audio: nn.Module, audio_encoder: AudioEncoder, sizes: ConnectorConfig
    ) -> None:
        super().__init__()
        self.language_model, self.audio, self.audio_encoder = language_model, audio, audio_encoder
        width = int(language_model.config.get_text_config().hidden_size)
        self.audio_connector = Connector(sizes, audio_encoder.width(audio), width, audio_encoder.name)

    def forward(
        self,
        input_ids: Tensor,
        media_kind: Tensor,
        sounds: Tensor | None = None,
        sound_steps: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Return the last hidden states.

        Args:
            input_ids: ``(B, T)``; sound replaces the tokens that ``media_kind`` marks as sound.
            media_kind: ``(B, T)``, ``AUDIO`` at sound, else ``TEXT``.
            sounds: Prepared sound of all clips ``(G, M, C)``.
            sound_steps: Number of steps of each clip ``(G,)``.
            inputs: Other arguments of Qwen2.5-VL: mask, positions ``(3, B, T)``, patches and grids, cache.

        Returns:
            ``(B, T, D)``.
        """
        embeds = self.language_model.get_input_embeddings()(input_ids)
        if sounds is not None and sound_steps is not None:
            with torch.no_grad():  # frozen in both stages
                heard = self.audio_encoder.encoded(self.audio, sounds, sound_steps)
            embeds = splice(embeds, media_kind, AUDIO, self.audio_connector(*heard))
        # The model needs the ids to find the placeholders of pictures.
        return last_hidden_states(self.language_model, input_ids=input_ids, inputs_embeds=embeds, **inputs)


WINDOWED = ConnectorConfig(kind="window_qformer", queries=1)


class VllmAModule(CompositeModule):
    """Qwen2.5-VL with adapters in its language model, a frozen audio encoder, and a window-level Q-Former.

    Args:
        pretrained: Folder or hub name of a Qwen2.5-VL checkpoint.
        connector: Sizes of the connector; ``window_tokens`` counts features of the audio encoder.
        train_connectors: ``[audio]`` in stage 1; empty in stage 2, which uses the connector of stage 1.
        options: The arguments of ``CompositeModule``. Set ``audio_connector`` unless the connector is
            trained.

    Raises:
        ValueError: When the model is loaded, if weights are missing, or the connector is neither trained nor
            loaded.

    Sources: arXiv:2603.04128 (4.2, 5.2, 5.3); Qwen2.5-VL arXiv:2502.13923; BEATs arXiv:2212.09058.
    """

    paradigm = "vllm_a"
    model_class: ClassVar[Any] = Qwen2_5_VLForConditionalGeneration
    processor_class: ClassVar[type[VllmAProcessor]] = VllmAProcessor

    def __init__(
        self,
        pretrained: str = "Qwen/Qwen2.5-VL-7B-Instruct",
        *,
        connector: ConnectorConfig = WINDOWED,
        train_connectors: list[Modality] = [],  # noqa: B006 - jsonargparse shows it
        **options: Any,
    ) -> None:
        super().__init__(pretrained, connector=connector, train_connectors=train_connectors, **options)

    def make_processor(self) -> Processor:
        """Return the processor of the checkpoint."""
        return self.processor_class(
            self.pretrained,
            self.connector.tokens,
            self.geometry,
            self.max_length,
            audio=self.audio_encoder,
            **self.chat_options,
        )

    def load_base(self) -> nn.Module:
        """Return Qwen2.5-VL, the audio encoder and a connector with random weights.

        Raises:
            ValueError: If a checkpoint is of another family or lacks weights, or a derived class lacks its
                ``model_class``.
        """
        check_family(self.pretrained, self.processor_class)
        refuse_inherited(type(self), "model_class", self.pretrained)
        language_model: Any = load_complete(
            self.model_class,
            self.pretrained,
            "vision-language model",
            dtype=getattr(torch, self.dtype_name),
            attn_implementation=self.attention,
        )
        audio = loaded(self.audio_encoder, language_model.dtype)
        return VllmAModel(language_model, audio, self.audio_encoder, self.connector)

    def unread_media(self) -> dict[str, Unread]:
        """Return the smallest sound, picture and video that the towers read."""
        processor: Any = self.processor
        ids = processor.visual_ids
        return {"sounds": unread_sound(processor), **unread_patches(ids[Media.IMAGE], ids[Media.VIDEO])}

    def modalities(self, batch: Batch) -> Tensor:
        """Return the modality of each position ``(B, T)``: sound from the batch, pictures from the tokens."""
        processor: Any = self.processor
        ids = batch.inputs["input_ids"]
        seen = torch.isin(ids, torch.tensor(list(processor.visual_ids.values()), device=ids.device))
        return torch.where(seen, VISUAL, batch.inputs["media_kind"])

    def _model_positions(self, positions: Tensor) -> Tensor:
        return positions

    def _needs_connector(self, modality: Modality) -> bool:
        return True  # it is the only connector
