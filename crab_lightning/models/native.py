"""The model with the thinker of Qwen2.5-Omni, which has its own encoders for sound and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, Qwen2_5OmniThinkerForConditionalGeneration

from crab_lightning.adapters.insert import draw_adapters
from crab_lightning.adapters.quantized import four_bit_config
from crab_lightning.compat import cache_argument, from_config
from crab_lightning.distributed.every_tower import Unread, unread_patches
from crab_lightning.distributed.shard_files import fill_shards, parameters_on_meta
from crab_lightning.distributed.sharding import shard_device, shards_at_load
from crab_lightning.encoders.transformers_encoder import load_complete
from crab_lightning.media import MEL_BINS
from crab_lightning.models.answering import PromptInputs
from crab_lightning.models.base import AVModule
from crab_lightning.models.checkpoints import refuse_inherited
from crab_lightning.models.losses import last_hidden_states, target_losses
from crab_lightning.processing import NativeProcessor, Processor
from crab_lightning.processing.families import check_family
from crab_lightning.structures import AUDIO, TEXT, VISUAL, Batch

Init = Literal["pretrained", "random"]
Quantization = Literal["4bit"]

_NOT_MEDIA = ("input_ids", "attention_mask", "position_ids")


class OmniModule(AVModule):
    """The thinker of Qwen2.5-Omni, frozen, with adapters in its language model.

    Args:
        pretrained: Folder or hub name of a Qwen2.5-Omni checkpoint, the whole model or its thinker.
        quantization: ``4bit`` keeps the linear layers of the frozen language model in 4 bits (NF4, QLoRA).
            This needs bitsandbytes and a CUDA device. When left out, these layers have the type ``dtype``.
        init: ``pretrained`` loads the weights; ``random`` reads only the config and makes random weights, for
            benchmarks.
        options: The arguments of ``AVModule``.

    Shapes: B samples, T text tokens, M mel frames (10 ms each), P image patches. See ``Batch``.

    Raises:
        ValueError: If ``quantization`` is set without adapters or with ``init: random``. When the model is
            loaded, also if an entry of ``adapter.target_modules`` matches no linear layer, or weights are
            missing.

    Sources: base model arXiv:2503.20215; I-LoRA arXiv:2603.04128.
    """

    paradigm = "native"
    thinker_class: ClassVar[Any] = Qwen2_5OmniThinkerForConditionalGeneration
    processor_class: ClassVar[type[NativeProcessor]] = NativeProcessor

    def __init__(
        self,
        pretrained: str = "Qwen/Qwen2.5-Omni-7B",
        *,
        init: Init = "pretrained",
        quantization: Quantization | None = None,
        **options: Any,
    ) -> None:
        super().__init__(pretrained, **options)
        self.init: Init = init
        if quantization is not None and (init == "random" or self.adapter is None):
            raise ValueError(
                f"quantization is {quantization!r}; it needs adapters (4-bit weights cannot be trained) and "
                "init pretrained. Set model.adapter or leave quantization out"
            )
        self.quantization: Quantization | None = quantization

    def make_processor(self) -> Processor:
        """Return the processor of the checkpoint."""
        return self.processor_class(self.pretrained, self.geometry, self.max_length)

    def load_base(self) -> nn.Module:
        """Return the thinker; the talker and the vocoder of a full Omni checkpoint are not loaded.

        Raises:
            ImportError: If ``quantization`` is set and bitsandbytes is not installed.
            ValueError: If the checkpoint is of another family, a derived class lacks its ``thinker_class``,
                or weights of the thinker are missing or have another shape.
        """
        options: dict[str, Any] = {
            "dtype": getattr(torch, self.dtype_name),
            "attn_implementation": self.attention,
        }
        if self.quantization is not None:
            options["quantization_config"] = four_bit_config(options["dtype"])
            options["device_map"] = {"": torch.cuda.current_device()}  # bitsandbytes packs weights on the GPU
        check_family(self.pretrained, self.processor_class)
        refuse_inherited(type(self), "thinker_class", self.pretrained)
        model: Any
        if self.init == "random" or self._fills_shards:
            config = AutoConfig.from_pretrained(self.pretrained, trust_remote_code=False)
            config = getattr(config, "thinker_config", config)
            with parameters_on_meta() if self._fills_shards else nullcontext():
                model = from_config(self.thinker_class, config, **options)
        else:
            what = f"{self.processor_class.family} thinker"
            model = load_complete(self.thinker_class, self.pretrained, what, **options)
        # This input format never uses this parameter, so it would get no gradient.
        for name, parameter in model.named_parameters():
            if name.endswith("audio_tower.audio_bos_eos_token.weight"):
                parameter.requires_grad = False
        base: nn.Module = model
        return base

    @property
    def _fills_shards(self) -> bool:
        """Whether each process reads only its part of the weights, after sharding."""
        if self.init == "random" or self.quantization is not None or not shards_at_load(self._trainer):
            return False
        processor: Any = self.processor
        # A weight that two layers share (in small models) would become two weights when it gets storage.
        config = processor.thinker_config
        text = config.get_text_config()
        return not getattr(text, "tie_word_embeddings", config.tie_word_embeddings)  # either config has it

    def set_trainable(self) -> None:
        """Give the adapters storage and first values, if the base model has no storage yet."""
        if self._fills_shards:
            draw_adapters(self.model)

    def fill_shards(self, part: nn.Module) -> None:
        """Read this process's weights of a part of the base model, if weights are read after sharding."""
        if self._fills_shards:
            fill_shards(self.model, self.pretrained, shard_device(self._trainer), part)

    def decoder(self) -> nn.Module:
        """Return the language model."""
        decoder: nn.Module = self.model.get_decoder()
        return decoder

    def _checkpoint_layers(self) -> None:
        super()._checkpoint_layers()
        if self._trains_beyond_decoder:
            # The towers are trained too. Re-entrant checkpointing would give their adapters no gradient,
            # because the inputs of the towers need none.
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def unread_media(self) -> dict[str, Unread]:
        """Return the smallest sound, picture and video that the towers read; each gives one token."""
        places = self.processor.placeholders  # type: ignore[attr-defined]
        patch_px = self.processor_class.rules.patch_px
        shortest = {  # the fewest mel frames that give a token
            "input_features": torch.zeros(1, MEL_BINS, 3),
            "feature_attention_mask": torch.ones(1, 3, dtype=torch.long),
        }
        pictures = unread_patches(places.image, places.video, patch_px)
        return {"input_features": Unread(shortest, 1, places.audio), **pictures}

    def modalities(self, batch: Batch) -> Tensor:
        """Return the modality of each position ``(B, T)``, from the placeholder tokens."""
        ids, places = batch.inputs["input_ids"], self.processor.placeholders  # type: ignore[attr-defined]
        seen = (ids == places.image) | (ids == places.video)
        return torch.where(seen, VISUAL, torch.where(ids == places.audio, AUDIO, TEXT))

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed target loss, fp32 ``(B,)``, and the number of target tokens, int64 ``(B,)``."""
        if batch.labels is None:
            raise ValueError("the loss needs a batch with targets, but this batch has prompts only")
        inputs, config = {**batch.inputs}, self.text_config()
        own_keys = config.num_attention_heads == config.num_key_value_heads
        if self.attention == "sdpa" and own_keys and bool(inputs["attention_mask"][:, 0].all()):
            # The padding is after the texts, and no token attends to later tokens. Without a mask torch skips
            # half of the attention, and on a CPU the results are equal to the last bit. If heads share keys,
            # torch would add the gradients of these heads in another order.
            del inputs["attention_mask"]
        hidden = last_hidden_states(self.model, **inputs, use_cache=False)
        return target_losses(hidden, batch.labels, self.model.lm_head)

    def prompt_inputs(self, batch: Batch) -> PromptInputs:
        """Return the tokens and the media of a batch of left-padded prompts."""
        inputs = batch.inputs
        media = {k: v for k, v in inputs.items() if k not in _NOT_MEDIA}
        return PromptInputs(inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"], media)

    def read_tokens(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any, media: Mapping[str, Tensor]
    ) -> Tensor:
        """Read tokens that follow those in the cache; see :class:`Answering`."""
        return last_hidden_states(
            self.model,
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            use_cache=True,
            **{cache_argument(self.model): cache},
            **media,
        )

    def answer_head(self) -> nn.Module:
        """Return the layer that maps hidden states to logits."""
        head: nn.Module = self.model.lm_head
        return head

    def text_config(self) -> Any:
        """Return the config of the language model."""
        return self.model.config.get_text_config()
