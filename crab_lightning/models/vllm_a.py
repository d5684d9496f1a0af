"""V-LLM+A: Qwen2.5-VL, which has its own vision encoder, and an audio encoder, BEATs in the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from crab_lightning.adapters import AdapterConfig
from crab_lightning.distributed.every_tower import Unread, unread_patches
from crab_lightning.encoders import AudioEncoder, BeatsAudio
from crab_lightning.encoders.base import load_complete
from crab_lightning.models.composite import (
    CompositeModule,
    Modality,
    loaded,
    named,
    splice,
    unread_sound,
)
from crab_lightning.models.connectors import Connector, ConnectorConfig, audio_connector_config
from crab_lightning.models.llm_va import Attention, Dtype
from crab_lightning.models.losses import last_hidden_states
from crab_lightning.processing import Geometry, Processor
from crab_lightning.processing.families import check_family
from crab_lightning.structures import AUDIO, VISUAL, Batch, Media


class VllmAModel(nn.Module):
    """Qwen2.5-VL, an audio encoder and a connector between them.

    Args:
        language_model: Qwen2.5-VL with its vision tower.
        audio: What ``audio_encoder`` has loaded.
        audio_encoder: Says what the features of sound are.
        sizes: Of the connector.
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
            input_ids: ``(B, T)``; not read where ``media_kind`` marks sound.
            media_kind: ``(B, T)``.
            sounds: Prepared sound of all clips ``(G, M, C)``.
            sound_steps: Steps of each of them ``(G,)``.
            inputs: What Qwen2.5-VL takes beside: mask, positions ``(3, B, T)``, patches and grids, cache.

        Returns:
            ``(B, T, D)``.
        """
        embeds = self.language_model.get_input_embeddings()(input_ids)
        if sounds is not None and sound_steps is not None:
            with torch.no_grad():  # frozen in both stages
                heard = self.audio_encoder.encoded(self.audio, sounds, sound_steps)
            embeds = splice(embeds, media_kind, AUDIO, self.audio_connector(*heard))
        # The ids go along: by them the model finds the places of its own pictures.
        return last_hidden_states(self.language_model, input_ids=input_ids, inputs_embeds=embeds, **inputs)


class VllmAModule(CompositeModule):
    """Qwen2.5-VL with adapters in its language model, a frozen audio encoder, and a window-level Q-Former.

    Args:
        pretrained: Folder or hub name of a Qwen2.5-VL checkpoint.
        beats: Published BEATs checkpoint (``BEATs_iter3_plus_AS2M.pt``), or a folder in safetensors. Not read
            when ``audio_encoder`` is set.
        adapter: Kind, size and targets of the adapters; ``null`` trains the connector only.
        optimizer: Class of the optimizer; it gets the trainable parameters after the adapters are inserted.
        warmup_share: Fraction of the optimizer steps in which the learning rate rises; then it falls as a
            cosine.
        max_new_tokens: Longest generated answer, in tokens.
        geometry: Preprocessing of the media. ``released`` has 224 px and 2.0 s per pair of frames, and joins
            the two clips of a question; ``plain`` keeps whole clips and their true times.
        dtype: Type of the frozen weights, ``bfloat16`` or ``float32``; the connector is float32.
        attention: How attention is computed.
        gradient_checkpointing: Recompute the layers of the language model in the backward pass to save
            memory.
        load_adapter: Folder of saved adapters to start from.
        max_length: Largest number of tokens in a sample; a longer sample ends the run. No limit when left
            out.
        train_connectors: ``[audio]`` in stage 1; none in stage 2, which keeps what stage 1 trained.
        audio_connector: Connector file of a stage 1 run; needed unless it is trained.
        connector: Sizes of the connector.
        system: System message; the chat template's own when left out.
        chat_template: File with a Jinja chat template, for tokenizers that have none.
        audio_encoder: Another audio encoder than BEATs, by its class. ``connector.window_tokens`` counts its
            features.

    Raises:
        ValueError: If weights are missing, or the connector would stay random and frozen.

    Sources: arXiv:2603.04128 (4.2, 5.2, 5.3); Qwen2.5-VL arXiv:2502.13923; BEATs arXiv:2212.09058.
    """

    paradigm = "vllm_a"

    def __init__(
        self,
        pretrained: str = "Qwen/Qwen2.5-VL-7B-Instruct",
        beats: str = "BEATs_iter3_plus_AS2M.pt",
        adapter: AdapterConfig | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(
            params, lr=1e-4, weight_decay=0.0, fused=True
        ),
        warmup_share: float = 0.03,
        max_new_tokens: int = 512,
        geometry: Geometry = "released",
        dtype: Dtype = "bfloat16",
        attention: Attention = "sdpa",
        gradient_checkpointing: bool = False,
        load_adapter: str | Path | None = None,
        max_length: int | None = None,
        train_connectors: list[Modality] = [],  # noqa: B006 - jsonargparse shows it
        audio_connector: str | Path | None = None,
        connector: ConnectorConfig = audio_connector_config(),  # noqa: B008 - frozen
        system: str | None = None,
        chat_template: str | Path | None = None,
        audio_encoder: AudioEncoder | None = None,
    ) -> None:
        audio = audio_encoder or named(BeatsAudio(beats), "beats")
        super().__init__(
            adapter,
            optimizer,
            warmup_share,
            max_new_tokens,
            geometry,
            gradient_checkpointing,
            load_adapter,
            train_connectors,
            {"audio": audio_connector},
            {"audio": audio},
        )
        self.audio_encoder = audio
        self.pretrained = str(pretrained)
        self.dtype_name: Dtype = dtype
        self.attention: Attention = attention
        self.max_length = max_length
        self.connector = connector
        self.chat_options: dict[str, Any] = {"system": system, "chat_template": chat_template}

    @property
    def base_name(self) -> str:
        """Folder or hub name of Qwen2.5-VL."""
        return self.pretrained

    def make_processor(self) -> Processor:
        """Return the processor of the checkpoint."""
        from crab_lightning.processing import VllmAProcessor

        return VllmAProcessor(
            self.pretrained,
            self.connector.tokens,
            self.geometry,
            self.max_length,
            audio=self.audio_encoder,
            **self.chat_options,
        )

    def load_base(self) -> nn.Module:
        """Return Qwen2.5-VL, the audio encoder and a random connector."""
        check_family(self.pretrained, "VllmAModule")
        language_model: Any = load_complete(
            Qwen2_5_VLForConditionalGeneration,
            self.pretrained,
            "vision-language model",
            dtype=getattr(torch, self.dtype_name),
            attn_implementation=self.attention,
        )
        audio = loaded(self.audio_encoder, language_model.dtype)
        return VllmAModel(language_model, audio, self.audio_encoder, self.connector)

    def connectors(self) -> dict[Modality, Connector]:
        """Return the audio connector."""
        model: Any = self.model
        return {"audio": model.audio_connector}

    def decoder(self) -> nn.Module:
        """Return the language model without its head and its vision tower."""
        model: Any = self.model
        decoder: nn.Module = model.language_model.get_decoder()
        return decoder

    def head(self) -> nn.Module:
        """Return the language model's head."""
        model: Any = self.model
        head: nn.Module = model.language_model.lm_head
        return head

    def unread_media(self) -> dict[str, Unread]:
        """Return the smallest sound, picture and video that the towers read."""
        processor: Any = self.processor
        pictures = {
            name: unread_patches((name, grid), processor.visual_ids[media])
            for name, grid, media in (
                ("pixel_values", "image_grid_thw", Media.IMAGE),
                ("pixel_values_videos", "video_grid_thw", Media.VIDEO),
            )
        }
        return {"sounds": unread_sound(processor), **pictures}

    def modalities(self, batch: Batch) -> Tensor:
        """Return what stands at each place: sound by the processor's note, pictures by their tokens."""
        processor: Any = self.processor
        ids = batch.inputs["input_ids"]
        seen = torch.isin(ids, torch.tensor(list(processor.visual_ids.values()), device=ids.device))
        return torch.where(seen, VISUAL, batch.inputs["media_kind"])

    def hidden_states(self, inputs: dict[str, Tensor], **options: Any) -> Tensor:
        """Return the last hidden states ``(B, T, D)``."""
        model: Any = self.model
        states: Tensor = model(**inputs, **options)
        return states

    def _model_positions(self, positions: Tensor) -> Tensor:
        return positions

    def _needs_connector(self, modality: Modality) -> bool:
        return True  # the only one there is
