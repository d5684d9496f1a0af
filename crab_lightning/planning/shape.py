"""Sizes of a model that memory and time follow from, counted on the meta device: no weight is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crab_lightning.adapters import AdapterConfig
from crab_lightning.compat import from_config
from crab_lightning.files import parsed_yaml

if TYPE_CHECKING:
    from crab_lightning.models.native import OmniModule
    from crab_lightning.processing.families import Reader

_SIZES = Path(__file__).with_name("published_sizes.yaml")
"""Sizes of published checkpoints, so that a plan needs neither network nor weights."""

SAMPLE: dict[str, dict[str, Any]] = {
    # 49 tokens a pair of frames in the place of 64, 13 a second of sound in the place of 25
    "Qwen3OmniModule": {"sample_tokens": (530, 1035), "patches": 980}
}
"""What a sample of AV-UIE v2 takes where it differs from Qwen2.5-Omni."""


@dataclass(frozen=True)
class ConnectorShape:
    """Sizes of a connector that is trained.

    Args:
        encoder_width: Width of the features that it reads.
        encoder_tokens: Features of a sample.
        groups: Frames, seconds or windows that they lie in.
        queries: Tokens that it makes of each.
        hidden: Width of its Q-Former.
        ffn: Width inside its feed-forward layers.
        heads: Its heads.
        layers: Its layers.
        width: Width of the decoder.
        dropout: Whether it drops activations, whose masks are kept.
    """

    encoder_width: int
    encoder_tokens: int
    groups: int
    queries: int
    hidden: int
    ffn: int
    heads: int
    layers: int
    width: int
    dropout: bool

    @property
    def kept_bytes(self) -> float:
        """Bytes that it keeps of a sample for backward, in float32.

        Once its features, before and after the norm; in each layer keys, values and attention of the
        features, attention and activations of the queries; what the projection reads and makes.
        """
        drop = 8 if self.dropout else 0  # a mask and what it leaves
        read = self.encoder_tokens * (8 * self.encoder_width + 8)
        across = self.encoder_tokens * (8 * self.hidden + self.heads * self.queries * (4 + drop))
        places = self.groups * self.queries
        among = places * self.heads * self.queries * (4 + drop)
        within = 4 * places * ((7 + drop) * self.hidden + 2 * self.ffn)
        projected = 4 * places * (2 * self.hidden + 2 * self.width)
        return read + self.layers * (across + among + within) + projected


@dataclass(frozen=True)
class Shape:
    """Numbers of parameters and widths of a model with its adapters.

    Args:
        source: Where the sizes come from.
        layers: Decoder layers.
        hidden: Width of the decoder.
        ffn: Width inside its feed-forward layers; of experts, of those that a token goes through.
        heads: Query heads.
        head_width: Width of a head.
        vocabulary: Tokens that the head tells apart.
        decoder: Parameters of all decoder layers.
        towers: Parameters of the towers.
        layer: Parameters of the largest layer of all, adapters left out.
        rest: Parameters outside of layers: embeddings, head, norms, the towers' ends.
        vision: Width, feed-forward width and parameters of the vision tower.
        audio: Width, feed-forward width and parameters of the audio tower.
        adapters: Parameters of the adapters, and of the connectors that are trained.
        layer_adapters: Adapter parameters of one decoder layer.
        adapted: Adapted linear layers in one decoder layer, without experts.
        rank: Width of their low-rank activation.
        routes: Heads that each routes over; 0 without a router.
        adapter_bytes: Bytes of a trained weight beside a frozen base.
        trains_towers: Whether adapters, or everything, train inside the towers too.
        connectors: Connectors that are trained.
        sample_tokens: Mean tokens of a sample of AV-UIE v2, and tokens of its longest ones.
        patches: Vision patches of a sample of ten frames.
        idle: Parameters of experts that a token does not go through, in all decoder layers.
        idle_adapters: The same of adapters on experts.
        expert_values: Values that the adapters on experts keep for backward in a layer, for each token.
    """

    source: str
    layers: int
    hidden: int
    ffn: int
    heads: int
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
    connectors: tuple[ConnectorShape, ...] = ()
    sample_tokens: tuple[int, int] = (725, 1350)
    patches: int = 1280
    idle: int = 0
    idle_adapters: int = 0
    expert_values: int = 0

    @property
    def base(self) -> int:
        """Parameters of the base, towers included."""
        return self.decoder + self.towers + self.rest


def known_config(
    group: str, key: str, name: str, kind: Any, reader: type[Reader] | None = None, *, part: bool = False
) -> tuple[Any, str]:
    """Return a checkpoint's config and where it comes from: a folder's config.json, or published sizes.

    Args:
        group: Group of the published sizes: ``native`` or ``composite``.
        key: Key of the config that names the checkpoint, for messages.
        name: Folder or known name of the checkpoint.
        kind: Class of the config, which published sizes are given to.
        reader: Processor of the model that reads the checkpoint; left out, its family is not checked.
        part: Whether a folder's config.json may be that of a larger model, of which ``kind`` reads its part.

    Raises:
        FileNotFoundError: If it is neither a folder with a config nor a name whose sizes are known here.
        ValueError: If the model that ``reader`` prepares inputs for does not read that family.
    """
    from transformers import AutoConfig

    from crab_lightning.processing.families import check_family

    if (Path(name) / "config.json").is_file():
        if reader is not None:
            check_family(name, reader)
        found = (kind if part else AutoConfig).from_pretrained(name, trust_remote_code=False)
        return getattr(found, "thinker_config", found), f"{name}/config.json"
    published = parsed_yaml(_SIZES.read_text(encoding="utf-8"))[group]
    if name in published:
        return kind(**published[name]), f"published sizes of {name}"
    raise FileNotFoundError(
        f"{key} {name}: no such folder with a config.json, and its sizes are not known here "
        f"(known: {', '.join(published)}). Give a folder; its weights are not read"
    )


def measure(pretrained: str, adapter: AdapterConfig | None, module: type[OmniModule] | None = None) -> Shape:
    """Build a thinker with its adapters on the meta device and count.

    Args:
        pretrained: Folder or known name of the checkpoint.
        adapter: The adapters; ``None`` trains every weight.
        module: Class that reads it; ``OmniModule`` when left out.
    """
    from crab_lightning.models.checkpoints import towers_of
    from crab_lightning.models.native import OmniModule

    module = module or OmniModule
    kind = module.thinker_class.config_class
    config, source = known_config("native", "model.pretrained", pretrained, kind, module.processor_class)
    with torch.device("meta"):
        model: Any = from_config(module.thinker_class, config)
    decoder, towers = model.get_decoder(), towers_of(model)
    vision, audio = (count(tower.parameters()) for tower in towers)
    base = adapted(model, decoder, towers, adapter)
    vision_sizes, audio_sizes = config.vision_config, config.audio_config
    return shape_of(
        source,
        model,
        config.get_text_config(),
        decoder,
        towers,
        adapter,
        base=base,
        vision=(vision_sizes.hidden_size, vision_sizes.intermediate_size, vision),
        audio=(audio_sizes.d_model, audio_sizes.encoder_ffn_dim, audio),
        **next((SAMPLE[c.__name__] for c in module.__mro__ if c.__name__ in SAMPLE), {}),
    )


def adapted(
    model: nn.Module,
    decoder: Any,
    towers: Sequence[nn.Module],
    adapter: AdapterConfig | None,
    trained: Sequence[nn.Module] = (),
) -> tuple[int, int, int, int]:
    """Insert the adapters, if any, and return what the base has without them.

    Args:
        model: The model, on the meta device.
        decoder: The language model inside it.
        towers: Its encoders.
        adapter: Its adapters, if any.
        trained: Connectors that are trained, which are no part of the base.

    Returns:
        Parameters of the base, of its decoder layers, its towers and its largest layer.
    """
    from crab_lightning.adapters import insert_adapters

    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layer = max(count(part.parameters()) for stack in stacks for part in stack)
    whole, in_trained, in_towers = (
        count(p for module in modules for p in module.parameters()) for modules in ([model], trained, towers)
    )
    base = (whole - in_trained, count(decoder.layers.parameters()), in_towers, layer)
    if adapter is not None:
        with torch.device("meta"):
            insert_adapters(model, adapter, root=decoder if adapter.within == "language_model" else None)
    return base


def shape_of(
    source: str,
    model: nn.Module,
    text: Any,
    decoder: Any,
    towers: Sequence[nn.Module],
    adapter: AdapterConfig | None,
    *,
    base: tuple[int, int, int, int],
    vision: tuple[int, int, int],
    audio: tuple[int, int, int],
    **options: Any,
) -> Shape:
    """Put a shape together from a model on the meta device.

    Args:
        source: Where the sizes come from.
        model: The model, adapters inserted and frozen weights frozen.
        text: Config of its language model.
        decoder: The language model inside it.
        towers: Its encoders.
        adapter: Its adapters, if any.
        base: See :func:`adapted`.
        vision: See ``Shape``.
        audio: See ``Shape``.
        options: Fields of ``Shape`` that differ from the native paradigm's.
    """
    from crab_lightning.adapters import LoRALinear

    whole, in_decoder, in_towers, layer = base
    first = [m for m in decoder.layers[0].modules() if isinstance(m, LoRALinear)]
    trained = [p for p in model.parameters() if p.requires_grad]
    trains_all = len(trained) == len(list(model.parameters())) and adapter is None
    trains_towers = any(p.requires_grad for t in towers for p in t.parameters())
    # The experts of a layer lie in parameters of three dimensions, the first of which counts them.
    # So do the parts of some adapters, which are none.
    adapters = {
        id(p) for m in decoder.modules() if isinstance(m, LoRALinear) for p in m.parameters(recurse=False)
    }
    experts = count(p for p in decoder.layers.parameters() if p.ndim == 3 and id(p) not in adapters)
    on_experts = [m for m in first if m.experts]
    ffn, idle, idle_adapters, expert_values = text.intermediate_size, 0, 0, 0
    if experts:
        chosen = text.num_experts_per_tok
        ffn = text.moe_intermediate_size * chosen
        idle = experts - experts * chosen // text.num_experts
        added = text.num_hidden_layers * count(p for m in on_experts for p in m.parameters(recurse=False))
        idle_adapters = added - added * chosen // text.num_experts
        # Each pair of a token and an expert: input, latent, what B reads; the mask of dropout has a byte.
        expert_values = chosen * sum(
            m.in_features * (3 if m.config.dropout else 2) // 2 + m.rank * (1 + m.heads) for m in on_experts
        )
    return Shape(
        source=source,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        ffn=ffn,
        idle=idle,
        idle_adapters=idle_adapters,
        expert_values=expert_values,
        heads=text.num_attention_heads,
        head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=text.vocab_size,
        decoder=in_decoder,
        towers=in_towers,
        layer=layer,
        rest=whole - in_decoder - in_towers,
        vision=vision,
        audio=audio,
        adapters=0 if trains_all else count(trained),
        layer_adapters=count(p for m in first for p in m.parameters(recurse=False)),
        adapted=len(first) - len(on_experts),
        rank=0 if adapter is None else adapter.rank,
        routes=next((m.heads for m in first if m.routed), 0),
        adapter_bytes=2 if adapter is not None and adapter.dtype == "bfloat16" else 4,
        trains_towers=trains_towers,
        **options,
    )


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Return the number of values in parameters."""
    return sum(p.numel() for p in parameters)
