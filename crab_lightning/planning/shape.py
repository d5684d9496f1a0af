"""Sizes of a model that memory and time follow from, counted on the meta device: no weight is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crab_lightning.adapters import AdapterConfig

# Sizes of the published thinker (Qwen2.5-Omni technical report, arXiv:2503.20215, and the checkpoint's
# config.json), so that a plan needs neither network nor weights. What is left out is transformers' default.
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "Qwen/Qwen2.5-Omni-7B": {
        "text_config": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
        },
        "vision_config": {
            "hidden_size": 1280,
            "depth": 32,
            "num_heads": 16,
            "intermediate_size": 3420,
            "out_hidden_size": 3584,
        },
        "audio_config": {
            "d_model": 1280,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "output_dim": 3584,
        },
    },
}


@dataclass(frozen=True)
class Shape:
    """Numbers of parameters and widths of a native thinker with its adapters.

    Args:
        source: Where the sizes come from.
        layers: Decoder layers.
        hidden: Width of the decoder.
        ffn: Width inside its feed-forward layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_width: Width of a head.
        vocabulary: Tokens that the head tells apart.
        decoder: Parameters of all decoder layers.
        towers: Parameters of the towers.
        layer: Parameters of the largest layer of all, adapters left out.
        rest: Parameters outside of layers: embeddings, head, norms, the towers' ends.
        vision: Width, feed-forward width and parameters of the vision tower.
        audio: Width, feed-forward width and parameters of the audio tower.
        adapters: Parameters of the adapters.
        layer_adapters: Adapter parameters of one decoder layer.
        adapted: Adapted linear layers in one decoder layer.
        rank: Width of their low-rank activation.
        routes: Heads that each routes over; 0 without a router.
        adapter_bytes: Bytes of an adapter weight.
        trains_towers: Whether adapters, or everything, train inside the towers too.
    """

    source: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    decoder: int
    towers: int
    layer: int
    rest: int
    vision: tuple[int, int, int]
    audio: tuple[int, int, int]
    adapters: int
    layer_adapters: int
    adapted: int
    rank: int
    routes: int
    adapter_bytes: int
    trains_towers: bool

    @property
    def base(self) -> int:
        """Parameters of the base, towers included."""
        return self.decoder + self.towers + self.rest


def thinker_config(pretrained: str) -> tuple[Any, str]:
    """Return a thinker's config and where it comes from: a folder's config.json, or published sizes.

    Raises:
        FileNotFoundError: If it is neither a folder with a config nor a name whose sizes are known here.
    """
    from transformers import AutoConfig, Qwen2_5OmniThinkerConfig

    if (Path(pretrained) / "config.json").is_file():
        config = AutoConfig.from_pretrained(pretrained)
        return getattr(config, "thinker_config", config), f"{pretrained}/config.json"
    if pretrained in PUBLISHED:
        return Qwen2_5OmniThinkerConfig(**PUBLISHED[pretrained]), f"published sizes of {pretrained}"
    raise FileNotFoundError(
        f"model.pretrained {pretrained}: no such folder with a config.json, and its sizes are not known here "
        f"(known: {', '.join(PUBLISHED)}). Give a folder; its weights are not read"
    )


def measure(pretrained: str, adapter: AdapterConfig | None) -> Shape:
    """Build a thinker with its adapters on the meta device and count.

    Args:
        pretrained: Folder or known name of the checkpoint.
        adapter: The adapters; ``None`` trains every weight.
    """
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    from crab_lightning.adapters import LoRALinear, insert_adapters
    from crab_lightning.models.checkpoints import towers_of

    config, source = thinker_config(pretrained)
    with torch.device("meta"):
        model: Any = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config)
        decoder: Any = model.get_decoder()
        towers = towers_of(model)
        stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
        layer = max(count(part.parameters()) for stack in stacks for part in stack)
        base, in_towers = count(model.parameters()), count(p for t in towers for p in t.parameters())
        in_decoder = count(decoder.layers.parameters())
        vision, audio = (count(tower.parameters()) for tower in towers)
        if adapter is not None:
            insert_adapters(model, adapter, root=decoder if adapter.within == "language_model" else None)
    text = config.get_text_config()
    first = [m for m in decoder.layers[0].modules() if isinstance(m, LoRALinear)]
    trained = [p for p in model.parameters() if p.requires_grad] if adapter is not None else []
    trains_towers = adapter is None or any(p.requires_grad for t in towers for p in t.parameters())
    vision_sizes, audio_sizes = config.vision_config, config.audio_config
    return Shape(
        source=source,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        ffn=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
        decoder=in_decoder,
        towers=in_towers,
        layer=layer,
        rest=base - in_decoder - in_towers,
        vision=(vision_sizes.hidden_size, vision_sizes.intermediate_size, vision),
        audio=(audio_sizes.d_model, audio_sizes.encoder_ffn_dim, audio),
        adapters=count(trained),
        layer_adapters=count(p for m in first for p in m.parameters(recurse=False)),
        adapted=len(first),
        rank=0 if adapter is None else adapter.rank,
        routes=next((m.heads for m in first if m.routed), 0),
        adapter_bytes=2 if adapter is not None and adapter.dtype == "bfloat16" else 4,
        trains_towers=trains_towers,
    )


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Return the number of values in parameters."""
    return sum(p.numel() for p in parameters)
