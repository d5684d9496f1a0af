"""LLM+V+A: a text model that gets pictures and sound through encoders, CLIP and BEATs in the paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from crab_lightning.adapters import AdapterConfig
from crab_lightning.distributed.every_tower import Unread
from crab_lightning.encoders import AudioEncoder, BeatsAudio, ClipVision, VisualEncoder
from crab_lightning.encoders.base import load_complete
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
from crab_lightning.processing import Geometry, Processor
from crab_lightning.processing.families import check_family
from crab_lightning.structures import AUDIO, VISUAL

Dtype = Literal["bfloat16", "float32"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]


class LlmVaModel(nn.Module):
    """Text model, vision and audio encoder, and two connectors.

    Args:
        language_model: Causal language model that takes ``inputs_embeds``.
        vision: What ``visual_encoder`` has loaded.
        audio: What ``audio_encoder`` has loaded.
        visual_connector: 32 tokens of each frame.
        audio_connector: 32 tokens of each second of sound.
        visual_encoder: Says what the features of frames are.
        audio_encoder: Says what the features of sound are.
    """

    def __init__(
        self,
        language_model: Any,
        vision: nn.Module,
        audio: nn.Module,
        visual_connector: Connector,
        audio_connector: Connector,
        visual_encoder: VisualEncoder,
        audio_encoder: AudioEncoder,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.vision, self.audio = vision, audio
        self.visual_connector, self.audio_connector = visual_connector, audio_connector
        self.visual_encoder, self.audio_encoder = visual_encoder, audio_encoder

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
            input_ids: ``(B, T)``; not read where ``media_kind`` marks media.
            media_kind: ``(B, T)``.
            attention_mask: ``(B, T)``, past tokens included.
            position_ids: ``(B, T)``.
            frames: uint8 ``(F, 3, H, W)`` of all samples.
            frame_counts: Frames of each clip or image ``(clips,)``.
            sounds: Prepared pieces of sound of all samples ``(G, M, C)``.
            sound_steps: Steps of each of them ``(G,)``.
            options: ``use_cache``, and the cache under :func:`~crab_lightning.compat.cache_argument`.

        Returns:
            ``(B, T, D)``.
        """
        embeds = self.language_model.get_input_embeddings()(input_ids)
        if frames is not None and frame_counts is not None:
            with torch.no_grad():  # frozen in both stages
                features = self.visual_encoder.features(self.vision, frames, frame_counts)
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
    """Text model with adapters, frozen vision and audio encoder, and a Q-Former connector for each.

    Args:
        pretrained: Folder or hub name of a chat model: Llama 2, Llama 3, or any other causal language model.
        vision: Folder or hub name of a CLIP model; its vision encoder is used. Not read when
            ``visual_encoder`` is set.
        beats: Published BEATs checkpoint (``BEATs_iter3_plus_AS2M.pt``), or a folder in safetensors. Not read
            when ``audio_encoder`` is set.
        adapter: Kind, size and targets of the adapters; ``null`` trains connectors only.
        optimizer: Class of the optimizer; it gets the trainable parameters after the adapters are inserted.
        warmup_share: Fraction of the optimizer steps in which the learning rate rises; then it falls as a
            cosine.
        max_new_tokens: Longest generated answer, in tokens.
        geometry: Preprocessing of the media. ``released`` joins the two clips of a question and cuts sound as
            the released recipe does; ``plain`` keeps whole clips.
        dtype: Type of the frozen weights, ``bfloat16`` or ``float32``; connectors are float32.
        attention: How the language model's attention is computed.
        gradient_checkpointing: Recompute the layers of the language model in the backward pass to save
            memory.
        load_adapter: Folder of saved adapters and connectors to start from.
        max_length: Largest number of tokens in a sample; a longer sample ends the run. No limit when left
            out.
        train_connectors: Connectors that are trained: both in stage 2, one of them in stage 1.
        visual_connector: Connector file of a stage 1 run on pictures; the connector starts with random
            weights when left out.
        audio_connector: Connector file of a stage 1 run on sound; the connector starts with random weights
            when left out.
        connector: Sizes of both connectors.
        system: System message; none when left out.
        chat_template: File with a Jinja chat template, for tokenizers that have none.
        end_token: Token that ends an answer; the tokenizer's end token when left out.
        visual_encoder: Another vision encoder than CLIP, by its class.
        audio_encoder: Another audio encoder than BEATs, by its class.

    Raises:
        ValueError: If weights are missing, or a connector would stay random and frozen.

    Sources: arXiv:2603.04128 (4.2, 5.2, 5.3); CLIP arXiv:2103.00020; BEATs arXiv:2212.09058.
    """

    paradigm = "llm_va"

    def __init__(
        self,
        pretrained: str = "meta-llama/Llama-2-7b-chat-hf",
        vision: str = "openai/clip-vit-large-patch14",
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
        train_connectors: list[Modality] = ["visual", "audio"],  # noqa: B006 - jsonargparse shows it
        visual_connector: str | Path | None = None,
        audio_connector: str | Path | None = None,
        connector: ConnectorConfig = ConnectorConfig(),  # noqa: B008 - frozen
        system: str | None = None,
        chat_template: str | Path | None = None,
        end_token: str | None = None,
        visual_encoder: VisualEncoder | None = None,
        audio_encoder: AudioEncoder | None = None,
    ) -> None:
        visual = visual_encoder or named(ClipVision(vision), "vision")
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
            {"visual": visual_connector, "audio": audio_connector},
            {"visual": visual, "audio": audio},
        )
        self.visual_encoder, self.audio_encoder = visual, audio
        if connector.kind != "qformer":
            raise ValueError(
                "model.connector.kind must be 'qformer' here, because this model groups tokens by frame"
                " and by second"
            )
        self.pretrained = str(pretrained)
        self.dtype_name: Dtype = dtype
        self.attention: Attention = attention
        self.max_length = max_length
        self.connector = connector
        self.chat_options: dict[str, Any] = {
            "system": system,
            "chat_template": chat_template,
            "end_token": end_token,
        }

    @property
    def base_name(self) -> str:
        """Folder or hub name of the language model."""
        return self.pretrained

    def make_processor(self) -> Processor:
        """Return the processor of the language model's tokenizer and the encoders' ways to prepare media."""
        from crab_lightning.processing import LlmVaProcessor

        check_family(self.pretrained, "LlmVaModule")
        with named_when_absent(self.visual_encoder):
            _ = self.visual_encoder.side_px  # reads its config.json
        return LlmVaProcessor(
            self.pretrained,
            self.visual_encoder,
            self.connector.queries,
            self.geometry,
            self.max_length,
            audio=self.audio_encoder,
            **self.chat_options,
        )

    def load_base(self) -> nn.Module:
        """Return the text model, the encoders and random connectors."""
        check_family(self.pretrained, "LlmVaModule")
        dtype: torch.dtype = getattr(torch, self.dtype_name)
        language_model: Any = load_complete(
            AutoModelForCausalLM,
            self.pretrained,
            "language model",
            trust_remote_code=False,
            attn_implementation=self.attention,
            dtype=dtype,
        )
        refuse_changed_logits(self.pretrained, language_model.config)
        towers = {modality: loaded(encoder, dtype) for modality, encoder in self.encoders.items()}
        return assemble(language_model, towers, self.visual_encoder, self.audio_encoder, self.connector)

    def connectors(self) -> dict[Modality, Connector]:
        """Return both connectors."""
        model: Any = self.model
        return {"visual": model.visual_connector, "audio": model.audio_connector}

    def decoder(self) -> nn.Module:
        """Return the language model without its head."""
        model: Any = self.model
        decoder: nn.Module = model.language_model.get_decoder()
        return decoder

    def head(self) -> nn.Module:
        """Return the language model's head."""
        model: Any = self.model
        head: nn.Module = model.language_model.get_output_embeddings()
        return head

    def unread_media(self) -> dict[str, Unread]:
        """Return the smallest picture and sound that the encoders read."""
        processor: Any = self.processor
        frame = torch.zeros(1, 3, processor.image_px, processor.image_px, dtype=torch.uint8)
        inputs = {"frames": frame, "frame_counts": torch.ones(1, dtype=torch.long)}
        seen = Unread(inputs, self.connector.queries, processor.chat.pad_token, VISUAL)
        return {"frames": seen, "sounds": unread_sound(processor)}

    def hidden_states(self, inputs: dict[str, Tensor], **options: Any) -> Tensor:
        """Return the last hidden states ``(B, T, D)``."""
        model: Any = self.model
        states: Tensor = model(**inputs, **options)
        return states


def assemble(
    language_model: Any,
    towers: Mapping[Modality, nn.Module],
    visual: VisualEncoder,
    audio: AudioEncoder,
    sizes: ConnectorConfig,
) -> LlmVaModel:
    """Put a text model and encoders together, with random connectors between them."""
    width = int(language_model.config.get_text_config().hidden_size)
    seen = Connector(sizes, visual.width(towers["visual"]), width, visual.name)
    heard = Connector(sizes, audio.width(towers["audio"]), width, audio.name, audio.cut)
    return LlmVaModel(language_model, towers["visual"], towers["audio"], seen, heard, visual, audio)


def refuse_changed_logits(name: str, config: Any) -> None:
    """Refuse a model that changes its logits behind the head, since loss and answers read the head itself.

    Raises:
        ValueError: If it scales or caps them.
    """
    text = config.get_text_config()
    for key, neutral in (("final_logit_softcapping", None), ("logit_scale", 1), ("logits_scaling", 1)):
        value = getattr(text, key, neutral)
        if value not in (None, neutral):
            raise ValueError(f"{name}: its config sets {key} to {value}, which LLM+V+A does not apply")
