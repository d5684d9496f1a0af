"""Measures the sizes of a model, from which memory and time follow, on the meta device without weights."""

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
    from crab_lightning.models.connectors import ConnectorConfig
    from crab_lightning.models.native import OmniModule
    from crab_lightning.processing.families import Reader

_SIZES = Path(__file__).with_name("published_sizes.yaml")
"""Sizes of published checkpoints, so that `plan` needs neither a network nor weights."""

SAMPLE: dict[str, dict[str, Any]] = {
    # a pair of frames has 49 tokens instead of 64, and a second of sound has 13 instead of 25
    "Qwen3OmniModule": {"sample_tokens": (530, 1035), "patches": 980}
}
"""Sizes of a sample of AV-UIE v2 for classes in which they differ from those of Qwen2.5-Omni."""


@dataclass(frozen=True)
class ConnectorShape:
    """The sizes of a connector that is trained.

    Args:
        config: The sizes of its Q-Former.
        encoder_width: Width of the features that the connector reads.
        encoder_tokens: Number of features in a sample.
        groups: Number of frames, seconds or windows of a sample.
        width: Width of the decoder.
    """

    config: ConnectorConfig
    encoder_width: int
    encoder_tokens: int
    groups: int
    width: int

    @property
    def kept_bytes(self) -> float:
        """Bytes that the connector keeps of a sample for the backward pass, in float32.

        It keeps the features before and after the norm once. Each layer keeps the keys, values and attention
        of the features, and the attention and activations of the queries. The projection keeps input and
        output.
        """
        c = self.config
        drop = 8 if c.dropout else 0  # the mask and the result of dropout
        read = self.encoder_tokens * (8 * self.encoder_width + 8)
        across = self.encoder_tokens * (8 * c.hidden + c.heads * c.queries * (4 + drop))
        places = self.groups * c.queries
        among = places * c.heads * c.queries * (4 + drop)
        within = 4 * places * ((7 + drop) * c.hidden + 2 * c.ffn)
        projected = 4 * places * (2 * c.hidden + 2 * self.width)
        return read + c.layers * (across + among + within) + projected


@dataclass(frozen=True)
class Shape:
    """The numbers of parameters and the widths of a model with its adapters.

    Args:
        source: Where the sizes come from, as text.
        layers: Number of decoder layers.
        hidden: Width of the decoder.
        ffn: Inner width of the feed-forward layers. With experts, the sum over the experts of one token.
        heads: Number of query heads.
        head_width: Width of a head.
        vocabulary: Number of tokens in the vocabulary.
        decoder: Number of parameters in all decoder layers.
        towers: Number of parameters in the towers.
        layer: Number of parameters in the largest layer of the model, without adapters.
        rest: Number of parameters outside of the decoder layers and the towers, such as embeddings.
        vision: Width, feed-forward width and number of parameters of the vision tower.
        audio: Width, feed-forward width and number of parameters of the audio tower.
        adapters: Number of trained parameters: those of adapters and connectors. 0 if everything is trained.
        layer_adapters: Number of adapter parameters in one decoder layer.
        adapted: Number of adapted linear layers in one decoder layer, without experts.
        rank: Rank of the adapters.
        routes: Number of heads that a router weights; 0 without a router.
        adapter_bytes: Size of an adapter weight in bytes.
        trains_towers: Whether weights in the towers are trained too.
        connectors: The connectors that are trained.
        sample_tokens: Mean number of tokens in a sample of AV-UIE v2, and the number in the longest samples.
        patches: Number of vision patches in a sample of ten frames.
        idle: Number of parameters of the experts that a token does not use, in all decoder layers.
        idle_adapters: Number of parameters of the adapters on these experts.
        expert_values: Values that the adapters on experts keep for the backward pass, for each token and
            layer.
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
        """Number of parameters of the base model, with the towers."""
        return self.decoder + self.towers + self.rest


def known_config(
    group: str, key: str, name: str, kind: Any, reader: type[Reader] | None = None, *, part: bool = False
) -> tuple[Any, str]:
    """Return the config of a checkpoint, and a text that says where the config comes from.

    The config is the config.json of a folder, or is made from the published sizes in this package.

    Args:
        group: Group of the published sizes: ``native`` or ``composite``.
        key: Key that names the checkpoint, for messages.
        name: Folder or known name of the checkpoint.
        kind: Class of the config.
        reader: Processor of the model that reads the checkpoint. Without it, the ``model_type`` of the
            checkpoint is not checked.
        part: Whether config.json may be that of a larger model, from which ``kind`` reads a part.

    Raises:
        FileNotFoundError: If ``name`` is neither a folder with a config.json nor a name with published sizes.
        ValueError: If ``reader`` cannot read a checkpoint of this ``model_type``.
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
    """Build a thinker with its adapters on the meta device, and return its sizes.

    Args:
        pretrained: Folder or known name of the checkpoint.
        adapter: The adapters; ``None`` trains every weight.
        module: Class that reads the checkpoint. By default, this is ``OmniModule``.

    Raises:
        FileNotFoundError: If the sizes of the checkpoint are not known.
        ValueError: If the checkpoint is of another architecture.
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
    """Count the parameters of the base model, and then insert the adapters, if any.

    Args:
        model: The model, on the meta device.
        decoder: The language model in ``model``.
        towers: The encoders in ``model``.
        adapter: The adapters to insert, if any.
        trained: Connectors that are trained. They do not count as parts of the base model.

    Returns:
        Number of parameters of the base model, of its decoder layers, of its towers and of its largest layer.
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
    """Return the sizes of a model on the meta device.

    Args:
        source: Where the sizes come from, as text.
        model: The model, with its adapters inserted and its frozen weights frozen.
        text: Config of the language model.
        decoder: The language model in ``model``.
        towers: The encoders in ``model``.
        adapter: The adapters, if any.
        base: The result of :func:`adapted`.
        vision: See ``Shape``.
        audio: See ``Shape``.
        options: Fields of ``Shape`` that differ from those of the native architecture.
    """
    from crab_lightning.adapters import LoRALinear

    whole, in_decoder, in_towers, layer = base
    first = [m for m in decoder.layers[0].modules() if isinstance(m, LoRALinear)]
    trained = [p for p in model.parameters() if p.requires_grad]
    trains_all = len(trained) == len(list(model.parameters())) and adapter is None
    trains_towers = any(p.requires_grad for t in towers for p in t.parameters())
    # The experts of a layer are parameters of three dimensions, and the first dimension is their number.
    # The parts of some adapters have three dimensions too, but are not experts.
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
        # For each token and expert: input, low-rank activation, input of B, and a byte of dropout.
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
    """Return the number of values in all parameters."""
    return sum(p.numel() for p in parameters)
